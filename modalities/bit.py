"""Yes or no: Bernoulli likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from modalkit.distributions import Bernoullis
from modalkit.errors import InputError
from modalkit.nn import DenseNetwork, Mlp, category_encoder
from modalkit.nn import decoder as make_decoder
from modalkit.plugin import Cells, Column, Columns, Modality, Outcome, Proposal, Schema, Stored

_WORDS = {"yes": 1.0, "true": 1.0, "1": 1.0, "no": 0.0, "false": 0.0, "0": 0.0}


class BitSchema(Schema):
    """A bit; its values are 0.0 or 1.0, and a prediction's is the probability of 1."""

    network: DenseNetwork = Mlp()

    dtype: ClassVar[Stored] = "uint8"

    @property
    def levels(self) -> int:
        """No and yes."""
        return 2

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A number."""
        return ()

    def unpack(self, stored: Tensor) -> Tensor:
        """Turn bits into floats."""
        return stored.to(torch.get_default_dtype())

    def pack(self, value: Tensor) -> Tensor:
        """Turn zeros and ones into what is stored.

        Raises:
            ValueError: a value is neither.
        """
        if not bool(((value == 0) | (value == 1)).all()):
            raise ValueError(f"bits must be 0 or 1, not {float(value[(value != 0) & (value != 1)][0]):g}")
        return value.to(torch.uint8)

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which samples consist of zeros and ones."""
        return (stored <= 1).reshape(len(stored), math.prod(self.event_shape)).all(1)  # (batch, bits) -> (batch,)


class _Category(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return (value > 0.5).long()


def encoder(schema: BitSchema) -> nn.Module:
    """Return an embedding and dense layers."""
    return nn.Sequential(_Category(), category_encoder(schema.network, 2))


def decoder(schema: BitSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: logits `(rows, *event_shape)`."""
    return make_decoder(schema.network, latent_dim, schema.event_shape)


def likelihood(schema: BitSchema, logits: Tensor) -> Distribution:
    """Return independent Bernoullis."""
    return Bernoullis(logits, len(schema.event_shape))


def marginal(schema: BitSchema, values: Tensor) -> Tensor:
    """Return logits of each bit's frequency, with half a 0 and half a 1 added."""
    return ((values.sum(0, keepdim=True) + 0.5) / (len(values) + 1)).logit()  # (1, *event_shape)


def correct(schema: BitSchema, predicted: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Tell for which rows the likelier value is the right one."""
    return {"bit": (predicted > 0.5) == (values > 0.5)}


def show(schema: BitSchema, value: Tensor) -> str:
    """Return yes or no, with the probability of yes where it is not certain."""
    probability = float(value)
    word = "yes" if probability > 0.5 else "no"
    return word if probability in (0.0, 1.0) else f"{word} ({probability:.2f})"


def read(schema: BitSchema, source: str) -> Tensor:
    """Read yes or no.

    Raises:
        InputError: it is another word.
    """
    if source.strip().lower() not in _WORDS:
        raise InputError(f"'{source}' is no bit; give one of {', '.join(_WORDS)}")
    return torch.tensor(_WORDS[source.strip().lower()])


def _fits_columns(columns: Sequence[Column]) -> bool:
    """Tell whether there is one column, of words for yes and no."""
    return len(columns) == 1 and columns[0].yes_or_no


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Return the fields for an array of booleans, `(rows,)`."""
    return {} if array.dtype.kind == "b" and array.ndim == 1 else None


MODALITY: Modality[Any] = Modality(
    kind="bit",
    summary="yes or no, such as one attribute; Bernoulli likelihood",
    schema=BitSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    outcome=Outcome.BINARY,
    marginal=marginal,
    correct=correct,
    columns=Columns(Cells.BITS),
    proposal=Proposal(10, columns=_fits_columns, array=_from_array),
)
