"""Run folders: their paths, which recipe they belong to, their log and saved state, and how a run is opened again."""

from modalkit.runs.folder import RunFolder
from modalkit.runs.opened import Run, load_run

__all__ = ["Run", "RunFolder", "load_run"]
