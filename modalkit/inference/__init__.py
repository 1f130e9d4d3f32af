"""A trained model that answers questions: predictions, posteriors, filled gaps, samples, likelihoods."""

from modalkit.inference.annotated import annotate
from modalkit.inference.loading import load
from modalkit.inference.results import Embedding, Imputed, Inference
from modalkit.inference.trained import TrainedModel
from modalkit.inference.values import Given, as_batch
from modalkit.model.prediction import Prediction

__all__ = ["Embedding", "Given", "Imputed", "Inference", "Prediction", "TrainedModel", "annotate", "as_batch", "load"]
