"""Builds the dataset of Fashion-MNIST's four IDX files: pictures of clothes, each with its label.

The labels 0 to 9 are T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag and Ankle boot (Xiao,
Rasul & Vollgraf 2017); the dataset holds the numbers alone, so that a recipe over MNIST fits it as it is.
"""

from __future__ import annotations

from pathlib import Path

from modalkit.plugin import Builder

from ..execution.shards import write
from .idx import FASHION_MNIST, IdxOptions, load, schemas

VERSION = 1
"""Raised whenever the same files would give other bytes."""


class FashionMnistOptions(IdxOptions):
    """What `modalkit build-dataset fashion-mnist` can be told."""


def build(options: FashionMnistOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: a file is missing or not Fashion-MNIST's, the download failed, or `out` holds something else.
        RunError: the disk is full.
    """
    rows = load(FASHION_MNIST, options)
    return write(out, {"name": "fashion-mnist", "version": VERSION}, schemas(), len(rows.keys), rows.part)


BUILDER = Builder(
    name="fashion-mnist",
    summary="pictures of clothes and their labels, from Fashion-MNIST's four files",
    options=FashionMnistOptions,
    build=build,
)
