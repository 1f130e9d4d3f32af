"""Where several answers are right: whether samples give all of them, in the right shares."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from modalkit import registry
from modalkit.evaluation.metrics import jackknife
from modalkit.evaluation.questions import Asking, Question
from modalkit.generation.classified import ClassReader
from modalkit.generation.drawing import GROUPS, class_of, generate, groups_of, having, real, sources
from modalkit.plugin import Display, Figure, Metric
from modalkit.runs.opened import Run

_log = logging.getLogger(__name__)
SAMPLES = 20
"""Samples of each row."""


def measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    r"""Return how far the classes of samples are from the classes that training rows with the same given values have.

    This is the total variation distance :math:`\frac{1}{2} \sum_c |p(c|g) - q(c|g)|`, averaged over held-out rows.
    p(c|g) are the shares of the class c in training rows with the given values g, and q(c|g) those in samples. 0 means
    that all right answers are given in the right shares.
    """
    given, model = question.given, run.model
    others = [name for name in model.names if name not in given]
    asked = class_of(model, question.targets) or class_of(model, others) or class_of(model, given)
    if not given or asked is None:
        return {}
    if open_ := [name for name in given if not registry.modality(model.schemas[name].kind).outcome.has_classes]:
        _log.warning(
            f"{question}: no one-to-many coherence, because {', '.join(open_)} is no class, level, bit or text, so "
            f"that no two rows are given the same"
        )
        return {}
    reader, found = ClassReader(run, asked, question.targets, asking.seed), dict[str, Figure]()
    for target in reader.names:
        rows = having(run, asking.rows_of(run.dataset), {target, asked, *given})
        known = _Known.of(run, asked, given, rows)
        if known is None:
            _log.warning(
                f"{question}: no one-to-many coherence of {target}, because training and held-out rows are given the "
                f"same too rarely; use more --rows, or give fewer modalities"
            )
            continue
        rows = rows[known.usable]
        for source, sampler in sources(run, given).items():
            drawn = generate(run, given, (target,), rows, sampler, asking.seed, SAMPLES)
            shown = [_each(reader, target, one[target]) for one in drawn]
            found[f"{target}: {source}"] = known.distance(torch.cat(shown, 1))
        if target == asked:
            shown = [_stored(run, asked, rows)[None]]
        else:
            shown = [_each(reader, target, one[target][None]) for one in real(run, (target,), rows, asking.seed)]
        found[f"{target}: real"] = known.distance(torch.cat(shown, 1))
    return found


class _Known:
    """The right answers of held-out rows, from the training rows that are given the same.

    Args:
        classes: the values of the class in training rows, `(training rows, numbers)`.
        same: which given values each training row has, int64 `(training rows,)`; equal numbers are equal values.
        usable: which of the held-out rows have given values that training rows have, bool `(rows,)`.
        groups: the given values of the held-out rows that are usable, int64 `(usable rows,)`.
    """

    def __init__(self, classes: Tensor, same: Tensor, usable: Tensor, groups: Tensor) -> None:
        self.classes, self.same, self.usable, self.groups = classes, same, usable, groups

    @staticmethod
    def of(run: Run, asked: str, given: tuple[str, ...], rows: Tensor) -> _Known | None:
        """Return the right answers of rows; None if there are fewer than ten rows for each value that is given."""
        training = having(run, run.dataset.rows("train"), {asked, *given})
        values = torch.cat([_stored(run, name, torch.cat([training, rows])) for name in given], 1)
        same, held_out = torch.tensor_split(_numbered(values), [len(training)])
        usable = torch.isin(held_out, same)
        if not bool(usable.any()) or int(usable.sum()) < GROUPS * len(torch.unique(held_out[usable])):
            return None
        return _Known(_stored(run, asked, training), same, usable, held_out[usable])

    def distance(self, shown: Tensor) -> Figure:
        """Return the total variation distance of classes, `(samples, usable rows, numbers)`, and its error."""
        samples, rows, _ = shown.shape
        numbers = _numbered(torch.cat([self.classes, shown.flatten(0, 1)]))
        sizes = int(torch.cat([self.same, self.groups]).max()) + 1, int(numbers.max()) + 1
        right = _counts((self.same, numbers[: len(self.classes)]), sizes)
        blocks, kept = groups_of(rows), min(GROUPS, rows)
        index = (blocks.repeat(samples), self.groups.repeat(samples), numbers[len(self.classes) :])
        each = _counts(index, (kept, *sizes))
        p = right / right.sum(1, keepdim=True).clamp(min=1)

        def total_variation(counts: Tensor) -> float:
            made = torch.tensordot(counts, each, 1)  # (groups of given values, classes)
            of_group = made.sum(1, keepdim=True)
            apart = (p - made / of_group.clamp(min=1)).abs().sum(1) / 2
            return float((apart * of_group[:, 0]).sum() / of_group.sum())

        return jackknife(total_variation, kept)


def _numbered(values: Tensor) -> Tensor:
    """Return a number from 0 for each row of `(rows, numbers)`, int64 `(rows,)`; equal rows have equal ones."""
    numbers: Tensor = torch.unique(values, dim=0, return_inverse=True)[1]
    return numbers


def _counts(index: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Tensor:
    """Return how often each index occurs, float64 `sizes`."""
    found = torch.zeros(sizes, dtype=torch.double)
    return found.index_put_(index, torch.ones((), dtype=torch.double), accumulate=True)


def _stored(run: Run, name: str, rows: Tensor) -> Tensor:
    """Return a modality's values as columns of integers, `(rows, numbers)`."""
    return run.model.schemas[name].unpack(run.dataset.values(name, rows)).reshape(len(rows), -1).long()


def _each(reader: ClassReader, target: str, values: Tensor) -> Tensor:
    """Return the classes of samples, `(samples, batch, *event_shape)`, as integers `(samples, batch, numbers)`."""
    read = reader.read(target, values.flatten(0, 1))
    return read.reshape(*values.shape[:2], -1).long()  # (samples * batch, …) -> (samples, batch, numbers)


METRIC = Metric(
    name="one-to-many",
    summary="Distance of the classes of samples from the right shares",
    measure=measure,
    display=Display("%", higher_is_better=False, factor=100, digits=2, pages=("report", "compare")),
)
