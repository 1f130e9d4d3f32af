"""Draws bits from a factor model that is known, as many modalities as wanted: a dataset to scale with.

Each row has a latent z of a few dimensions, and its bits are independent given z:

    z ~ N(0, I)        logit p(bit_m = 1 | z) = b_m + w_m . z        w_m ~ N(0, 4/L I), b_m ~ N(0, 1/4)

Bit m of row i is a function of the seed, L, m and i alone: more rows or modalities leave the others as they are, and
what a smaller `missing` leaves out a larger one leaves out too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from modalkit.plugin import Builder, Schema, Settings

from .execution.shards import write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

VERSION = 1
"""Raised whenever the same options would give other bytes."""
_FACTORS, _ROW = range(2)
"""What a random stream is for, so that no two share one."""
SPLITS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)
"""Of ten rows in a row, eight train, one validates, one tests."""


class SampleBitsOptions(Settings):
    """What `modalkit build-dataset sample-bits` can be told."""

    rows: int = Field(10_000, ge=1, description="rows to draw; of ten, eight train, one validates, one tests")
    modalities: int = Field(1000, ge=1, description="bits a row, each a modality: bit0, bit1, ...")
    latent_dim: int = Field(8, ge=1, description="dimensions of the latent that the bits of a row have in common")
    missing: float = Field(0.2, ge=0, le=1, description="probability with which a bit is absent")
    shard_rows: int = Field(1000, ge=1, description="rows a file")
    seed: int = Field(0, ge=0, description="other seeds give other bits")


def make_schemas(modalities: int) -> dict[str, Schema]:
    """Return the schemas of so many bits."""
    from modalkit.registry import schema

    return {f"bit{m}": schema("bit") for m in range(modalities)}


def factors(options: SampleBitsOptions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the weights w, `(modalities, latent_dim)`, and biases b, `(modalities,)`, of the model."""
    import numpy as np

    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(_FACTORS,)))
    drawn = rng.standard_normal((options.modalities, 1 + options.latent_dim))
    return drawn[:, 1:] * (2 / np.sqrt(options.latent_dim)), drawn[:, 0] / 2


def draw(options: SampleBitsOptions, part: slice) -> Rows:
    """Return some of the rows, drawn.

    Args:
        options: of the whole.
        part: from which row to which.
    """
    import numpy as np

    from modalkit.data import Rows

    numbers = range(part.start, part.stop)
    z = np.empty((len(numbers), options.latent_dim))
    uniform = np.empty((len(numbers), options.modalities, 2))  # for the bit, and for its presence
    for at, number in enumerate(numbers):
        rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(_ROW, number)))
        z[at] = rng.standard_normal(options.latent_dim)
        uniform[at] = rng.random((options.modalities, 2))
    weights, biases = factors(options)
    probability = 1 / (1 + np.exp(-(z @ weights.T + biases)))  # (rows, modalities)
    bits = (uniform[:, :, 0] < probability).astype(np.uint8)
    present = uniform[:, :, 1] >= options.missing
    names = list(make_schemas(options.modalities))
    return Rows(
        dict(zip(names, bits.T, strict=True)),
        dict(zip(names, present.T, strict=True)),
        np.array([SPLITS[number % len(SPLITS)] for number in numbers], np.uint8),
        [str(number) for number in numbers],
    )


def build(options: SampleBitsOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: `out` holds something else.
        RunError: the disk is full.
    """
    import numpy as np

    about = {
        "name": "sample-bits",
        "version": VERSION,
        **options.model_dump(),
        "libraries": {"numpy": np.__version__},
    }
    return write(
        out,
        about,
        make_schemas(options.modalities),
        options.rows,
        lambda part: draw(options, part),
        shard_rows=options.shard_rows,
        what=f"rows of {options.modalities} bits",
    )


BUILDER = Builder(
    name="sample-bits",
    summary="bits of a known factor model, each a modality, as many as wanted",
    options=SampleBitsOptions,
    build=build,
)
