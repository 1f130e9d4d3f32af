"""Builds MNIST in black and white: every pixel is drawn once, its intensity the probability of white.

This is the fixed binarisation (Salakhutdinov & Murray 2008, Larochelle & Murray 2011): the same pictures in every
epoch. The dynamic one, which draws anew at every step, is ``binarize: true`` on the image in a recipe over the `mnist`
dataset.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from modalkit.plugin import Builder

from ..execution.shards import write
from .idx import MNIST, IdxOptions, load, schemas

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

VERSION = 1
"""Raised whenever the same files and options would give other bytes."""


class BinaryMnistOptions(IdxOptions):
    """What `modalkit build-dataset binary-mnist` can be told."""

    seed: int = Field(0, ge=0, description="other seeds draw other pixels")


def binarize(image: npt.NDArray[np.uint8], seed: int, row: int) -> npt.NDArray[np.uint8]:
    """Draw each pixel as white (255) with probability `intensity / 255`, else black (0).

    Args:
        image: bytes, of any shape.
        seed: decides the draw together with `row`.
        row: the picture's place in the dataset.

    Returns:
        0 or 255, of the same shape.
    """
    import numpy as np

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))
    return np.where(rng.random(image.shape) * 255 < image, np.uint8(255), np.uint8(0))


def _binary(rows: Rows, part: slice, seed: int) -> Rows:
    """Return the slice `part` of the rows with their pictures binarised."""
    import numpy as np

    some = rows.part(part)
    numbers = range(part.start, part.stop)
    images = [binarize(image, seed, row) for image, row in zip(some.values["image"], numbers, strict=True)]
    some.values["image"] = np.stack(images)
    return some


def build(options: BinaryMnistOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, or `out` holds something else.
        RunError: the disk is full.
    """
    import numpy as np

    rows = load(MNIST, options)
    about = {
        "name": "binary-mnist",
        "version": VERSION,
        "seed": options.seed,
        "libraries": {"numpy": np.__version__},
    }
    return write(out, about, schemas(), len(rows.keys), lambda part: _binary(rows, part, options.seed))


BUILDER = Builder(
    name="binary-mnist",
    summary="MNIST with every pixel drawn once as black or white",
    options=BinaryMnistOptions,
    build=build,
)
