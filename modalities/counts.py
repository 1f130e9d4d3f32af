"""Counts, such as of words or genes: Poisson or negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, NegativeBinomial, Poisson

from modalkit.errors import InputError
from modalkit.nn import DenseNetwork, Mlp
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import Cells, Column, Columns, Modality, Outcome, Proposal, Required, Schema, Stored

from .vector import MODALITY as VECTOR
from .vector import Names, fits_columns, from_array, size_and_names

_LOG_RATE = 20.0  # bounds |log mean|: beyond, exp overflows single precision in the sums that follow
_LOG_COUNT = 7.0  # bounds |log total_count|: beyond, lgamma(x + r) - lgamma(r) cancels, and it is Poisson anyway


class CountsSchema(Schema):
    """A vector of counts; its values are integers from 0."""

    size: PositiveInt = Field(description="How many counts.")
    likelihood: Literal["poisson", "negative_binomial"] = Field(
        "poisson", description="`negative_binomial` also learns how much the variance exceeds the mean."
    )
    names: Names | None = Field(None, description="Names of the counts, in order; by default as the dataset has them.")
    network: DenseNetwork = Mlp(hidden=(128, 128), decoder_hidden=(128, 128))

    dtype: ClassVar[Stored] = "int64"
    model_only: ClassVar[frozenset[str]] = Schema.model_only | {"likelihood"}
    from_dataset: ClassVar[frozenset[str]] = frozenset({"names"})

    @model_validator(mode="after")
    def _named_each(self) -> CountsSchema:
        if self.names is not None and len(self.names) != self.size:
            raise ValueError(f"'names' lists {len(self.names)} for a 'size' of {self.size}")
        return self

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the numbers, where they have names."""
        return self.names or ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The number of counts."""
        return (self.size,)

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which samples have no negative number."""
        return (stored >= 0).all(1)


class Counts(Independent):  # type: ignore[type-arg]  # not generic in every torch
    """Independent counts that come and go as int64, and are scored in the parameters' precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number a row."""
        log_px: Tensor = super().log_prob(value.to(self.base_dist.mean.dtype))  # type: ignore[no-untyped-call]
        return log_px

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw counts."""
        return super().sample(torch.Size(sample_shape)).long()

    @property
    def mode(self) -> Tensor:
        """The likeliest counts; 0 for a negative binomial with a total count of at most 1, whatever its mean."""
        return super().mode.long()


class Encoder(nn.Module):
    """Dense layers over `log(1 + x)`."""

    def __init__(self, schema: CountsSchema) -> None:
        super().__init__()
        self.layers = make_encoder(schema.network, schema.event_shape)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.layers(value.to(next(self.parameters()).dtype).log1p())
        return features


def encoder(schema: CountsSchema) -> nn.Module:
    """Return the encoder that the schema's network asks for."""
    return Encoder(schema)


def decoder(schema: CountsSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: log-means `(rows, size)`, or with log-counts `(rows, 2, size)`."""
    parameters = () if schema.likelihood == "poisson" else (2,)
    return make_decoder(schema.network, latent_dim, (*parameters, schema.size))


def likelihood(schema: CountsSchema, raw: Tensor) -> Distribution:
    """Return Poissons of mean m, or negative binomials of mean m and variance `m + m²/r`."""
    if schema.likelihood == "poisson":
        return Counts(Poisson(raw.clamp(-_LOG_RATE, _LOG_RATE).exp(), validate_args=False), 1, validate_args=False)
    log_mean, log_count = raw[:, 0].clamp(-_LOG_RATE, _LOG_RATE), raw[:, 1].clamp(-_LOG_COUNT, _LOG_COUNT)
    made = NegativeBinomial(log_count.exp(), logits=log_mean - log_count, validate_args=False)
    return Counts(made, 1, validate_args=False)


def marginal(schema: CountsSchema, values: Tensor) -> Tensor:
    """Return log-means, or with log-counts, that give each column its mean and variance, half a count added."""
    value = values.to(torch.get_default_dtype())
    mean = (value.sum(0, keepdim=True) + 0.5) / (len(value) + 1)  # (1, size)
    if schema.likelihood == "poisson":
        return mean.log()
    excess = (value.var(0, keepdim=True, correction=0) - mean).clamp(min=torch.finfo(mean.dtype).tiny)
    log_count = (2 * mean.log() - excess.log()).clamp(-_LOG_COUNT, _LOG_COUNT)
    return torch.stack([mean.log(), log_count], 1)  # (1, 2, size)


def read(schema: CountsSchema, source: str) -> Tensor:
    """Read counts separated by blanks or commas.

    Raises:
        InputError: not counts, or not `size` of them.
    """
    value = VECTOR.read(schema, source)  # type: ignore[arg-type]  # it asks for nothing but a size
    if not bool(((value >= 0) & (value == value.round())).all()):
        raise InputError(f"'{source}': counts are whole numbers from 0")
    return value.long()


def _whole(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    whole: npt.NDArray[np.bool_] = (numbers >= 0) & (numbers % 1 == 0)
    return whole


def _looks_like_counts(columns: Sequence[Column]) -> bool:
    """Tell whether columns hold whole numbers that begin at 0."""
    if not fits_columns(columns):
        return False
    numbers = {float(text) for column in columns for text in column.distinct}
    return 0 in numbers and all(n >= 0 and n.is_integer() for n in numbers)


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    return from_array(array) if array.dtype.kind in "iu" and array.min(initial=0) >= 0 else None


MODALITY = Modality(
    kind="counts",
    summary="numbers of things; Poisson or negative binomial likelihood",
    schema=CountsSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=VECTOR.show,  # type: ignore[arg-type]
    read=read,
    outcome=Outcome.COUNT,
    marginal=marginal,
    columns=Columns(
        Cells.NUMBERS,
        several=True,
        required=Required(_whole, "not a whole number from 0 (`kind: vector` takes it)"),
        from_names=size_and_names,
    ),
    proposal=Proposal(40, columns=_looks_like_counts, array=_from_array),
)
