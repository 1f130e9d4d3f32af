"""A trained model asked for anything given anything: predictions, posteriors, filled gaps, samples, likelihoods."""

from modalkit.inference.prediction import Prediction
from modalkit.inference.trained import Embedding, Imputed, Inference, TrainedModel, load
from modalkit.inference.values import Given, as_batch

__all__ = ["Embedding", "Given", "Imputed", "Inference", "Prediction", "TrainedModel", "as_batch", "load"]
