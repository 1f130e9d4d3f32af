"""What `modalkit evaluate` does: it asks a run questions, stores the records of all metrics, and prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from modalkit import registry
from modalkit.errors import guard
from modalkit.evaluation.metrics import accuracy, coherence, log_likelihood, reconstruction
from modalkit.evaluation.questions import Asking, Question
from modalkit.evaluation.records import Record, add_records, check_readable, record
from modalkit.evaluation.saved import SECTION, as_section, read_evaluated
from modalkit.evaluation.translating import in_words, translate
from modalkit.plugin import Figure, Metric
from modalkit.runs.folder import RunFolder
from modalkit.util.text import columns

if TYPE_CHECKING:
    from modalkit.evaluation.metrics.log_likelihood import Answer
    from modalkit.runs.opened import Run

_MOST_PARTS = 20
_WIDTH = 23
_BUILT_IN = (log_likelihood.METRIC, accuracy.METRIC, coherence.METRIC, reconstruction.METRIC)


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """Return metrics by their names.

    Raises:
        InputError: there is no such metric, or it cannot be used.
    """
    return [registry.get(registry.METRICS, name) for name in dict.fromkeys(names)]


def evaluate(
    run: Run,
    questions: Sequence[Question],
    asking: Asking,
    cohering: str | None = None,
    metrics: Sequence[Metric] = (),
    *,
    width: int = 100,
) -> str:
    """Answer questions, add the answers to the run's ``evaluation.json``, and return them as text.

    The text begins with the errors of predictions beside those of a linear model, on at most 500 of the rows. Beside
    log-likelihoods it measures how well each modality is explained by the posterior that was given it, and for each
    question that gives something how often predictions of its targets are right.

    Args:
        run: the run.
        questions: what to ask.
        asking: on which rows, with how many samples.
        cohering: ``SOURCE:TARGET`` or ``SOURCE:TARGET:GIVEN,...``: also generate the source from the target, or from
            what is given, and classify it.
        metrics: more metrics for each question that gives something; those of samples also for all targets of the
            questions that give nothing.
        width: how many characters fit a line of the table of errors.

    Raises:
        InputError: a question cannot be answered, or the file is damaged.
    """
    path = RunFolder(run.path).evaluation
    check_readable(path)  # before the work
    read_evaluated(RunFolder(run.path))  # the same
    generated = coherence.parse(run.model, cohering) if cohering else None
    answers = log_likelihood.ask(run, questions, asking)
    settings = asdict(asking) | {"data": str(run.dataset.path), "weights": run.weights}
    records = [_likelihood_record(answer, settings) for answer in answers]
    lines = [
        f"Log-likelihoods, {asking.particles} particles (± standard error over rows):\n",
        log_likelihood.in_columns(answers),
    ]
    for metric, question, key in _tasks(run, answers, metrics, generated, cohering):
        about = {"targets": question.targets, "given": question.given}
        found = record(metric, key, _measure(metric, run, question, asking), settings, {"question": about})
        records.append(found)
        lines += _lines(metric, question, found)
    counts, translated = run.model.parameter_counts(), translate(run, asking)
    records = [one for one in records if one.figures or one.metric == accuracy.METRIC.name]
    add_records(path, records, counts, {SECTION: as_section(translated.results, translated.settings)})
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    first = [f"{run.path} on {run.dataset.path}, {asking.split} rows", *in_words(run, translated, width), ""]
    return "\n".join([*first, *lines, "", f"parameters: {parts}", f"kept in {path}"])


def _tasks(
    run: Run, answers: Sequence[Answer], metrics: Sequence[Metric], generated: Question | None, cohering: str | None
) -> list[tuple[Metric, Question, str]]:
    """Return which metrics to measure beside likelihoods, of which questions, and under which keys they are kept."""
    conditional = [answer.question for answer in answers if answer.question.given]
    tasks = [(m, q, str(q)) for m in _unique([accuracy.METRIC, *metrics]) for q in conditional]
    if free := {name for answer in answers if not answer.question.given for name in answer.question.targets}:
        nothing = Question(tuple(name for name in run.model.names if name in free))
        tasks += [(m, nothing, str(nothing)) for m in _unique(metrics) if m.unconditional]
    if generated and cohering:
        tasks.append((coherence.METRIC, generated, cohering))
    return [*tasks, (reconstruction.METRIC, reconstruction.everything(run.model), "")]


def _measure(metric: Metric, run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    """Return a metric's figures; whatever an author's function raises names the metric."""
    if metric in _BUILT_IN:
        return dict(metric.measure(run, question, asking))
    with guard(f"metric '{metric.name}' of {question}"):
        return {str(part): _figure(str(part), figure) for part, figure in metric.measure(run, question, asking).items()}


def _figure(part: str, figure: object) -> Figure:
    """Return what an author's function says of a part, as two floats."""
    if not isinstance(figure, Sequence) or len(figure) != 2:
        raise TypeError(f"returned {figure!r} for '{part}'; return a pair: the figure and its standard error, or NaN")
    return float(figure[0]), float(figure[1])


def _unique(metrics: Iterable[Metric]) -> list[Metric]:
    return list({metric.name: metric for metric in metrics}.values())


def _likelihood_record(answer: Answer, settings: dict[str, object]) -> Record:
    key = f"{answer.question} by q(z|{', '.join(answer.question.proposal)})"
    return record(log_likelihood.METRIC, key, {"": answer.log_p}, settings, asdict(answer))


def _lines(metric: Metric, question: Question, found: Record) -> list[str]:
    """Return a heading and a metric's figures, a line each; of many parts the first."""
    if not found.figures:
        return []
    names = {"targets": ", ".join(question.targets), "given": ", ".join(question.given)}
    asked = str(question).removeprefix("log ")
    most = len(found.figures) if metric is reconstruction.METRIC else _MOST_PARTS
    unit = " %" if metric.display.unit == "%" else ""
    lines = [
        ("", part or names["targets"], metric.display.text(figure, unit=unit))
        for part, figure in list(found.figures.items())[:most]
    ]
    title = f"{metric.display.title(metric.summary)}, {asked}"
    if metric.heading is not None:
        title = metric.heading.format(question=asked, **names)
    return ["", f"{title}:", columns(lines, least=(0, _WIDTH))]
