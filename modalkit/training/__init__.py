"""Training: fitting a recipe to its dataset, in a run folder from which it can be resumed.

`train` loads on first use, so that the schedules, which recipes name, do not wait for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalkit.training.trainer import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module("modalkit.training.trainer").train
    raise AttributeError(f"module 'modalkit.training' has no attribute {name!r}")
