"""Builds the dataset of MNIST's four IDX files: pictures of digits, each with its label."""

from __future__ import annotations

from pathlib import Path

from modalkit.plugin import Builder

from ..execution.shards import write
from .idx import MNIST, IdxOptions, load, schemas

VERSION = 1
"""Raised whenever the same files would give other bytes."""


class MnistOptions(IdxOptions):
    """What `modalkit build-dataset mnist` can be told."""


def build(options: MnistOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, or `out` holds something else.
        RunError: the disk is full.
    """
    rows = load(MNIST, options)
    return write(out, {"name": "mnist", "version": VERSION}, schemas(), len(rows.keys), rows.part)


BUILDER = Builder(
    name="mnist",
    summary="handwritten digits and their labels, from MNIST's four files",
    options=MnistOptions,
    build=build,
)
