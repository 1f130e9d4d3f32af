"""Training from Python: one function that takes a recipe and data in any form, and returns a trained model."""

from modalkit.api.training import train

__all__ = ["train"]
