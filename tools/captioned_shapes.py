"""Draws coloured shapes with captions that name what they show: a dataset in which every right answer is known.

Row i is a function of the seed, the difficulty, the size, its split and its place there alone: more rows leave the
others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from modalkit.plugin import Builder, Schema, Settings

from .execution.shards import write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

VERSION = 1
"""Raised whenever the same options would give other bytes."""
COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "blue": (0.2, 0.4, 0.9), "yellow": (0.95, 0.85, 0.2)}
"""Mean red, green and blue, from 0 to 1."""
WORDS = {
    "size": ("small", "large"),
    "colour": tuple(COLOURS),
    "shape": ("circle", "square", "triangle"),
    "side": ("left", "right"),
}
"""The values of each attribute, in the order in which a caption names them."""
NAMED: dict[int, tuple[str, ...]] = {
    1: ("colour", "shape"),
    2: ("size", "colour", "shape", "side"),
    3: ("size", "colour", "shape"),
}
"""What a caption says of a shape at each difficulty."""
RADII: dict[int, dict[str, tuple[float, float]]] = {
    1: {"large": (0.24, 0.3)},
    2: {"small": (0.15, 0.19), "large": (0.24, 0.3)},
    3: {"small": (0.09, 0.12), "large": (0.17, 0.22)},
}
"""Bounds of the radius, as fractions of the picture's side."""
_CENTRES = {"middle": 0.5, "left": 0.32, "right": 0.68}
_HALVES = {"left": 0.26, "right": 0.74}
_BETWEEN = " left of "
"""What stands between the captions of two shapes."""
_SHARPER = 4
"""A pixel is the mean of so many points in each direction."""


class CaptionedShapesOptions(Settings):
    """What `modalkit build-dataset captioned-shapes` can be told."""

    difficulty: int = Field(
        2,
        ge=1,
        le=3,
        description="1: a shape in the middle, its colour and kind named; 2: large or small, left or right, which is "
        "named too; 3: two such shapes",
    )
    size: int = Field(32, ge=12, le=256, description="width and height of the pictures in pixels")
    train: int = Field(8000, ge=1, description="rows that train")
    valid: int = Field(1000, ge=1, description="rows that validate")
    test: int = Field(1000, ge=1, description="rows that test")
    shard_rows: int = Field(1000, ge=1, description="rows a file")
    seed: int = Field(0, ge=0, description="other seeds draw other rows")


@dataclass(frozen=True)
class Drawn:
    """One shape of a picture.

    Attributes:
        attributes: its size, colour, shape and side; see `WORDS`.
        x: of its centre from the left, as a fraction of the picture's side.
        y: from the top.
        radius: half its height, likewise.
    """

    attributes: dict[str, str]
    x: float
    y: float
    radius: float


def make_schemas(difficulty: int, size: int) -> dict[str, Schema]:
    """Return the schemas of picture, caption, attributes and geometry."""
    from modalkit.registry import schema

    longest = [max(len(word) for word in WORDS[name]) for name in NAMED[difficulty]]
    length = sum(longest) + len(longest) - 1
    if difficulty == 3:
        length += len(_BETWEEN) + length
    alphabet = "".join(sorted(set(" " + _BETWEEN).union(*(word for words in WORDS.values() for word in words))))
    attributes = {
        f"{before}{name}": schema("label", names=list(WORDS[name]))
        for before in _prefixes(difficulty)
        for name in NAMED[difficulty]
    }
    geometry = {f"{before}geometry": schema("vector", size=3) for before in _prefixes(difficulty)}
    return {
        "picture": schema("image", size=size, likelihood="gaussian", scale="shared"),
        "caption": schema("tokens", alphabet=alphabet, max_length=length),
        **attributes,
        **geometry,
    }


def _prefixes(difficulty: int) -> tuple[str, ...]:
    """Return what the names of each shape's attributes begin with."""
    return ("left_", "right_") if difficulty == 3 else ("",)


