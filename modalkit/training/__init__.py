"""Training: fitting a recipe to its dataset, in a run folder from which it can be resumed.

The names below load on first use, so that the schedules, which recipes name, do not wait for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalkit.util.lazy import on_first_use

if TYPE_CHECKING:
    from modalkit.training.run import train
    from modalkit.training.trainer import Result

__all__ = ["Result", "train"]

__getattr__ = on_first_use(__name__, {"Result": "modalkit.training.trainer", "train": "modalkit.training.run"})
