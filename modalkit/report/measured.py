"""What `modalkit evaluate` measured: tables of errors and log-likelihoods, and one for each other metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from modalkit.evaluation.metrics import accuracy, log_likelihood
from modalkit.evaluation.records import Record
from modalkit.evaluation.saved import read_evaluated
from modalkit.report.errors import errors_table
from modalkit.report.page import Section, table
from modalkit.report.sources import Source

_MOST_LINES = 40


def measured(source: Source) -> Section | None:
    """Show the errors and every metric of the run's ``evaluation.json``."""
    by_metric: dict[str, list[Record]] = {}
    for record in source.records("report"):
        by_metric.setdefault(record.metric, []).append(record)
    likelihoods = by_metric.pop(log_likelihood.METRIC.name, [])
    parts = _errors(source)
    parts += [_likelihoods(likelihoods)] if likelihoods else []
    parts += [made for records in by_metric.values() if (made := _figures(records)) is not None]
    return Section("Evaluation", "As `modalkit evaluate` left it in evaluation.json.", parts) if parts else None


def _errors(source: Source) -> list[Markup]:
    """Return the table of errors, with the rows and weights that it was measured on."""
    if (found := read_evaluated(source.folder)) is None:
        return []
    best = source.model is not None and found.settings.get("weights") == source.model.weights
    rows = f"{found.rows}, by {'the best weights' if best else 'other weights than the best'}"
    recipe = source.recipe
    return errors_table(found.results, source.names, recipe.explained, recipe.model.latent_dim, rows)


def _likelihoods(records: Sequence[Record]) -> Markup:
    """Return log-likelihoods and how good the importance sampling was."""
    lines = [
        (
            one.question,
            one.display.text(one.figures[""], one.display.digits - 1),
            _mean(one.details.get("variance")),
            _mean(one.details.get("ess")),
            one.details.get("rows", ""),
        )
        for one in records
    ]
    head = ("question", "log p", "var log w", "ESS", "rows")
    return table(f"{_title(records[0])} a row", head, lines, kind="figures")


def _figures(records: Sequence[Record]) -> Markup | None:
    """Return the figures of one metric, a line each; None where there are none."""
    lines = [
        (
            ", ".join(filter(None, (part, one.question.removeprefix("log ")))),
            one.display.text(figure, max(0, one.display.digits - 1)),
        )
        for one in records
        for part, figure in one.figures.items()
        if figure[0] is not None
    ]
    name = records[0].metric
    head = ("prediction", "right" if name == accuracy.METRIC.name else name)
    return table(_title(records[0]), head, lines[:_MOST_LINES], kind="figures") if lines else None


def _title(record: Record) -> str:
    return record.display.title(record.summary)


def _mean(figure: Any) -> str:
    value = figure[0] if isinstance(figure, list) else figure
    return f"{value:.2f}" if isinstance(value, int | float) else "–"
