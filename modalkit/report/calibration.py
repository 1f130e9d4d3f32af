"""Whether what is predicted with probability p happens with frequency p."""

from __future__ import annotations

from markupsafe import Markup
from torch import Tensor

from modalkit import registry
from modalkit.inference import Prediction, TrainedModel
from modalkit.report import svg
from modalkit.report.page import Section, figure, grid, note, table
from modalkit.report.sources import HeldOut, Source
from modalkit.report.sources import take_rows as some

_MOST, _BINS, _DRAWS = 12, 10, 32


def calibration(source: Source, seed: int) -> Section | None:
    """Show reliability diagrams of the classes and bits, each predicted from all others."""
    if source.model is None or source.held_out is None:
        return None
    charts: list[Markup] = []
    lines: list[tuple[str, ...]] = []
    more = 0
    for name in source.model.predictable:
        if registry.modality(source.model.schemas[name].kind).correct is None:
            continue
        if len(lines) == _MOST:
            more += 1
            continue
        found = _claims(source.model, source.held_out, name, seed)
        if found is not None:
            probability, happened = found
            bins, error = reliability(probability, happened)
            caption = f"{len(probability):,} predictions; expected calibration error {error:.3f}"
            charts.append(figure(svg.reliability(name, bins), caption))
            brier = float((probability - happened).square().mean())
            lines.append(
                (
                    name,
                    f"{float(happened.mean()):.3f}",
                    f"{float(probability.mean()):.3f}",
                    f"{error:.3f}",
                    f"{brier:.3f}",
                )
            )
    if not lines:
        return None
    head = ("modality", "observed", "predicted", "calibration error", "Brier score")
    parts = [
        grid(charts),
        table("Means over all predictions; nearer to 0 is better in the last two", head, lines, kind="figures"),
    ]
    if more:
        parts.append(note(f"The first {_MOST} are shown; there are {more} more."))
    lead = (
        "Each modality predicted from what else a row has. Bits: the probability of 1 against how often it was 1. "
        "Classes: the probability of the likeliest class against how often it was right. On the dashed line a "
        "prediction means what it says; larger dots have more cases."
    )
    return Section("Calibration", lead, parts)


def reliability(probability: Tensor, happened: Tensor) -> tuple[list[tuple[float, float, int]], float]:
    r"""Return a reliability diagram's bins, and the expected calibration error :math:`\sum_b n_b / n |p_b - f_b|`.

    Args:
        probability: predicted, `(cases,)`.
        happened: 0 or 1, `(cases,)`.

    Returns:
        For each bin of equal width that has any case: mean probability, frequency, number of cases; and the error.

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
    """Return probabilities and whether what they are of happened, `(cases,)`; None where a kind states none."""
    present, column = held_out.batch.present, asked.modalities.index(name)
    others = present.clone()
    others[:, column] = False
    given = asked.usable(others)
    rows = (present[:, column] & given.any(1) & asked.model.allows(given)).nonzero().squeeze(1)
    if not len(rows):
        return None
    predicted: Prediction = asked.infer(some(held_out.batch, rows, given[rows]), [name], draws=_DRAWS, seed=seed)[name]
    truth = asked.schemas[name].unpack(held_out.batch.values[name][rows])
    if predicted.probabilities is not None and predicted.probability is not None:
        return predicted.probability.double(), (predicted.value == truth).double()
    value = predicted.value
    bits = bool(((truth == 0) | (truth == 1)).all()) and value.is_floating_point()
    if bits and bool(((value >= 0) & (value <= 1)).all()):
        return value.double().flatten(), truth.double().flatten()
    return None
