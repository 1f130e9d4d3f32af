"""Builds a dataset like PolyMNIST: several views of one digit, each in another handwriting on another background.

PolyMNIST (Sutter et al. 2021) has five views. All views of a row show the same digit, but each shows another picture of
it, on a random crop of the view's own background. Here the backgrounds are pictures that scikit-image installs, so that
nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Builder, Schema
from modalkit.util.picture_files import read_picture

from ..execution.shards import write
from .idx import CLASSES, MNIST, SIDE, IdxOptions, load
from .small_digits import load_small

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

_log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same files and options would give other bytes."""
BACKGROUNDS = (
    "coffee.png",
    "ihc.png",
    "grass.png",
    "chelsea.png",
    "gravel.png",
    "astronaut.png",
    "motorcycle_left.png",
    "brick.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "rocket.jpg",
    "retina.jpg",
)
"""Pictures that scikit-image installs, in the order of the views."""


class PolyMnistOptions(IdxOptions):
    """What `modalkit build-dataset poly-mnist` can be told."""

    digits: Literal["auto", "mnist", "sklearn"] = Field(
        "auto",
        description="mnist: MNIST's files; sklearn: the 1,797 digits of scikit-learn; auto: the first unless neither "
        "--source nor --download is given and the files are not there",
    )
    views: int = Field(
        5, ge=1, le=len(BACKGROUNDS), description="pictures of a row, each a modality: view0, view1, ..."
    )
    train: int = Field(50_000, ge=1, description="rows that train, of the digits that train")
    valid: int = Field(10_000, ge=1, description="rows that validate, of the digits that validate")
    test: int = Field(10_000, ge=1, description="rows that test, of the digits that test")
    shard_rows: int = Field(1000, ge=1, description="rows a file")
    seed: int = Field(0, ge=0, description="other seeds draw other rows")


def make_schemas(views: int) -> dict[str, Schema]:
    """Return the schemas of so many views and of the label."""
    from modalkit.registry import schema

    pictures = {f"view{view}": schema("image", size=SIDE, channels=3) for view in range(views)}
    return pictures | {"label": schema("label", classes=CLASSES)}


def load_digits(options: PolyMnistOptions) -> tuple[str, Rows]:
    """Return where the digits are from, and the digits.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, or scikit-learn is not installed.
    """
    if options.digits == "sklearn":
        return "sklearn", load_small()
    try:
        return "mnist", load(MNIST, options)
    except InputError as missing:
        if options.digits == "mnist" or options.source is not None or options.download:
            raise
        try:
            small = load_small()
        except InputError as error:
            raise InputError(f"{missing}; scikit-learn's digits would do, too, but: {error}") from None
    _log.info("MNIST's files are not there, so the digits are scikit-learn's 1,797; --source names a folder of MNIST's")
    return "sklearn", small


def backgrounds(views: int) -> tuple[list[npt.NDArray[np.uint8]], str]:
    """Return the background of each view, uint8 `(height, width, 3)`, and a digest of their files.

    Raises:
        InputError: this installation of scikit-image has not all of them.
    """
    import numpy as np
    import skimage

    folder, digest, pictures = Path(skimage.__file__).parent / "data", hashlib.sha256(), []
    for name in BACKGROUNDS[:views]:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: is missing, and scikit-image should install it; install "
                f"scikit-image again, or choose fewer views than {BACKGROUNDS.index(name) + 1}"
            )
        content = (folder / name).read_bytes()
        digest.update(content)
        pictures.append(np.asarray(read_picture(content, "RGB")))
    return pictures, digest.hexdigest()


