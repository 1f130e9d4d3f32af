"""Pictures: a choice of likelihoods for intensities, after MLPs or convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from modalkit.distributions import Bernoullis, inverse_softplus
from modalkit.errors import InputError
from modalkit.likelihoods import (
    DiscretizedLogistics,
    FixedScale,
    Gaussians,
    Laplaces,
    LearnedScale,
    best_constant,
)
from modalkit.nn import Dcgan, ImageNetwork, Scaled, check_size, join_scale, split_scale
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.nn.precise import bounded_log
from modalkit.plugin import Modality, Outcome, Proposal, Schema, Stored, as_tuple
from modalkit.util.picture_files import any_colour, read_picture

if TYPE_CHECKING:
    from modalkit.plugin import Picture

_START = 0.2  # of learned scales: the standard deviation of intensities is seldom far from it
_OFFSET = math.log(math.expm1(_START))  # softplus of it is _START
_FAMILIES = {"gaussian": Gaussians, "laplace": Laplaces, "discretized_logistic": DiscretizedLogistics}

Size = Annotated[
    tuple[PositiveInt, PositiveInt],
    BeforeValidator(
        lambda size: (size, size) if isinstance(size, int) else as_tuple(size),
        json_schema_input_type=PositiveInt | tuple[PositiveInt, PositiveInt],
    ),
    Field(description="Pixels: one number for a square, or [height, width]."),
]


class ImageSchema(Schema):
    """A picture; its values are intensities in [0, 1], `(channels, height, width)`, stored as bytes."""

    size: Size
    channels: PositiveInt = Field(3, description="1 for gray, 3 for colour.")
    network: ImageNetwork = Dcgan()
    likelihood: Literal["bernoulli", "gaussian", "laplace", "discretized_logistic"] = Field(
        "bernoulli",
        description="How a picture is scored. `bernoulli` is meant for black and white; `gaussian` and `laplace` are "
        "densities; `discretized_logistic` gives the probability of the 8-bit picture.",
    )
    scale: FixedScale | LearnedScale | None = Field(
        None,
        description="Scale of the likelihood, in intensities: a number; `shared`: one is learned; `per_dimension`: one "
        "is learned for each value; `predicted`: by the decoder. By default `shared`; `bernoulli` has none.",
    )
    binarize: bool = Field(
        False, description="Draw every pixel as black or white, its intensity the probability of white, at every step."
    )

    model_only: ClassVar[frozenset[str]] = Schema.model_only | {"binarize", "likelihood", "scale"}
    dtype: ClassVar[Stored] = "uint8"

    @model_validator(mode="after")
    def _large_enough(self) -> ImageSchema:
        check_size(self.network, self.size)
        return self

    @model_validator(mode="after")
    def _likelihood_fits(self) -> ImageSchema:
        if self.likelihood == "bernoulli":
            if self.scale is not None:
                raise ValueError(
                    "a Bernoulli likelihood has no 'scale'; remove it, or choose 'likelihood: gaussian', 'laplace' or "
                    "'discretized_logistic'"
                )
        elif self.binarize:
            raise ValueError(
                f"'binarize' makes pixels black or white, which needs 'likelihood: bernoulli', not '{self.likelihood}'"
            )
        return self

    @property
    def scale_choice(self) -> float | LearnedScale | None:
        """The scale, or how it is learned; None if the likelihood has none."""
        return "shared" if self.scale is None and self.likelihood != "bernoulli" else self.scale

    @property
    def least_scale(self) -> float:
        """Of learned scales, so that pixels that never vary have no density without bound.

        It is the step between two neighbouring intensities, 1/255. Probabilities are bounded anyway, so that those of
        `discretized_logistic` may be sharper: 0.001.
        """
        return 1e-3 if self.likelihood == "discretized_logistic" else 1 / 255

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return (self.channels, *self.size)

    @property
    def drawn(self) -> bool:
        """Whether pictures are binarised."""
        return self.binarize

    def draw(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """Binarise."""
        threshold = torch.rand(stored.shape, generator=generator)
        return (threshold * 255 < stored).to(torch.uint8) * 255

    @property
    def warps(self) -> bool:
        """Images support warping."""
        return True

    def warp(self, stored: Tensor, maps: Tensor) -> Tensor:
        """Move pictures by bilinear interpolation; what comes in from outside is the nearest pixel of the border."""
        height, width = self.size
        # affine_grid lets either side reach from -1 to 1, so that a rotation mixes its units.
        unit = maps.new_tensor([[1, height / width, 1], [width / height, 1, 1]])
        grid = functional.affine_grid(maps * unit, list(stored.shape), align_corners=False)
        moved = functional.grid_sample(stored.to(grid), grid, padding_mode="border", align_corners=False)
        return moved.round().to(stored.dtype)

    def unpack(self, stored: Tensor) -> Tensor:
        """Turn bytes into intensities."""
        return stored / 255

    def pack(self, value: Tensor) -> Tensor:
        """Turn intensities into the nearest bytes.

        Raises:
            ValueError: an intensity is not in [0, 1].
        """
        if not bool(((value >= 0) & (value <= 1)).all()):
            raise ValueError(
                f"intensities must lie in [0, 1], not {float(value.min()):g} to {float(value.max()):g}; "
                f"divide by 255, or give them as uint8"
            )
        return (value * 255).round().to(torch.uint8)

    def storable(self, value: Tensor) -> Tensor:
        """Return intensities within [0, 1]; Gaussian predictions may lie outside."""
        return value.clamp(0, 1)


def encoder(schema: ImageSchema) -> nn.Module:
    """Return the encoder that the schema's network asks for."""
    return make_encoder(schema.network, schema.event_shape)


