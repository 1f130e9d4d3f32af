"""modalkit: multimodal generative models for arbitrary N-modal data with missing modalities.

The names below load on first use, so that ``import modalkit`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalkit.api import train
    from modalkit.data import Batch, Dataset, join, write_dataset
    from modalkit.inference import TrainedModel, annotate, load
    from modalkit.plugin import Modality, Schema
    from modalkit.recipe import Recipe
    from modalkit.registry import schema

__version__ = "0.1.0"

_HOME = {
    "Batch": "modalkit.data",
    "Dataset": "modalkit.data",
    "write_dataset": "modalkit.data",
    "TrainedModel": "modalkit.inference",
    "annotate": "modalkit.inference",
    "join": "modalkit.data",
    "load": "modalkit.inference",
    "Modality": "modalkit.plugin",
    "Recipe": "modalkit.recipe",
    "Schema": "modalkit.plugin",
    "schema": "modalkit.registry",
    "train": "modalkit.api",
}

__all__ = [
    "Batch",
    "Dataset",
    "Modality",
    "Recipe",
    "Schema",
    "TrainedModel",
    "__version__",
    "annotate",
    "join",
    "load",
    "schema",
    "train",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'modalkit' has no attribute {name!r}")