def compose(digit: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Paint a digit on a crop: white on dark ones, black on others; its intensity is the share of the paint.

    Args:
        digit: uint8 `(28, 28)`.
        crop: uint8 `(28, 28, 3)`.

    Returns:
        uint8 `(3, 28, 28)`.
    """
    import numpy as np

    share = digit[..., None].astype(np.uint32)  # (28, 28, 1)
    paint = 255 if crop.mean() < 128 else 0
    painted = (crop * (255 - share) + paint * share + 127) // 255  # whole numbers, the same on every machine
    return painted.astype(np.uint8).transpose(2, 0, 1)


class Painter:
    """Makes rows of the dataset. Row i is a function of the seed, its split and its place there alone.

    A view is a function of these and its number, so that more views leave the others as they are.

    Args:
        digits: rows of digits, with the splits that may show them.
        pictures: the background of each view.
        options: the counts and the seed.
    """

    def __init__(self, digits: Rows, pictures: list[npt.NDArray[np.uint8]], options: PolyMnistOptions) -> None:
        import numpy as np

        self.images, self.labels, self.pictures = digits.values["image"][:, 0], digits.values["label"], pictures
        self.pools = [np.flatnonzero(digits.split == split) for split in range(3)]
        self.alike = [[pool[self.labels[pool] == label] for label in range(CLASSES)] for pool in self.pools]
        counts = [options.train, options.valid, options.test]
        self.rows = [(split, number) for split, count in enumerate(counts) for number in range(count)]
        self.seed = options.seed

    def __call__(self, part: slice) -> Rows:
        """Make a slice of the rows."""
        import numpy as np

        from modalkit.data import SPLITS, Rows

        rows = self.rows[part]
        labels = [self.label(split, number) for split, number in rows]
        values: dict[str, Any] = {
            f"view{view}": np.stack([self.view(*row, label, view) for row, label in zip(rows, labels, strict=True)])
            for view in range(len(self.pictures))
        }
        values["label"] = np.array(labels, np.int64)
        return Rows(
            values,
            {name: np.ones(len(rows), bool) for name in values},
            np.array([split for split, _ in rows], np.uint8),
            [f"{SPLITS[split]}/{number:05d}" for split, number in rows],
        )

    def label(self, split: int, number: int) -> int:
        """Draw a row's digit: that of a picture of its split, chosen uniformly."""
        pool = self.pools[split]
        return int(self.labels[pool[self._rng(split, number).integers(len(pool))]])

    def view(self, split: int, number: int, label: int, view: int) -> npt.NDArray[np.uint8]:
        """Draw a picture of the digit and a crop of the view's background, and compose them: uint8 `(3, 28, 28)`."""
        rng, pool, picture = self._rng(split, number, 1 + view), self.alike[split][label], self.pictures[view]
        digit = self.images[pool[rng.integers(len(pool))]]
        top, left = (int(rng.integers(size - SIDE + 1)) for size in picture.shape[:2])
        return compose(digit, picture[top : top + SIDE, left : left + SIDE])

    def _rng(self, *purpose: int) -> np.random.Generator:
        """Return a generator of the seed and what is drawn."""
        import numpy as np

        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))


def build(options: PolyMnistOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, scikit-learn or scikit-image lacks what it
            should bring, or `out` holds something else.
        RunError: the disk is full.
    """
    import cv2
    import numpy as np

    pictures, digest = backgrounds(options.views)
    name, digits = load_digits(options)
    painter = Painter(digits, pictures, options)
    about: Mapping[str, Any] = {
        "name": "poly-mnist",
        "version": VERSION,
        **options.model_dump(include={"views", "train", "valid", "test", "shard_rows", "seed"}),
        "digits": name,
        "backgrounds": digest,
        "libraries": {"numpy": np.__version__, **({"opencv": cv2.__version__} if name == "sklearn" else {})},
    }
    schemas, rows = make_schemas(options.views), options.shard_rows
    return write(out, about, schemas, len(painter.rows), painter, shard_rows=rows, what="rows")


BUILDER = Builder(
    name="poly-mnist",
    summary="several views of a digit, each in another handwriting on another background, like PolyMNIST",
    options=PolyMnistOptions,
    build=build,
)
