"""Time series of one or several channels: 1-d convolutions, Gaussian or Laplace likelihood."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor, nn

from modalkit.errors import InputError, unreadable
from modalkit.nn import Mlp, Reshape, Widths, by_name, mlp
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import CustomNetwork, Modality, Settings

from .vector import GaussianSchema, likelihood, marginal, with_scale

if TYPE_CHECKING:
    from modalkit.plugin import Picture

_WIDTH, _HEIGHT = 96, 64
_INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe & Ito's, told apart by all eyes


class Conv1d(Settings):
    """Convolutions in time, each of which halves the length; the decoder mirrors them."""

    type: Literal["conv1d"] = "conv1d"
    widths: Widths | None = Field(
        None,
        description="Channels after each convolution; by default 32, doubling up to 256, until 4 to 7 steps are left.",
    )
    hidden: PositiveInt = Field(256, description="Width of the encoder's and the decoder's dense layer.")


SeriesNetwork = Annotated[
    Conv1d | Mlp | CustomNetwork,
    Field(discriminator="type", description="`conv1d`, `mlp`, one of them with its settings, or your own."),
    BeforeValidator(by_name, json_schema_input_type=Literal["conv1d", "mlp"] | Conv1d | Mlp | CustomNetwork),
]


class SeriesSchema(GaussianSchema):
    """A time series; its values are real numbers `(channels, length)`."""

    channels: PositiveInt = Field(1, description="How many numbers there are at each step.")
    length: PositiveInt = Field(description="How many steps.")
    network: SeriesNetwork = Conv1d()

    @model_validator(mode="after")
    def _long_enough(self) -> SeriesSchema:
        if isinstance(self.network, Conv1d) and self.length >> len(self.network.widths or ()) == 0:
            raise ValueError(f"{self.length} steps cannot be halved {len(self.network.widths or ())} times")
        return self

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Channels, steps."""
        return (self.channels, self.length)


def layout(channels: int, length: int, widths: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """Return channels and length before the first convolution and after each.

    >>> layout(3, 50, None)
    [(3, 50), (32, 25), (64, 12), (128, 6)]
    """
    if widths is None:
        widths = tuple(min(32 << i, 256) for i in range(max(1, length // 4).bit_length() - 1))
    return [(channels, length), *((width, length >> i) for i, width in enumerate(widths, 1))]


def encoder(schema: SeriesSchema) -> nn.Module:
    """Return convolutions of 4 steps with stride 2 and a dense layer, or dense layers."""
    if not isinstance(schema.network, Conv1d):
        return make_encoder(schema.network, schema.event_shape)
    shapes, layers = layout(schema.channels, schema.length, schema.network.widths), nn.Sequential()
    for (before, _), (after, _) in pairwise(shapes):
        layers.extend([nn.Conv1d(before, after, 4, stride=2, padding=1), nn.SiLU()])
    channels, length = shapes[-1]
    return layers.extend([nn.Flatten(), *mlp(channels * length, [schema.network.hidden])])  # (rows, C, L) -> (rows, CL)


def decoder(schema: SeriesSchema, latent_dim: int) -> nn.Module:
    """Return the encoder's mirror; raw: `(rows, *raw_shape)`, or what `modalkit.nn.Scaled` makes of it."""
    return with_scale(schema, _mirror(schema, latent_dim))


def _mirror(schema: SeriesSchema, latent_dim: int) -> nn.Module:
    """Return a network `(rows, latent_dim) -> (rows, *raw_shape)`."""
    if not isinstance(schema.network, Conv1d):
        return make_decoder(schema.network, latent_dim, schema.raw_shape)
    outputs = schema.channels * (2 if schema.predicts_scale else 1)
    shapes = layout(outputs, schema.length, schema.network.widths)[::-1]
    channels, length = shapes[0]
    layers = mlp(latent_dim, [schema.network.hidden], channels * length).append(Reshape((channels, length)))
    for (before, _), (after, longer) in pairwise(shapes):  # a kernel of 5 restores the step that halving lost
        layers.extend([nn.SiLU(), nn.ConvTranspose1d(before, after, 4 + longer % 2, stride=2, padding=1)])
    return layers.append(Reshape(schema.raw_shape))  # (rows, 2 * channels, length) -> (rows, 2, channels, length)


def show(schema: SeriesSchema, value: Tensor) -> Picture:
    """Return a small chart: a line for each channel, between the least and the greatest number, which it states."""
    least, most = float(value.min()), float(value.max())
    chart = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, top, bottom = ImageDraw.Draw(chart), 12, _HEIGHT - 13
    across = np.linspace(1, _WIDTH - 2, schema.length)
    for index, line in enumerate(value.double().tolist()):
        heights = [bottom - (y - least) / ((most - least) or 1) * (bottom - top) for y in line]
        points = list(zip(across.tolist(), heights, strict=True))
        draw.line(points if len(points) > 1 else points * 2, fill=_INKS[index % len(_INKS)])
    draw.text((1, 0), f"{most:.3g}", "#808080")
    draw.text((1, _HEIGHT - 11), f"{least:.3g}", "#808080")
    return np.asarray(chart)


def read(schema: SeriesSchema, source: str) -> Tensor:
    """Read a .npy file `(channels, length)`, or a .csv file with a line for each step and a column for each channel.

    A first line of a .csv file that is not numbers is taken as the columns' names. One channel's .npy may be
    `(length,)`.

    Raises:
        InputError: neither of them, not of this shape, or not finite numbers.
    """
    path, shape = Path(source), schema.event_shape
    try:
        array = _read_csv(path, schema.channels) if path.suffix.lower() == ".csv" else _read_npy(path)
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(source, "a series, .npy or .csv", error) from error
    array = array[None] if array.ndim == 1 and schema.channels == 1 else array
    if array.shape != shape:
        turned = "; it is transposed" if array.shape == shape[::-1] else ""
        raise InputError(f"{source}: holds {array.shape}; give {shape}, channels and steps{turned}")
    if not np.isfinite(array).all():
        channel, step = np.argwhere(~np.isfinite(array))[0]
        raise InputError(f"{source}: channel {channel}, step {step} (from 0) is {array[channel, step]}; give numbers")
    return torch.from_numpy(array).to(torch.get_default_dtype())


def _read_npy(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    with path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.kind not in "iuf":
        raise ValueError("holds no array of real numbers")
    return array.astype(np.float64)


def _read_csv(path: Path, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    steps: list[list[float]] = []
    with path.open(newline="", encoding="utf-8-sig") as lines:
        for number, cells in enumerate(csv.reader(lines), 1):
            try:
                step = [float(cell) for cell in cells]
            except ValueError:
                if number == 1:
                    continue  # the columns' names
                raise ValueError(f"line {number} is not numbers: {','.join(cells)[:60]}") from None
            if step and len(step) != channels:
                raise ValueError(f"line {number} has {len(step)} columns, not {channels}, one for each channel")
            steps += [step] if step else []
    return np.array(steps).reshape(len(steps), channels).T  # (length, channels) -> (channels, length)


def files(schema: SeriesSchema, value: Tensor) -> dict[str, bytes]:
    """Return a .csv as `read` takes it: a line with the channels' numbers, then one for each step."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([f"channel {channel}" for channel in range(schema.channels)])
    lines.writerows([f"{number:.7g}" for number in step] for step in value.T.tolist())  # (channels, length) -> lines
    return {".csv": text.getvalue().encode()}


MODALITY = Modality(
    kind="series",
    summary="time series of one or several channels; Gaussian or Laplace likelihood with fixed or learned scale",
    schema=SeriesSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    marginal=marginal,
    files=files,
)
