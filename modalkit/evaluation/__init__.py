"""Evaluation of trained models: likelihoods by importance sampling, accuracies, coherence."""
