"""Evaluation of trained models: questions, metrics, translations, picture sheets, and `modalkit evaluate`."""

from modalkit.evaluation.evaluate import evaluate
from modalkit.evaluation.likelihood import Estimate
from modalkit.evaluation.metrics.log_likelihood import Answer, ask
from modalkit.evaluation.questions import Asking, Question

__all__ = ["Answer", "Asking", "Estimate", "Question", "ask", "evaluate"]
