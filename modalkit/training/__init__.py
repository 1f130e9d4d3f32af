"""Training: fitting a recipe to its dataset, in a run folder from which it can be resumed.

The names below load on first use, so that the schedules, which recipes name, do not wait for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalkit.training.run import train
    from modalkit.training.trainer import Result

__all__ = ["Result", "train"]

_MODULES = {"Result": "trainer", "train": "run"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"modalkit.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'modalkit.training' has no attribute {name!r}")
