"""Real numbers of one's own: Gaussian likelihood with a fixed or a learned scale."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from modalkit.errors import InputError
from modalkit.nn import DenseNetwork, Mlp
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import Modality, Schema

_LEAST_SCALE = 1e-3
_SHOWN = 16


class VectorSchema(Schema):
    """A vector of real numbers."""

    size: PositiveInt = Field(description="How many numbers.")
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["learned"] = Field(
        "learned", description="Standard deviation of the likelihood, in the data's unit; `learned`: by the decoder."
    )
    network: DenseNetwork = Mlp(hidden=(128, 128), decoder_hidden=(128, 128))

    model_only: ClassVar[frozenset[str]] = Schema.model_only | {"scale"}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The number of dimensions."""
        return (self.size,)


def encoder(schema: VectorSchema) -> nn.Module:
    """Return dense layers."""
    return make_encoder(schema.network, schema.event_shape)


def decoder(schema: VectorSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: `(rows, size)` means, or `(rows, 2, size)` means and unbounded scales."""
    return make_decoder(schema.network, latent_dim, (2, schema.size) if schema.scale == "learned" else (schema.size,))


def likelihood(schema: VectorSchema, raw: Tensor) -> Distribution:
    """Return independent Gaussians; a learned scale is `softplus(raw) + 0.001`, one per row and dimension."""
    if schema.scale == "learned":
        loc, scale = raw[:, 0], softplus(raw[:, 1]) + _LEAST_SCALE  # (rows, 2, size) -> two of (rows, size)
    else:
        loc, scale = raw, torch.full_like(raw, schema.scale)
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def marginal(schema: VectorSchema, values: Tensor) -> Distribution:
    """Return a Gaussian at the mean, with the fixed scale or each dimension's standard deviation."""
    loc = values.mean(0, keepdim=True)  # (1, size)
    if schema.scale == "learned":
        scale = values.std(0, keepdim=True, correction=0).clamp(min=_LEAST_SCALE)
    else:
        scale = torch.full_like(loc, schema.scale)
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def show(schema: VectorSchema, value: Tensor) -> str:
    """Return the numbers to three digits, the first of them where they are many."""
    shown = " ".join(f"{number:.3g}" for number in value[:_SHOWN].tolist())
    return shown if len(value) <= _SHOWN else f"{shown} … ({len(value)} numbers)"


def read(schema: VectorSchema, source: str) -> Tensor:
    """Read numbers separated by blanks or commas.

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
    return value


MODALITY = Modality(
    kind="vector",
    summary="real numbers; Gaussian likelihood with fixed or learned scale",
    schema=VectorSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    marginal=marginal,
)
