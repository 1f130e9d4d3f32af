"""A metric: how well a trained model predicts some modalities from others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from modalkit.evaluation.questions import Asking, Question
    from modalkit.runs.opened import Run

Figure: TypeAlias = tuple[float, float]
"""A mean over rows and its standard error; NaN where there are too few rows for it."""


@dataclass(frozen=True)
class Display:
    """How a metric's figures are shown. ``evaluation.json`` stores it beside them, so pages need no plugin.

    Attributes:
        unit: such as ``"nats"``, ``"cm"`` or ``"%"``; empty for a plain number.
        higher_is_better: None where neither direction is better.
        factor: a stored number times this factor has the unit; 100 for a share that is shown in per cent.
        digits: digits after the decimal point in what `modalkit evaluate` and `modalkit compare` print; the report
            shows one less.
        pages: where the figures appear beside the output of `modalkit evaluate`: ``report``, ``compare``, ``card``.
    """

    unit: str = ""
    higher_is_better: bool | None = True
    factor: float = 1.0
    digits: int = 3
    pages: tuple[str, ...] = ("report", "compare", "card")

    def title(self, summary: str) -> str:
        """Return a metric's summary with its unit, as it stands above a table.

        >>> Display("%").title("Right predictions")
        'Right predictions, per cent'
        """
        unit = "per cent" if self.unit == "%" else self.unit
        return f"{summary}, {unit}" if unit else summary

    def text(self, figure: Sequence[float | None], digits: int | None = None, unit: str = "") -> str:
        """Return a mean and its standard error as text; a dash where there is no mean.

        Args:
            figure: both as stored, None for what is not known.
            digits: after the decimal point, in place of the metric's own.
            unit: text to put behind the mean.

        Example:
            >>> Display("%", factor=100, digits=2).text((0.8, 0.0125), unit=" %")
            '80.00 % ± 1.25'
        """
        mean, error = figure
        if mean is None:
            return "–"
        digits = self.digits if digits is None else digits
        behind = "" if error is None else f" ± {self.factor * error:.{digits}f}"
        return f"{self.factor * mean:.{digits}f}{unit}{behind}"


@dataclass(frozen=True)
class Metric:
    """A metric that `modalkit evaluate` measures, and that the report, `modalkit compare` and model cards show.

    Attributes:
        name: the name that `modalkit evaluate --metrics` takes.
        summary: what it is, in a few words; the caption of its tables.
        measure: `(run, question, asking) ->` figures by part, such as one for each target. The question says which
            targets are predicted given which other modalities; `asking` says on which rows, with which seed. No
            figures mean that the metric does not apply to this question. `modalkit.evaluation.metrics.of_predictions`
            makes such a function from one that compares predictions with true values.
        display: the unit, which direction is better, and how numbers are shown.
        heading: the line above its figures in the output of `modalkit evaluate`; ``{question}``, ``{targets}`` and
            ``{given}`` stand for the question's. By default the summary and the question.
        unconditional: whether it is also asked once of all targets given nothing: a metric of samples.
    """

    name: str
    summary: str
    measure: Callable[[Run, Question, Asking], Mapping[str, Figure]]
    display: Display = Display()
    heading: str | None = None
    unconditional: bool = False
