"""Calibration: whether predictions with probability p are right with frequency p."""

from __future__ import annotations

from markupsafe import Markup
from torch import Tensor

from modalkit import registry
from modalkit.inference import TrainedModel
from modalkit.plugin import Outcome
from modalkit.report import svg
from modalkit.report.page import Section, figure, grid, note, table
from modalkit.report.sources import HeldOut, Source, take_rows

_MOST, _BINS, _DRAWS = 12, 10, 32


def calibration(source: Source, seed: int) -> Section | None:
    """Show reliability diagrams of the classes and bits, each predicted from all other modalities."""
    if source.model is None or source.held_out is None:
        return None
    charts: list[Markup] = []
    lines: list[tuple[str, ...]] = []
    more = 0
    for name in source.model.predictable:
        if not _has_probabilities(registry.modality(source.model.schemas[name].kind).outcome):
            continue
        if len(lines) == _MOST:
            more += 1
        elif (found := _claims(source.model, source.held_out, name, seed)) is not None:
            chart, line = _diagram(name, *found)
            charts.append(chart)
            lines.append(line)
    if not lines:
        return None
    head = ("modality", "observed", "predicted", "calibration error", "Brier score")
    caption = "Means over all predictions; in the last two columns, lower is better"
    parts = [grid(charts), table(caption, head, lines, kind="figures")]
    if more:
        parts.append(note(f"The first {_MOST} are shown; there are {more} more."))
    lead = (
        "Each modality is predicted from everything else that a row has. For bits, the chart compares the probability "
        "of 1 with how often the bit is 1. For classes, it compares the probability of the most probable class with "
        "how often that class is right. On the dashed line both are equal. Larger dots have more cases."
    )
    return Section("Calibration", lead, parts)


def _has_probabilities(outcome: Outcome) -> bool:
    """Tell whether predictions of an outcome state a probability: that of 1, or that of each class."""
    return outcome is Outcome.BINARY or outcome.is_one_of_several


def _diagram(name: str, probability: Tensor, happened: Tensor) -> tuple[Markup, tuple[str, ...]]:
    """Return one modality's reliability diagram, and its line in the table."""
    bins, error = reliability(probability, happened)
    caption = f"{len(probability):,} predictions; expected calibration error {error:.3f}"
    brier = float((probability - happened).square().mean())
    means = (float(happened.mean()), float(probability.mean()), error, brier)
    return figure(svg.reliability(name, bins), caption), (name, *(f"{mean:.3f}" for mean in means))


def reliability(probability: Tensor, happened: Tensor) -> tuple[list[tuple[float, float, int]], float]:
    r"""Return a reliability diagram's bins, and the expected calibration error :math:`\sum_b n_b / n |p_b - f_b|`.

    Args:
        probability: predicted probabilities, `(cases,)`.
        happened: 1 if the predicted thing happened, else 0, `(cases,)`.

    Returns:
        Mean probability, frequency and number of cases of each bin that has cases, where all bins have equal width; and
        the error.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.

    Example:
        >>> import torch
        >>> reliability(torch.tensor([0.25, 0.25, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
        ([(0.25, 0.5, 2), (1.0, 1.0, 1)], 0.16666666666666666)
    """
    place, found = (probability * _BINS).long().clamp(max=_BINS - 1), []
    for index in range(_BINS):
        here = place == index
        if here.any():
            found.append((float(probability[here].mean()), float(happened[here].mean()), int(here.sum())))
    return found, sum(count / len(probability) * abs(p - f) for p, f, count in found)


def _claims(asked: TrainedModel, held_out: HeldOut, name: str, seed: int) -> tuple[Tensor, Tensor] | None:
    """Return predicted probabilities and whether the predicted thing happened, `(cases,)`; None without any rows."""
    present, column = held_out.batch.present, asked.modalities.index(name)
    others = present.clone()
    others[:, column] = False
    given = asked.usable(others)
    rows = (present[:, column] & given.any(1) & asked.model.allows(given)).nonzero().squeeze(1)
    if not len(rows):
        return None
    predicted = asked.infer(take_rows(held_out.batch, rows, given[rows]), [name], draws=_DRAWS, seed=seed)[name]
    truth = asked.schemas[name].unpack(held_out.batch.values[name][rows])
    if predicted.probability is not None:  # of a class
        return predicted.probability.double(), (predicted.value == truth).double()
    return predicted.value.double().flatten(), truth.double().flatten()
