"""Errors of predictions in the user's measures: root mean squared errors, right answers, similarity of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot

from modalkit import registry
from modalkit.errors import guard
from modalkit.model.prediction import in_units
from modalkit.plugin import Outcome, Schema

RMSE, ACCURACY = "rmse", "accuracy"
_WINDOW = 7  # pixels, as is usual for the similarity of pictures
_SMALL = 0.01, 0.03
_COMPARED = 100  # pictures at most, because their similarity is slow to compute
_NUMBERS_OF = {
    Outcome.REAL: "of values",
    Outcome.PICTURE: "of intensities, 0 to 1",
    Outcome.COUNT: "of counts",
}


@dataclass(frozen=True)
class Errors:
    """How far predictions of one modality are from the truth, averaged over rows.

    Attributes:
        value: root mean squared error, or the share of right classes, bits or characters.
        squared: mean squared error, for classes and bits that of the probabilities (the Brier score); None for texts.
        levels: mean distance of ordered classes, in levels; None for other kinds.
        similarity: mean structural similarity of at most 100 pictures, at most 1; None for other kinds.
    """

    value: float
    squared: float | None = None
    levels: float | None = None
    similarity: float | None = None


class Measure:
    """What the predictions of one modality are measured by, and the columns of numbers that hold them.

    A prediction is a table with columns of numbers: real numbers as networks see them, intensities, counts,
    probabilities of 1, probabilities of each class, or the characters of a text.

    Args:
        schema: the modality's schema.

    Attributes:
        kind: ``"rmse"`` (lower is better) or ``"accuracy"`` (higher is better).
        words: what it is, in words.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema, self.outcome = schema, registry.modality(schema.kind).outcome
        self.kind = ACCURACY if self.outcome.has_classes else RMSE
        self.unit, standardised = _unit(schema) if self.outcome is Outcome.REAL else (1.0, False)
        if self.kind == RMSE:
            self.words = "of values, in standard deviations" if standardised else _NUMBERS_OF[self.outcome]
        else:
            self.words = {Outcome.BINARY: "of bits", Outcome.SEQUENCE: "of characters"}.get(self.outcome, "of classes")

    @property
    def is_linear(self) -> bool:
        """Whether a linear model can predict it; texts have none."""
        return self.outcome is not Outcome.SEQUENCE

    def columns(self, values: Tensor) -> Tensor:
        """Return values, `(rows, *event_shape)`, as networks see them, as columns `(rows, width)`."""
        if self.outcome.is_one_of_several:
            return one_hot(values.long(), self.schema.levels).float()  # (rows,) -> (rows, classes)
        return values.reshape(len(values), prod(self.schema.event_shape)).float()  # (rows, *event_shape)

    def bounded(self, predicted: Tensor) -> Tensor:
        """Return predicted columns within what is possible: from 0 to 1, or from 0 for counts."""
        if self.outcome in (Outcome.PICTURE, Outcome.BINARY, Outcome.CATEGORICAL, Outcome.ORDERED):
            return predicted.clamp(0, 1)
        return predicted.clamp(min=0) if self.outcome is Outcome.COUNT else predicted

    def constant(self, columns: Tensor) -> Tensor:
        """Return the mean of training columns, or of texts the most frequent characters, `(1, width)`."""
        return columns.mode(0, keepdim=True)[0] if not self.is_linear else columns.mean(0, keepdim=True)

    def errors(self, predicted: Tensor, truth: Tensor) -> Errors:
        """Compare predicted columns with the true ones, `(rows, width)` each."""
        if not self.is_linear:
            return Errors(_mean(predicted == truth))
        squared = _mean((predicted - truth).square())
        if self.outcome is Outcome.BINARY:
            return Errors(_mean((predicted > 0.5) == (truth > 0.5)), squared)
        if self.outcome.is_one_of_several:
            said, true = predicted.argmax(1), truth.argmax(1)
            levels = _mean((said - true).abs()) if self.outcome is Outcome.ORDERED else None
            return Errors(_mean(said == true), squared, levels)
        return Errors(squared**0.5 * self.unit, squared, similarity=self._similarity(predicted, truth))

    def _similarity(self, predicted: Tensor, truth: Tensor) -> float | None:
        shape = self.schema.event_shape
        if self.outcome is not Outcome.PICTURE or len(shape) != 3 or min(shape[1:]) < _WINDOW:
            return None
        some = slice(None, None, -(-len(truth) // _COMPARED))
        pictures = (
            torch.unflatten(one[some], 1, shape) for one in (predicted, truth)
        )  # (rows, channels, height, width)
        return float(structural_similarity(*pictures).mean())


def measure_of(schema: Schema) -> Measure | None:
    """Return the measure of a modality, or None if its kind does not say what its integers mean."""
    outcome = registry.modality(schema.kind).outcome
    whole = not schema.unpack(schema.zeros(1)).is_floating_point()
    if (outcome is Outcome.REAL and whole) or (outcome.is_one_of_several and not schema.levels):
        return None
    return Measure(schema)


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean structural similarity of pictures, with windows of 7 x 7 pixels of equal weight.

    Args:
        one: intensities from 0 to 1, `(rows, channels, height, width)`, at least 7 x 7 pixels.
        other: the same.

    Returns:
        At most 1, `(rows,)`; 1 for equal pictures.

    Source:
        Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment".
    """

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(avg_pool2d(values, (_WINDOW, 1), 1), (1, _WINDOW), 1)

    first, second = (part**2 for part in _SMALL)
    correction = _WINDOW**2 / (_WINDOW**2 - 1)  # of variances of samples
    a, b = mean(one), mean(other)
    variance_a, variance_b = (correction * (mean(x * x) - m * m) for x, m in ((one, a), (other, b)))
    covariance = correction * (mean(one * other) - a * b)
    luminance = (2 * a * b + first) / (a * a + b * b + first)
    structure = (2 * covariance + second) / (variance_a + variance_b + second)
    return (luminance * structure).flatten(1).mean(1)  # (rows, channels, height, width) -> (rows,)


def inputs(schema: Schema, values: Tensor) -> Tensor | None:
    """Return values as columns that a linear model can learn from; None for texts.

    Args:
        schema: the modality's schema.
        values: `(rows, *event_shape)`, as networks see them.

    Returns:
        `(rows, width)`: as the schema's `columns` has them, in single precision, one for each class; or whole numbers
        as they are.
    """
    if registry.modality(schema.kind).outcome is Outcome.SEQUENCE:
        return None
    try:
        with guard(f"kind '{schema.kind}': its columns"):
            return schema.columns(values).float()
    except Exception:  # a kind of its own need not define them
        return Measure(schema).columns(values)


def _unit(schema: Schema) -> tuple[float, bool]:
    """Return by what errors are multiplied for the user's unit, and whether they stay in standard deviations."""
    zero = torch.zeros(1, *schema.event_shape)
    widths = (in_units(schema, zero + 1) - in_units(schema, zero)).flatten()
    if bool((widths == widths[0]).all()):
        return float(widths[0]), False
    return 1.0, True


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
