"""Several bits as one modality: independent Bernoullis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from modalkit.errors import InputError, did_you_mean
from modalkit.nn import DenseNetwork, Mlp
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import Cells, Column, Columns, Proposal

from .bit import MODALITY as BIT
from .bit import BitSchema


class AttributesSchema(BitSchema):
    """Named bits; its values are vectors of 0.0 and 1.0."""

    names: tuple[str, ...] = Field(min_length=1, description="Names of the bits, in the order of the columns.")
    network: DenseNetwork = Mlp(batch_norm=True)

    @field_validator("names")
    @classmethod
    def _usable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((n for i, n in enumerate(names) if n in names[:i] or "," in n or n != n.strip() or not n), None)
        if wrong is not None:
            raise ValueError(f"the name '{wrong}' is empty, stands twice, or has a comma or blanks around it")
        return names

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the bits."""
        return self.names

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The number of bits."""
        return (len(self.names),)


def encoder(schema: AttributesSchema) -> nn.Module:
    """Return dense layers."""
    return make_encoder(schema.network, schema.event_shape)


def correct(schema: AttributesSchema, predicted: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Tell, attribute by attribute, for which rows the likelier value is the right one."""
    right = (predicted > 0.5) == (values > 0.5)  # (rows, attributes)
    return dict(zip(schema.names, right.unbind(1), strict=True))


def show(schema: AttributesSchema, value: Tensor) -> str:
    """Return the names of the bits that are more likely set than not."""
    return ", ".join(name for name, bit in zip(schema.names, value.tolist(), strict=True) if bit > 0.5) or "none"


def read(schema: AttributesSchema, source: str) -> Tensor:
    """Read the names of the bits that are set, separated by commas.

    Raises:
        InputError: a name is not known.
    """
    given = [name.strip() for name in source.split(",") if name.strip() not in ("", "none")]
    for name in given:
        if name not in schema.names:
            raise InputError(f"'{name}' is unknown{did_you_mean(name, schema.names)}; known: {', '.join(schema.names)}")
    return torch.tensor([float(name in given) for name in schema.names])


def _fits_columns(columns: Sequence[Column]) -> bool:
    """Tell whether all columns hold words for yes and no."""
    return all(column.yes_or_no for column in columns)


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Return the fields for an array of booleans, `(rows, bits)`, numbered from 1."""
    named = array.dtype.kind == "b" and array.ndim == 2
    return {"names": [str(i + 1) for i in range(array.shape[1])]} if named else None


MODALITY = replace(
    BIT,
    kind="attributes",
    summary="several named bits as one modality; independent Bernoulli likelihoods",
    schema=AttributesSchema,
    encoder=encoder,
    correct=correct,
    show=show,
    read=read,
    columns=Columns(Cells.BITS, several=True, alone="bit", from_names=lambda columns: {"names": list(columns)}),
    proposal=Proposal(20, columns=_fits_columns, array=_from_array),
)
