"""Builds MultiMNIST: pictures of 0 to 4 MNIST digits at fixed places, each with the string of its digits.

The dataset of Wu & Goodman 2018, after Eslami et al. 2016: a canvas of 50 x 50 pixels, digits of 21 x 21, and the text
reads from the top left to the bottom right. A row's split decides which digits it may show, so that no digit of a
training picture is ever seen in another split.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from modalkit.plugin import Builder, Schema

from ..execution.shards import write
from .idx import MNIST, SIDE, IdxOptions, load

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

VERSION = 1
"""Raised whenever the same files and options would give other bytes."""
CANVAS = 50
"""Side of a picture, in pixels."""
DIGIT = int(SIDE / 1.3)
"""Side of a digit in it, in pixels: 21."""
CORNERS = ((4, 4), (4, 23), (23, 4), (23, 23))
"""Row and column of the top left pixel of each digit, in the order of the text; neighbours overlap by two pixels."""


class MultiMnistOptions(IdxOptions):
    """What `modalkit build-dataset multimnist` can be told."""

    train: int = Field(50_000, ge=1, description="pictures that train, of MNIST's first 50,000 training digits")
    valid: int = Field(10_000, ge=1, description="pictures that validate, of its last 10,000 training digits")
    test: int = Field(10_000, ge=1, description="pictures that test, of its test digits")
    seed: int = Field(0, ge=0, description="other seeds draw other pictures")


def make_schemas() -> dict[str, Schema]:
    """Return the schemas of the picture and its text."""
    from modalkit.registry import schema

    return {
        "image": schema("image", size=CANVAS, channels=1),
        "text": schema("tokens", alphabet="0123456789", max_length=len(CORNERS)),
    }


def pick(pool: npt.NDArray[np.int64], seed: int, split: int, number: int) -> npt.NDArray[np.int64]:
    """Draw which digits a picture shows: how many is uniform from 0 to 4, and so is each of them in the pool.

    Args:
        pool: the digits that the split may show, by their rows in MNIST.
        seed: decides the draw, together with the following two.
        split: index into `modalkit.data.SPLITS`.
        number: the picture's place in its split.

    Returns:
        Members of the pool, in the order of the text, `(digits,)`.
    """
    import numpy as np

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, number)))
    count = int(rng.integers(len(CORNERS) + 1))
    return pool[rng.integers(len(pool), size=count)]


def shrink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize digits by area, uint8 `(n, 28, 28)` to `(n, 21, 21)`."""
    import cv2
    import numpy as np

    return np.stack([cv2.resize(image, (DIGIT, DIGIT), interpolation=cv2.INTER_AREA) for image in images])


def compose(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay digits, uint8 `(0 to 4, 21, 21)`, on a black canvas `(50, 50)`; where two meet, the brighter pixel stays."""
    import numpy as np

    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for digit, (top, left) in zip(digits, CORNERS, strict=False):
        place = canvas[top : top + DIGIT, left : left + DIGIT]
        np.maximum(place, digit, out=place)
    return canvas


class Painter:
    """Makes rows of the dataset; row i is a function of the seed, its split and its place there alone.

    Args:
        mnist: MNIST's rows.
        options: the counts and the seed.
        text: the schema of the texts.
    """

    def __init__(self, mnist: Rows, options: MultiMnistOptions, text: Schema) -> None:
        import numpy as np

        self.digits, self.labels = shrink(mnist.values["image"][:, 0]), mnist.values["label"]
        self.pools = [np.flatnonzero(mnist.split == split) for split in range(3)]
        counts = [options.train, options.valid, options.test]
        self.rows = [(split, number) for split, count in enumerate(counts) for number in range(count)]
        self.seed, self.text = options.seed, text

    def __call__(self, part: slice) -> Rows:
        """Make a slice of the rows."""
        import numpy as np

        from modalkit.data import SPLITS, Rows
        from modalkit.registry import modality

        rows, read = self.rows[part], modality("tokens").read
        picked = [pick(self.pools[split], self.seed, split, number) for split, number in rows]
        texts = ["".join(map(str, self.labels[digits])) for digits in picked]
        return Rows(
            {
                "image": np.stack([compose(self.digits[digits]) for digits in picked])[:, None],
                "text": np.stack([read(self.text, text).numpy() for text in texts]),
            },
            {name: np.ones(len(rows), bool) for name in ("image", "text")},
            np.array([split for split, _ in rows], np.uint8),
            [f"{SPLITS[split]}/{number:05d}" for split, number in rows],
        )


def build(options: MultiMnistOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, or `out` holds something else.
        RunError: the disk is full.
    """
    import cv2
    import numpy as np

    schemas = make_schemas()
    painter = Painter(load(MNIST, options), options, schemas["text"])
    about: dict[str, Any] = {
        "name": "multimnist",
        "version": VERSION,
        **options.model_dump(include={"train", "valid", "test", "seed"}),
        "libraries": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    return write(out, about, schemas, len(painter.rows), painter)


BUILDER = Builder(
    name="multimnist",
    summary="pictures of 0 to 4 MNIST digits, each with the string of its digits",
    options=MultiMnistOptions,
    build=build,
)
