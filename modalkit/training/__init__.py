"""Training: fits a recipe's model to its dataset, in a run folder that can be resumed."""

from modalkit.training.trainer import Result, train

__all__ = ["Result", "train"]
