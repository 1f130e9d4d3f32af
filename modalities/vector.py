"""Real numbers of one's own: Gaussian or Laplace likelihood with a fixed or a learned scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy.typing as npt
import torch
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal
from torch.nn.functional import softplus

from modalkit.distributions import inverse_softplus
from modalkit.errors import InputError
from modalkit.likelihoods import FixedScale, best_constant
from modalkit.nn import DenseNetwork, Mlp, Scaled, join_scale, split_scale
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.nn.precise import bounded_log, smoothly_bounded
from modalkit.plugin import Cells, Column, Columns, Modality, Proposal, Schema, Settings, as_tuple

_SHOWN = 16
_NEAR, _FAR = 3.0, 5.0  # standard deviations
_ROUNDING = 1e-6  # of a number: so close to a whole one, it differs from it only by errors of rounding
_LEAST_ABOVE = 1e-6  # of a scale above the least one: raw parameters stay finite where values never vary


RealScale = Literal["shared", "per_dimension", "predicted", "learned"]
"""How the scale of real values is learned; `learned` is the older name of `predicted`."""

Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]


class Standardize(Settings):
    """How stored numbers become those that networks see: `(stored - loc) / scale`, number by number."""

    loc: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(as_tuple)] = Field(
        description="What is subtracted, such as the training rows' means, in the stored unit."
    )
    scale: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], BeforeValidator(as_tuple)] = Field(
        description="What the rest is divided by, such as their standard deviations, in the stored unit."
    )


class GaussianSchema(Schema):
    """Real numbers of any shape with a Gaussian or a Laplace likelihood: what such kinds share."""

    likelihood: Literal["gaussian", "laplace"] = Field(
        "gaussian", description="`laplace` minds outliers less: its error is the absolute one, not the squared one."
    )
    scale: FixedScale | RealScale = Field(
        "learned",
        description="Scale of the likelihood, in the unit that networks see: a number; `shared`: one is learned; "
        "`per_dimension`: one is learned for each value; `predicted` or `learned`: by the decoder.",
    )

    model_only: ClassVar[frozenset[str]] = Schema.model_only | {"likelihood", "scale"}
    least_scale: ClassVar[float] = 1e-3
    """Of learned scales, so that values that never vary have no density without bound."""

    @property
    def predicts_scale(self) -> bool:
        """Whether the decoder's network returns the scales."""
        return self.scale in ("learned", "predicted")

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """What a decoder's network gives for a row: locations `event_shape`, or with raw scales `(2, *event_shape)`."""
        return (2, *self.event_shape) if self.predicts_scale else self.event_shape


def with_scale(schema: GaussianSchema, layers: nn.Module) -> nn.Module:
    """Return a network `(rows, latent_dim) -> (rows, *raw_shape)` with the scales that z does not determine."""
    if schema.scale not in ("shared", "per_dimension"):
        return layers
    return Scaled(layers, schema.event_shape, shared=schema.scale == "shared")


class VectorSchema(GaussianSchema):
    """A vector of real numbers.

    With `standardize` the numbers are stored, read and shown in their own units, and what networks and likelihood
    see is `(stored - loc) / scale`. Log-densities are those of standardised numbers; those of the numbers
    themselves are lower by the sum of `log scale`.
    """

    size: PositiveInt = Field(description="How many numbers.")
    names: Names | None = Field(None, description="Names of the numbers, in order; by default as the dataset has them.")
    standardize: Standardize | None = Field(
        None, description="`loc` and `scale`, a number each for every dimension; by default as the dataset has them."
    )
    whole: bool | None = Field(
        None,
        description="Whether the numbers are whole and never negative, so that filled ones are rounded and at least 0; "
        "by default as the dataset has it.",
    )
    network: DenseNetwork = Mlp(hidden=(128, 128), decoder_hidden=(128, 128))

    model_only: ClassVar[frozenset[str]] = GaussianSchema.model_only | {"standardize", "whole"}
    from_dataset: ClassVar[frozenset[str]] = frozenset({"names", "standardize", "whole"})

    @model_validator(mode="after")
    def _one_for_each(self) -> VectorSchema:
        lists = {"names": self.names}
        lists |= {f"standardize.{key}": getattr(self.standardize, key, None) for key in ("loc", "scale")}
        for key, given in lists.items():
            if given is not None and len(given) != self.size:
                raise ValueError(f"'{key}' lists {len(given)} for a 'size' of {self.size}")
        return self

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the numbers, where they have names."""
        return self.names or ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The number of dimensions."""
        return (self.size,)

    def unpack(self, stored: Tensor) -> Tensor:
        """Standardise."""
        value = super().unpack(stored)
        if self.standardize is None:
            return value
        return (value - value.new_tensor(self.standardize.loc)) / value.new_tensor(self.standardize.scale)

    def pack(self, value: Tensor) -> Tensor:
        """Return to the stored unit; of `whole` numbers, errors of rounding are removed."""
        if self.standardize is not None:
            value = value * value.new_tensor(self.standardize.scale) + value.new_tensor(self.standardize.loc)
        if self.whole:
            near = value.round()
            value = torch.where((value - near).abs() <= _ROUNDING * (1 + near.abs()), near, value)
        return super().pack(value)

    def storable(self, value: Tensor) -> Tensor:
        """Return the values themselves, or if numbers are `whole` those of the nearest whole numbers from 0."""
        if not self.whole:
            return value
        if self.standardize is None:
            return value.round().clamp(min=0)
        value = value.double()  # so that `pack` can tell errors of rounding from fractions
        loc, scale = value.new_tensor(self.standardize.loc), value.new_tensor(self.standardize.scale)
        return ((value * scale + loc).round().clamp(min=0) - loc) / scale

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says, with `whole` only where it is true: no word means that numbers are any."""
        return {key: fact for key, fact in super().facts().items() if key != "whole" or fact}


class Bounded(nn.Module):
    """Values up to 3 as they are, and others within 5: an outlier does not throw the posterior off the map.

    A function that bends values near 0 too, such as `5 tanh(x / 5)`, weakens linear relations between columns.
    """

    def forward(self, value: Tensor) -> Tensor:
        """Return values within (-5, 5)."""
        return smoothly_bounded(value, _NEAR, _FAR)


def encoder(schema: VectorSchema) -> nn.Module:
    """Return dense layers; of standardised numbers they see `Bounded` ones."""
    layers = make_encoder(schema.network, schema.event_shape)
    return layers if schema.standardize is None else nn.Sequential(Bounded(), layers)


def decoder(schema: VectorSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: `(rows, *raw_shape)`, or what `modalkit.nn.Scaled` makes of it."""
    return with_scale(schema, make_decoder(schema.network, latent_dim, schema.raw_shape))


