"""Evaluation of trained models: likelihoods by importance sampling, accuracies, coherence."""

from modalkit.evaluation.likelihood import Estimate
from modalkit.evaluation.questions import Answer, Asking, Question, ask
from modalkit.evaluation.report import evaluate

__all__ = ["Answer", "Asking", "Estimate", "Question", "ask", "evaluate"]
