"""Run folders: their files and the recipe that they belong to, metrics, saved state, and opening trained runs."""

from modalkit.runs.folder import RunFolder
from modalkit.runs.opened import Run, load_run

__all__ = ["Run", "RunFolder", "load_run"]
