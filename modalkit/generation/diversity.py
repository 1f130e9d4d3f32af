"""How much samples differ from each other, in proportion to held-out rows."""

from __future__ import annotations

import torch
from torch import Tensor

from modalkit.evaluation.metrics import jackknife
from modalkit.evaluation.questions import Asking, Question
from modalkit.generation.drawing import generate, groups_of, having, is_class, real, sources
from modalkit.plugin import Display, Figure, Metric, Outcome
from modalkit.registry import modality
from modalkit.runs.opened import Run


def measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    """Return the mean distance of two samples that are given the same, divided by that of two held-out rows.

    The distance is Euclidean, over the numbers of a modality as networks see them. Given nothing, 1 means that samples
    vary as much as data. Given something, data vary less than two rows do; how much less is not known.
    """
    found: dict[str, Figure] = {}
    for target in question.targets:
        schema = run.model.schemas[target]
        if is_class(schema) or modality(schema.kind).outcome is Outcome.SEQUENCE:
            continue
        rows = having(run, asking.rows_of(run.dataset), {target, *question.given})
        if len(rows) < 2:
            continue
        values = torch.cat([one[target] for one in real(run, (target,), rows, asking.seed)])
        apart = _apart(values, values.roll(1, 0))  # neighbours, the last with the first
        for source, sampler in sources(run, question.given).items():
            drawn = generate(run, question.given, (target,), rows, sampler, asking.seed, 2)
            between = torch.cat([_apart(*one[target]) for one in drawn])
            if float(apart.sum()) > 0:
                found[f"{target}: {source}"] = _ratio(between, apart)
    return found


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the distances of values, `(rows, *event_shape)` each, float64 `(rows,)`."""
    return (one.double() - other.double()).flatten(1).square().sum(1).sqrt()


def _ratio(between: Tensor, apart: Tensor) -> Figure:
    """Return the sum of the first divided by that of the second, `(rows,)` each, and its standard error."""
    groups = groups_of(len(apart))
    sums = torch.zeros(2, int(groups.max()) + 1, dtype=torch.double)
    sums = sums.index_add_(1, groups, torch.stack([between, apart]))
    return jackknife(lambda counts: float((sums[0] @ counts) / (sums[1] @ counts)), sums.shape[1])


METRIC = Metric(
    name="diversity",
    summary="Distance of two samples, in proportion to that of two held-out rows",
    measure=measure,
    display=Display(higher_is_better=None, pages=("report", "compare")),
    unconditional=True,
)