def invent(rng: np.random.Generator, difficulty: int) -> list[Drawn]:
    """Return the shapes of one picture, from left to right; all values of an attribute are equally likely."""
    shapes = []
    for half in ("left", "right") if difficulty == 3 else ("",):
        drawn = {name: words[int(rng.integers(len(words)))] for name, words in WORDS.items()}
        if difficulty == 1:
            drawn |= {"size": "large", "side": "middle"}
        centre = _HALVES[half] if half else _CENTRES[drawn["side"]]
        wander = 0.02 if half else 0.05
        x, y = centre + rng.uniform(-wander, wander), 0.5 + rng.uniform(-0.07, 0.07)
        shapes.append(Drawn(drawn, float(x), float(y), float(rng.uniform(*RADII[difficulty][drawn["size"]]))))
    return shapes


def caption(shapes: list[Drawn], difficulty: int) -> str:
    """Return the words of the attributes that a difficulty names, shape after shape.

    >>> red = Drawn({"size": "small", "colour": "red", "shape": "circle", "side": "left"}, 0.3, 0.5, 0.1)
    >>> caption([red], 2)
    'small red circle left'
    """
    return _BETWEEN.join(" ".join(shape.attributes[name] for name in NAMED[difficulty]) for shape in shapes)


def paint(shapes: list[Drawn], size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a picture `(3, size, size)`: shapes of slightly varying colours on dark gray, with a little noise."""
    import numpy as np

    dark = rng.uniform(0.05, 0.2)
    picture = np.full((size, size, 3), dark)
    at = (np.arange(size * _SHARPER) + 0.5) / (size * _SHARPER)  # from 0 to 1
    for shape in shapes:
        right, down, radius = at[None, :] - shape.x, at[:, None] - shape.y, shape.radius
        inside = {
            "circle": right**2 + down**2 < radius**2,
            "square": np.maximum(abs(right), abs(down)) < 0.9 * radius,
            "triangle": (down < 0.8 * radius) & (1.6 * abs(right) < down + radius),
        }[shape.attributes["shape"]]
        # (size * sharper, size * sharper) -> (size, size, 1)
        cover = inside.reshape(size, _SHARPER, size, _SHARPER).mean((1, 3))[..., None]
        colour = np.array(COLOURS[shape.attributes["colour"]]) + rng.normal(0, 0.05, 3)
        picture += cover * (colour - picture)
    picture += rng.normal(0, 0.02, picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1)


class Painter:
    """Makes rows of the dataset."""

    def __init__(self, options: CaptionedShapesOptions) -> None:
        self.options = options
        counts = (options.train, options.valid, options.test)
        self.rows = [(split, number) for split, count in enumerate(counts) for number in range(count)]
        self.schemas = make_schemas(options.difficulty, options.size)

    def __call__(self, part: slice) -> Rows:
        """Make a slice of the rows."""
        import numpy as np

        from modalkit.data import SPLITS, Rows
        from modalkit.registry import modality

        read = modality("tokens").read
        assert read is not None
        difficulty, found = self.options.difficulty, []
        for split, number in self.rows[part]:
            rng = np.random.default_rng(np.random.SeedSequence(self.options.seed, spawn_key=(split, number)))
            shapes = invent(rng, difficulty)
            one: dict[str, Any] = {
                "picture": paint(shapes, self.options.size, rng),
                "caption": read(self.schemas["caption"], caption(shapes, difficulty)).numpy(),
            }
            for before, shape in zip(_prefixes(difficulty), shapes, strict=True):
                for name in NAMED[difficulty]:
                    one[before + name] = np.int64(WORDS[name].index(shape.attributes[name]))
                one[f"{before}geometry"] = np.array([shape.x, shape.y, shape.radius], np.float32)
            found.append(one)
        rows = self.rows[part]
        return Rows(
            {name: np.stack([one[name] for one in found]) for name in self.schemas},
            {name: np.ones(len(rows), bool) for name in self.schemas},
            np.array([split for split, _ in rows], np.uint8),
            [f"{SPLITS[split]}/{number:05d}" for split, number in rows],
        )


def build(options: CaptionedShapesOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: `out` holds something else.
        RunError: the disk is full.
    """
    import numpy as np

    about = {
        "name": "captioned-shapes",
        "version": VERSION,
        **options.model_dump(),
        "libraries": {"numpy": np.__version__},
    }
    painter = Painter(options)
    return write(out, about, painter.schemas, len(painter.rows), painter, shard_rows=options.shard_rows, what="rows")


BUILDER = Builder(
    name="captioned-shapes",
    summary="drawn coloured shapes, captions that name what they show, and every attribute, at three difficulties",
    options=CaptionedShapesOptions,
    build=build,
)
