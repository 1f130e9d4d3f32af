"""Evaluation of trained models: questions, metrics, translations, picture sheets, and `modalkit evaluate`."""
