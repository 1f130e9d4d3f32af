"""A trained model asked for anything given anything: predictions, posteriors, filled gaps, samples, likelihoods."""

from modalkit.inference.prediction import Prediction
from modalkit.inference.results import Embedding, Imputed, Inference
from modalkit.inference.trained import TrainedModel, load
from modalkit.inference.values import Given, as_batch

__all__ = ["Embedding", "Given", "Imputed", "Inference", "Prediction", "TrainedModel", "as_batch", "load"]
