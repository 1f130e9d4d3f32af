"""A package for a new modality kind, which works as it is and is there to be changed."""

from __future__ import annotations

from pathlib import Path

from modalkit import registry
from modalkit.scaffold._package import write_package


def new_modality(kind: str, out: Path) -> list[Path]:
    """Write an installable package: the kind in one module, its test, a dataset, a recipe, README and pyproject.toml.

    Args:
        kind: the name that recipes will use.
        out: the package's folder; created if necessary. Other files in it stay.

    Returns:
        The files.

    Raises:
        InputError: the name cannot be used, or a file exists already; nothing is written then.
    """
    return write_package("modality", registry.KINDS, "kind", kind, out)
