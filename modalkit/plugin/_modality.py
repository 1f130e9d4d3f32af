"""A modality kind: networks, likelihood, and how values are read and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from modalkit.plugin._columns import Columns, Proposal
from modalkit.plugin._schema import Schema

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributions import Distribution

Picture: TypeAlias = npt.NDArray[np.uint8]
"""An image as a kind shows it: `(height, width)` for gray or `(height, width, 3)` for colour."""


class Outcome(StrEnum):
    """What sort of value stands at each place of a sample.

    It decides how predictions are averaged over draws of z, what says how certain they are, and how they are shown.
    """

    REAL = "real"
    """Any real number: averaged; a standard deviation says how certain it is."""
    PICTURE = "picture"
    """An intensity in [0, 1] of a pixel: averaged; a standard deviation says how certain it is."""
    COUNT = "count"
    """An integer from 0: averaged and rounded; a standard deviation says how certain it is."""
    BINARY = "binary"
    """0.0 or 1.0, one bit or several: averaged to the probability of 1."""
    CATEGORICAL = "categorical"
    """One integer, a class: the class with the highest mean probability."""
    ORDERED = "ordered"
    """One integer, a level: the level with the highest mean probability."""
    SEQUENCE = "sequence"
    """Integers, the characters of a text: the likelihoods' most frequent mode, as a whole."""

    @property
    def has_classes(self) -> bool:
        """Whether a prediction is one of a few values, so that it is right or wrong and has a probability."""
        return self in (Outcome.BINARY, Outcome.CATEGORICAL, Outcome.ORDERED, Outcome.SEQUENCE)

    @property
    def is_one_of_several(self) -> bool:
        """Whether a sample is one integer with a probability for each value: a class or a level."""
        return self in (Outcome.CATEGORICAL, Outcome.ORDERED)


S = TypeVar("S", bound=Schema)


@dataclass(frozen=True)
class Modality(Generic[S]):
    """A kind of modality: everything the core needs to learn it, and nothing else.

    Attributes:
        kind: the name recipes use.
        summary: one line for `modalkit list kinds`.
        schema: the `Schema` subclass that a recipe's entry is validated by.
        encoder: `schema ->` module from values `(batch, *event_shape)` to features `(batch, features)`.
            The core adds the Gaussian head that turns features into an expert q(z|x_m).
        decoder: `(schema, latent_dim) ->` module from z `(batch, latent_dim)` to raw parameters, anything
            that `likelihood` understands.
        likelihood: `(schema, raw) ->` p(x_m|z), a `torch.distributions.Distribution` whose `batch_shape` is
            `(batch,)` and whose `event_shape` is the schema's. Floating-point kinds and counts must
            have a `mean`, other integer kinds a `mode`: that is what a translation shows.
        show: `(schema, value) ->` how users see one sample: a uint8 picture `(height, width[, 3])` or
            a short text.
        read: `(schema, source) ->` one value `(*event_shape)` from a path or a text, as users have it.
        outcome: what sort of value stands at each place of a sample.
        marginal: `(schema, values) ->` raw parameters, as `likelihood` takes them, of the best constant prediction for
            `values` `(rows, *event_shape)`, a batch of one: the baseline that translations are compared with, and
            what centred decoders say of z = 0. Optional.
        correct: `(schema, predicted, values) ->` by name which parts of predictions `(rows, *event_shape)` are right,
            bool `(rows,)` each: the character at each place of a text, each of several attributes. Optional: for
            kinds that can be right or wrong.
        files: `(schema, value) ->` one sample as files for other programs: their content by suffix, such as ``".wav"``.
            Commands write them beside what `show` returns. Optional: numbers are written as ``.npy`` by the core.
        columns: how it takes a table's columns; by default one column, whose cells `read` reads.
        proposal: when builders propose it for data that nobody described. Optional.
    """

    kind: str
    summary: str
    schema: type[S]
    encoder: Callable[[S], nn.Module]
    decoder: Callable[[S, int], nn.Module]
    likelihood: Callable[[S, Any], Distribution]
    show: Callable[[S, Tensor], Picture | str]
    read: Callable[[S, str], Tensor]
    outcome: Outcome = Outcome.REAL
    marginal: Callable[[S, Tensor], Any] | None = None
    correct: Callable[[S, Tensor, Tensor], Mapping[str, Tensor]] | None = None
    files: Callable[[S, Tensor], Mapping[str, bytes]] | None = None
    columns: Columns = field(default_factory=Columns)
    proposal: Proposal | None = None
