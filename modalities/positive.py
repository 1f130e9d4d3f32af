"""Positive reals, such as amounts, durations and concentrations: log-normal likelihood."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LogNormal

from modalkit.errors import InputError
from modalkit.nn import encoder as make_encoder
from modalkit.nn.precise import smoothly_bounded
from modalkit.plugin import Cells, Columns, Modality, Required

from .vector import MODALITY as VECTOR
from .vector import RealScale, VectorSchema, loc_scale, size_and_names
from .vector import marginal as gaussian_marginal

_LOG_MEDIAN, _MOST_SCALE = 60.0, 5.0
"""The likelihood's parameters stay as they are up to these."""
_LOG_MEDIAN_BOUND, _SCALE_BOUND = 64.0, 6.0
"""Bounds of the parameters: within them the mean, exp(loc + scale²/2), is finite in single precision."""


class PositiveSchema(VectorSchema):
    """A vector of positive reals; zeros and negative numbers are refused. A prediction is the likelihood's mean."""

    scale: Annotated[float, Field(gt=0, le=_MOST_SCALE)] | RealScale = Field(
        "learned",
        description="Standard deviation of log x in the likelihood: a number of at most 5; `shared`: one is learned; "
        "`per_dimension`: one is learned for each value; `predicted` or `learned`: by the decoder.",
    )
    likelihood: ClassVar[str] = "gaussian"  # type: ignore[misc]  # of log x, and no choice here
    whole: ClassVar[None] = None  # type: ignore[misc]  # rounding could give 0, which is refused
    from_dataset: ClassVar[frozenset[str]] = frozenset({"names"})  # numbers minus their mean have no logarithm

    @model_validator(mode="after")
    def _stays_positive(self) -> PositiveSchema:
        if self.standardize is not None and max(self.standardize.loc) > 0:
            raise ValueError(
                "'standardize' with a 'loc' above 0 makes numbers negative, which have no logarithm; remove it"
            )
        return self

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says, `standardize` included, as for vectors."""
        fields = self.model_dump(mode="json", exclude=set(self.model_only - VectorSchema.from_dataset))
        return fields | {"event_shape": list(self.event_shape), "dtype": self.dtype}

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which samples are positive and finite."""
        return ((stored > 0) & stored.isfinite()).all(1)

    def columns(self, value: Tensor) -> Tensor:
        """Return the logarithms."""
        return _log(value)


def _log(value: Tensor) -> Tensor:
    """Return log x, finite also for the zeros that models are tried with."""
    return value.clamp(min=torch.finfo(value.dtype).tiny).log()


class Encoder(nn.Module):
    """Dense layers over `log x`."""

    def __init__(self, schema: PositiveSchema) -> None:
        super().__init__()
        self.layers = make_encoder(schema.network, schema.event_shape)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.layers(_log(value))
        return features


def encoder(schema: PositiveSchema) -> nn.Module:
    """Return the encoder that the schema's network asks for."""
    return Encoder(schema)


def likelihood(schema: PositiveSchema, raw: Tensor) -> Distribution:
    """Return independent log-normals: `log p(x) = log N(log x; loc, scale²) - log x`.

    Their medians are exp(loc), bounded smoothly beyond exp(±60). Their means, which predictions show, are
    `exp(loc + scale²/2)`: the best under squared error, and above the median where the scale is large.
    """
    loc, scale = loc_scale(schema, raw)
    loc = smoothly_bounded(loc, _LOG_MEDIAN, _LOG_MEDIAN_BOUND)
    scale = smoothly_bounded(scale, _MOST_SCALE, _SCALE_BOUND)
    return Independent(LogNormal(loc, scale, validate_args=False), 1, validate_args=False)


def marginal(schema: PositiveSchema, values: Tensor) -> Tensor:
    """Return the raw form of the mean and the standard deviation (or of the mean alone) of log x."""
    return gaussian_marginal(schema, _log(values))


def read(schema: PositiveSchema, source: str) -> Tensor:
    """Read numbers separated by blanks or commas.

    Raises:
        InputError: not numbers, not `size` of them, or one that is not positive.
    """
    value = VECTOR.read(schema, source)
    if not schema.valid(value[None]).all():
        raise InputError(f"'{source}': the numbers must be positive; zeros and negative ones have no logarithm")
    return value


def _from_names(columns: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields that follow from a table's columns; a single column's number has no name of its own."""
    return size_and_names(columns) if len(columns) > 1 else {"size": 1}


MODALITY = Modality(
    kind="positive",
    summary="positive reals; log-normal likelihood with fixed or learned scale",
    schema=PositiveSchema,
    encoder=encoder,
    decoder=VECTOR.decoder,
    likelihood=likelihood,
    show=VECTOR.show,
    read=read,
    marginal=marginal,
    columns=Columns(
        Cells.NUMBERS,
        several=True,
        required=Required(lambda numbers: numbers > 0, "not above 0, and has no logarithm (`kind: vector` takes it)"),
        from_names=_from_names,
    ),
)
