"""Training: a recipe fitted to its dataset, in a run folder that can be resumed."""

from modalkit.training.trainer import train

__all__ = ["train"]
