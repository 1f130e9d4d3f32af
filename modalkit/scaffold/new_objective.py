"""A package for a new objective, which works as it is and is there to be changed."""

from __future__ import annotations

from pathlib import Path

from modalkit import registry
from modalkit.scaffold._package import write_package


def new_objective(name: str, out: Path) -> list[Path]:
    """Write an installable package: the objective in one module, its test, a dataset, a recipe, README, pyproject.toml.

    Args:
        name: the name that recipes will use.
        out: the package's folder; created if necessary. Other files in it stay.

    Returns:
        The files.

    Raises:
        InputError: the name cannot be used, or a file exists already; nothing is written then.
    """
    return write_package("objective", registry.OBJECTIVES, "objective", name, out)
