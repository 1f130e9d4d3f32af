"""One of several classes: Categorical likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import one_hot

from modalkit.errors import InputError, did_you_mean
from modalkit.nn import DenseNetwork, Mlp, category_encoder
from modalkit.nn import decoder as make_decoder
from modalkit.plugin import Column, Columns, Modality, Outcome, Proposal, Schema, Stored

from .vector import fits_columns, from_texts

_MOST_CLASSES = 50
"""More are not proposed for the user's own data."""


class LabelSchema(Schema):
    """A class; its values are integers from 0 to `classes - 1`."""

    names: tuple[str, ...] | None = Field(
        None, description="Names of the classes, in the order of their numbers; by default as the dataset has them."
    )
    classes: int = Field(
        default_factory=lambda known: len(known.get("names") or ()),
        description="Number of classes; follows from `names` where they are given.",
    )
    network: DenseNetwork = Mlp()

    dtype: ClassVar[Stored] = "int64"
    from_dataset: ClassVar[frozenset[str]] = frozenset({"names"})

    @model_validator(mode="after")
    def _named_or_counted(self) -> LabelSchema:
        if self.names is None and "classes" not in self.model_fields_set:
            raise ValueError("give 'classes', a number, or 'names', a list")
        if self.names is not None and len(set(self.names)) != self.classes:
            raise ValueError(f"'names' lists {len(set(self.names))} different names for {self.classes} 'classes'")
        if self.classes < 2:
            raise ValueError("there must be at least 2 classes")
        return self

    @property
    def levels(self) -> int:
        """The number of classes."""
        return self.classes

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A number."""
        return ()

    def columns(self, value: Tensor) -> Tensor:
        """Return one column a class, `(batch, classes)`, with a 1 in that of the value."""
        return one_hot(value, self.classes).to(torch.get_default_dtype())

    def valid(self, stored: Tensor) -> Tensor:
        """Tell which numbers are those of a class."""
        return (stored >= 0) & (stored < self.classes)


def encoder(schema: LabelSchema) -> nn.Module:
    """Return an embedding and dense layers."""
    return category_encoder(schema.network, schema.classes)


def decoder(schema: LabelSchema, latent_dim: int) -> nn.Module:
    """Return dense layers; raw: logits `(rows, classes)`."""
    return make_decoder(schema.network, latent_dim, (schema.classes,))


def likelihood(schema: LabelSchema, logits: Tensor) -> Categorical:
    """Return a Categorical over the classes."""
    return Categorical(logits=logits, validate_args=False)


def marginal(schema: LabelSchema, values: Tensor) -> Tensor:
    """Return logarithms of the classes' frequencies, with half a row added to each, `(1, classes)`."""
    counts = torch.bincount(values, minlength=schema.classes) + 0.5  # (classes,)
    return (counts / counts.sum()).log().unsqueeze(0)


def correct(schema: LabelSchema, predicted: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Tell which classes are right."""
    return {"class": predicted == values}


def show(schema: LabelSchema, value: Tensor) -> str:
    """Return the class's name, or its number."""
    return schema.names[int(value)] if schema.names else str(int(value))


def read(schema: LabelSchema, source: str) -> Tensor:
    """Read a class's name or number.

    Raises:
        InputError: there is no such class.
    """
    known = list(schema.names or [])
    numbers = [str(number) for number in range(schema.classes)]
    for words in (known, numbers):
        if source.strip() in words:
            return torch.tensor(words.index(source.strip()))
    choice = f"one of {', '.join(map(repr, known))}, or " if known else ""
    raise InputError(
        f"'{source}' is no class{did_you_mean(source, known)}; give {choice}a number from 0 to {schema.classes - 1}"
    )


def _categories(columns: Sequence[Column], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of a column's categories, unless the user named or counted the classes.

    Raises:
        InputError: there are fewer than two.
    """
    if {"names", "classes"} & given.keys():
        return {}
    column = columns[0]
    if len(column.distinct) < 2:
        raise InputError(f"column '{column.name}': holds {len(column.distinct)} category; leave it out")
    return {"names": column.distinct}


def _from_array(array: npt.NDArray[Any]) -> dict[str, Any] | None:
    """Return the fields for an array of texts, or of a few integers from 0 without a gap, `(rows,)`."""
    if array.dtype.kind == "U" and array.ndim <= 2:
        return {"names": sorted({str(text) for text in array.flat} - {""})}
    if array.dtype.kind in "iu" and array.ndim == 1:
        distinct = np.unique(array)
        if 1 < len(distinct) <= _MOST_CLASSES and np.array_equal(distinct, np.arange(len(distinct))):
            return {"classes": len(distinct)}
    return None


def _from_texts(texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the fields for texts of which few differ, and that are not equally many numbers each."""
    distinct = sorted(set(texts))
    few = 2 <= len(distinct) <= min(_MOST_CLASSES, max(2, len(texts) // 2)) and "" not in distinct
    return {"names": distinct} if few and from_texts(texts) is None else None


MODALITY = Modality(
    kind="label",
    summary="one of several classes; Categorical likelihood",
    schema=LabelSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=show,
    read=read,
    outcome=Outcome.CATEGORICAL,
    marginal=marginal,
    correct=correct,
    columns=Columns(from_cells=_categories),
    proposal=Proposal(30, columns=lambda columns: not fits_columns(columns), array=_from_array, texts=_from_texts),
)
