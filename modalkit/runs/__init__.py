"""Run folders: their files and the recipe that they belong to, metrics, saved state, and opening trained runs.

The names below load on first use, so that finding a recipe does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalkit.util.lazy import on_first_use

if TYPE_CHECKING:
    from modalkit.runs.folder import RunFolder
    from modalkit.runs.opened import Run, load_run

__all__ = ["Run", "RunFolder", "load_run"]

__getattr__ = on_first_use(
    __name__,
    {
        "Run": "modalkit.runs.opened",
        "RunFolder": "modalkit.runs.folder",
        "load_run": "modalkit.runs.opened",
    },
)
