"""Whether the modalities of one sample, drawn given nothing, show the same class."""

from __future__ import annotations

import logging

import torch

from modalkit.evaluation.metrics import mean_and_error
from modalkit.evaluation.questions import Asking, Question
from modalkit.generation.classified import ClassReader
from modalkit.generation.drawing import class_of, generate, having, real, sources
from modalkit.plugin import Display, Figure, Metric
from modalkit.runs.opened import Run

_log = logging.getLogger(__name__)


def measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    """Return the share of unconditional samples in which all targets show the same class, and of real rows.

    Of a class with several parts, such as attributes, the share of its parts counts.

    Source:
        Shi et al. 2019, "Variational mixture-of-experts autoencoders for multi-modal deep generative models", section
        4.1.
    """
    if question.given:
        return {}
    asked = class_of(run.model, question.targets) or class_of(run.model, run.model.names)
    reader = ClassReader(run, asked, question.targets, asking.seed) if asked else None
    if reader is None or len(reader.names) < 2:
        _log.warning(f"{question}: no joint coherence, because it needs a class and two modalities that show it")
        return {}
    rows = asking.rows_of(run.dataset)
    found: dict[str, Figure] = {}
    for source, sampler in sources(run, ()).items():
        drawn = generate(run, (), reader.names, rows, sampler, asking.seed)
        shares = [reader.agreement({name: values[0] for name, values in one.items()}) for one in drawn]
        found[source] = mean_and_error(torch.cat(shares))
    if len(complete := having(run, rows, reader.names)):
        shares = [reader.agreement(one) for one in real(run, reader.names, complete, asking.seed)]
        found["real"] = mean_and_error(torch.cat(shares))
    return found


METRIC = Metric(
    name="joint-coherence",
    summary="Joint coherence, samples whose modalities show the same class",
    measure=measure,
    display=Display("%", factor=100, digits=2, pages=("report", "compare")),
    unconditional=True,
)