def decoder(schema: ImageSchema, latent_dim: int) -> nn.Module:
    """Return the decoder that the schema's network asks for.

    Raw: logits, or locations, `(rows, *event_shape)`. Learned scales stand after them along the channels, as
    `modalkit.nn.join_scale` has it; those that z does not determine are parameters of a `modalkit.nn.Scaled`.
    """
    scale, shape = schema.scale_choice, schema.event_shape
    if scale == "predicted":
        return make_decoder(schema.network, latent_dim, (2 * schema.channels, *schema.size))
    layers = make_decoder(schema.network, latent_dim, shape)
    if scale not in ("shared", "per_dimension"):
        return layers
    return Scaled(layers, shape, shared=scale == "shared", start=math.log(_START))


def likelihood(schema: ImageSchema, raw: Tensor) -> Distribution:
    """Return independent Bernoullis, which take any intensity, or what `schema.likelihood` names.

    A scale is the least one plus `exp(raw)` if it is a parameter, and plus `softplus(raw + c)` if it is predicted;
    the constant c makes it 0.2 above the least one where a decoder returns 0. Raw scales that are parameters are
    bounded smoothly beyond ±16.
    """
    dims = len(schema.event_shape)
    if schema.likelihood == "bernoulli":
        return Bernoullis(raw, dims)
    scale, family = schema.scale_choice, _FAMILIES[schema.likelihood]
    if isinstance(scale, float):
        return family(raw, raw.new_full((1,) * raw.ndim, scale), dims)
    loc, raw_scale = split_scale(raw, schema.event_shape, shared=scale == "shared")
    above = functional.softplus(raw_scale + _OFFSET) if scale == "predicted" else bounded_log(raw_scale).exp()
    return family(loc, above + schema.least_scale, dims)


def marginal(schema: ImageSchema, values: Tensor) -> Tensor:
    """Return the raw form of the best constant picture and of its scale.

    For Bernoullis these are logits of each pixel's mean over the rows, half a white and half a black one added to stay
    off 0 and 1.
    """
    if schema.likelihood == "bernoulli":
        return ((values.sum(0, keepdim=True) + 0.5) / (len(values) + 1)).logit()  # (1, *event_shape)
    choice = schema.scale_choice
    loc, scale = best_constant(values, schema.likelihood, shared=choice == "shared")
    if isinstance(choice, float):
        return loc
    above = (scale - schema.least_scale).clamp(min=schema.least_scale / 10)  # lower, it would take long to rise again
    return join_scale(loc, inverse_softplus(above) - _OFFSET if choice == "predicted" else above.log())


def show(schema: ImageSchema, value: Tensor) -> Picture:
    """Return a gray or a colour picture; another number of channels is laid side by side."""
    pixels: Picture = schema.pack(value.detach().clamp(0, 1)).cpu().numpy()
    if schema.channels == 3:
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return np.concatenate(list(pixels), axis=1)


def read(schema: ImageSchema, source: str) -> Tensor:
    """Read a picture file: gray or colour as the schema asks, short side fitted, centre cropped.

    `modalkit.util.picture_files.eight_bit` says what becomes of other depths and of transparency.

    Raises:
        InputError: it is no picture that can be read.
    """
    modes: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
    if (mode := modes.get(schema.channels)) is None:
        raise InputError(f"a picture file cannot be read as {schema.channels} channels; only 1 or 3 have a meaning")
    height, width = schema.size
    fitted = ImageOps.fit(read_picture(source, mode), (width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(fitted)).reshape(height, width, schema.channels)  # (h, w[, 3]) -> (h, w, c)
    return schema.unpack(pixels.permute(2, 0, 1))


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Return the fields for an array of bytes, `(rows, height, width)` or `(rows, channels, height, width)`."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return None
    channels, *size = (1, *array.shape[1:]) if array.ndim == 3 else array.shape[1:]
    return {"size": size, "channels": channels}


def _from_files(paths: Sequence[str], size: int) -> dict[str, Any]:
    """Return the fields for picture files: colour if any has colour; files that cannot be read are left out."""
    return {"size": size, "channels": 3 if any_colour(paths) else 1}


MODALITY: Modality[Any] = Modality(
    kind="image",
    summary="picture of any size, gray or colour; Bernoulli, Gaussian, Laplace or discretised logistic likelihood",
    schema=ImageSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    outcome=Outcome.PICTURE,
    marginal=marginal,
    proposal=Proposal(
        70,
        array=_from_array,
        suffixes=(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
        files=_from_files,
    ),
)
