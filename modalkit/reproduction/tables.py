"""Tables 1 to 5: the paper's numbers beside measured ones."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modalkit.errors import InputError
from modalkit.evaluation.metrics.log_likelihood import Answer, ask
from modalkit.evaluation.questions import Asking, Question, allows
from modalkit.model import MultimodalVAE, assemble
from modalkit.recipe.loading import load_recipe
from modalkit.reproduction.paper import DATASETS, KNOWN_DIFFERENCES, PARTICLES, TABLE1, TABLES, Line
from modalkit.reproduction.runs import RunProvider
from modalkit.runs.opened import Run
from modalkit.runs.saved_state import saved_progress
from modalkit.util.files import write_text
from modalkit.util.text import columns

_log = logging.getLogger(__name__)

DYNAMIC = "binary_mnist_dynamic"
"""BinaryMNIST binarised anew at every training step, and tested on the fixed test images."""


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        quantity: what is measured.
        system: of which model.
        dataset: on what.
        paper: the paper's number, if it has one.
        measured: ours, if there is one.
        error: its standard error over rows.
        note: how it was obtained.
    """

    quantity: str
    system: str
    dataset: str
    paper: float | None
    measured: float | None
    error: float | None = None
    note: str = ""


def inference_parameters(model: MultimodalVAE) -> int:
    """Return how many parameters infer z: those of everything but the decoders.

    They are the experts (encoders and heads), and where a model has them the joint network and what sees a condition.

    Args:
        model: such as `modalkit.model.assemble` returns.

    Source:
        Wu & Goodman 2018, table 1.
    """
    return sum(count for part, count in model.parameter_counts().items() if not part.startswith("decoder."))


def table1() -> list[Entry]:
    """Count the inference networks' parameters of every shipped recipe in Table 1."""
    found = []
    for system, numbers in TABLE1.items():
        for dataset, paper in numbers.items():
            model = assemble(load_recipe(Path(f"{dataset}_{system}")))
            note = KNOWN_DIFFERENCES.get((system, dataset), "")
            found.append(Entry("parameters", system, dataset, paper, inference_parameters(model), note=note))
    return found


def likelihoods(
    table: str, dataset: str, provider: RunProvider, rows: int | None = None, particles: int | None = None
) -> list[Entry]:
    """Measure one dataset's column of Tables 2 to 5.

    Args:
        table: ``table2`` to ``table5``.
        dataset: one of `DATASETS`, or `DYNAMIC`.
        provider: how required runs are found or trained.
        rows: at most so many test rows.
        particles: in place of the paper's.
    """
    if dataset not in (*DATASETS, DYNAMIC):
        raise InputError(f"--dataset {dataset}: give one of {', '.join((*DATASETS, DYNAMIC))}")
    column = DATASETS.index("binary_mnist" if dataset == DYNAMIC else dataset)
    samples, prior = PARTICLES.get(dataset, (1000, 5000))
    asking = Asking(rows=rows, particles=particles or samples, prior_particles=prior)
    lines = [line for line in TABLES[table] if line.values[column] is not None]
    systems = ["mvae"] if dataset == DYNAMIC else list(dict.fromkeys(line.system for line in lines))
    found: list[Entry] = []
    for system in systems:
        name = "celeba19_mvae" if system == "mvae19" else f"{dataset}_{system}"
        try:
            run = provider.run(name, data=provider.dataset("binary_mnist_mvae") if dataset == DYNAMIC else None)
        except InputError as error:
            if provider.train:
                raise
            _log.warning(f"left out: {error}")
            continue
        found += _measure(table, run, [line for line in lines if line.system == system], dataset, column, asking)
    if not found:
        raise InputError(f"{provider.runs}: no run of {dataset} there; leave out --no-train, or choose another --runs")
    return found


def _measure(table: str, run: Run, lines: list[Line], dataset: str, column: int, asking: Asking) -> Iterator[Entry]:
    # All tables ask what Table 2 does, so that they share their passes over the rows.
    system = lines[0].system
    quantities = [line.quantity for line in TABLES["table2"] if line.system == system and line.values[column]]
    questions = [_question(table, quantity, run.model) for quantity in quantities]
    answers = dict(zip(quantities, ask(run, questions, asking), strict=True))
    done = saved_progress(run.folder)
    note = f"epoch {done.best_epoch} of {done.epoch}"
    for line in lines:
        value, error = _value(table, answers[line.quantity])
        yield Entry(line.quantity, line.system, dataset, line.values[column], value, error, note)


def _value(table: str, answer: Answer) -> tuple[float, float]:
    return answer.log_p if table in ("table2", "table3") else answer.variance


def _question(table: str, quantity: str, model: MultimodalVAE) -> Question:
    """Return what a table's quantity asks: x is the recipe's first modality, y the others.

    Tables 2 and 4 propose with q(z|x), where the model has it (CVAE has q(z|x, y) alone); 3 and 5 with that of all.
    """
    image, *others = model.names
    proposal = (image,) if table in ("table2", "table4") and allows(model, (image,)) else model.names
    if quantity == "marginal":
        return Question((image,), (), proposal)
    if quantity == "joint":
        return Question(model.names, (), proposal)
    return Question((image,), tuple(others), proposal)


def text(entries: list[Entry]) -> str:
    """Lay entries out: the paper's number, the measured one with its standard error, and the difference."""
    head = ("", "system", "dataset", "paper", "measured", "difference", "")
    lines = [head]
    for e in entries:
        number = "{:,}" if e.quantity == "parameters" else "{:.3f}"
        measured = "" if e.measured is None else number.format(e.measured)
        measured += f" ± {e.error:.3f}" if e.error is not None else ""
        gap = "" if e.paper is None or e.measured is None else e.measured - e.paper
        difference = (
            "" if gap == "" else "0" if gap == 0 else f"{gap:+,.0f}" if e.quantity == "parameters" else f"{gap:+.3f}"
        )
        paper = "" if e.paper is None else number.format(e.paper)
        lines.append((e.quantity, e.system, e.dataset, paper, measured, difference, e.note))
    return columns(lines)


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows with the same keys as a CSV file."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, written.getvalue())