def loc_scale(schema: GaussianSchema, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return locations `(rows, *event_shape)` and scales, the same shape or 1 in its dimensions.

    A predicted scale is `softplus(raw) + least_scale`, one that is a parameter is `exp(raw) + least_scale`;
    beyond ±16, `raw` is bounded smoothly.
    """
    if schema.predicts_scale:
        return raw[:, 0], softplus(raw[:, 1]) + schema.least_scale  # (rows, 2, *event_shape) -> two of them
    if isinstance(schema.scale, float):
        return raw, torch.full_like(raw, schema.scale)
    loc, raw_scale = split_scale(raw, schema.event_shape, shared=schema.scale == "shared")
    return loc, bounded_log(raw_scale).exp() + schema.least_scale


def likelihood(schema: GaussianSchema, raw: Tensor) -> Distribution:
    """Return independent Gaussians or Laplace distributions, one an entry, whose parameters are `loc_scale`'s."""
    loc, scale = loc_scale(schema, raw)
    family = Laplace if schema.likelihood == "laplace" else Normal
    return Independent(family(loc, scale, validate_args=False), len(schema.event_shape), validate_args=False)


def marginal(schema: GaussianSchema, values: Tensor) -> Tensor:
    """Return the raw form of the best constant location of each entry and, where scales are learned, of its scale.

    They are means and standard deviations over the rows, or for `laplace` medians and mean absolute deviations.
    """
    loc, scale = best_constant(values, schema.likelihood, shared=schema.scale == "shared")
    if isinstance(schema.scale, float):
        return loc
    above = scale - schema.least_scale
    if schema.predicts_scale:
        return torch.stack([loc, inverse_softplus(above.clamp(min=_LEAST_ABOVE))], 1)  # (1, 2, *event_shape)
    return join_scale(loc, above.clamp(min=schema.least_scale / 10).log())  # lower, it would take long to rise again


def show(schema: VectorSchema, value: Tensor) -> str:
    """Return the numbers as they are stored, to three digits, the first of them where they are many."""
    shown = " ".join(f"{number:.3g}" for number in schema.pack(value.detach())[:_SHOWN].tolist())
    return shown if len(value) <= _SHOWN else f"{shown} … ({len(value)} numbers)"


def read(schema: VectorSchema, source: str) -> Tensor:
    """Read numbers in the stored unit, separated by blanks or commas.

    Raises:
        InputError: not numbers, or not `size` of them.
    """
    words = re.split(r"[,\s]+", source.strip())
    try:
        value = torch.tensor([float(word) for word in words])
    except ValueError:
        raise InputError(f"'{source}': not numbers separated by blanks or commas") from None
    if len(words) != schema.size or not value.isfinite().all():
        raise InputError(f"'{source}': give {schema.size} finite numbers")
    return schema.unpack(value)


def how_many_numbers(text: str) -> int | None:
    """Return how many numbers, separated by blanks or commas, a text consists of; None if it has anything else.

    >>> how_many_numbers("1, 2.5e3 -4"), how_many_numbers("two"), how_many_numbers("")
    (3, None, None)
    """
    words = text.replace(",", " ").split()
    try:
        return len([float(word) for word in words]) or None
    except ValueError:
        return None


def size_and_names(columns: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a kind of numbers that follow from a table's columns."""
    return {"size": len(columns), "names": list(columns)}


def fits_columns(columns: Sequence[Column]) -> bool:
    """Tell whether columns hold numbers and nothing else."""
    return all(column.numeric or column.empty.all() for column in columns)


def from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Return the fields for an array of numbers, `(rows,)` or `(rows, size)`."""
    if array.dtype.kind not in "iuf" or array.ndim > 2:
        return None
    return {"size": array.shape[1] if array.ndim == 2 else 1}


def from_texts(texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the fields for texts that consist of equally many numbers each."""
    sizes = {how_many_numbers(text) for text in texts}
    return {"size": sizes.pop()} if None not in sizes and len(sizes) == 1 else None


MODALITY = Modality(
    kind="vector",
    summary="real numbers; Gaussian or Laplace likelihood with fixed or learned scale",
    schema=VectorSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    marginal=marginal,
    columns=Columns(Cells.NUMBERS, several=True, standardized=True, from_names=size_and_names),
    proposal=Proposal(50, columns=fits_columns, array=from_array, texts=from_texts),
)
