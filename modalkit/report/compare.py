"""Several runs side by side, on a page and on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalkit.errors import InputError
from modalkit.evaluation.measures import ACCURACY
from modalkit.evaluation.metrics import accuracy, log_likelihood
from modalkit.evaluation.records import Record
from modalkit.evaluation.reference import ALL
from modalkit.evaluation.saved import read_errors
from modalkit.evaluation.translation_text import MEASURES, explained, value_text
from modalkit.report import svg
from modalkit.report.facts import chart_title, metric_names, points
from modalkit.report.page import Section, best, figure, many, note, render, table
from modalkit.report.run import best_validation
from modalkit.report.sources import Source, open_source
from modalkit.runs.folder import leaves
from modalkit.util.text import clipped, columns

_MOST_CURVES, _MOST_LINES, _MOST_PRINTED = 24, 600, 60
_SAME = "The recipes are the same, key by key."
_NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """A row of a table, with a cell for each run.

    Attributes:
        name: its heading.
        cells: text, such as a number, or a dash where a run has nothing.
        higher_is_better: None where neither direction is better.
        values: the numbers by which the best cell is found, None where a run has nothing; by default what the cells
            begin with.
    """

    name: str
    cells: Sequence[str]
    higher_is_better: bool | None = None
    values: Sequence[float | None] | None = None

    def scores(self) -> list[float]:
        """Return a number for each cell, the higher the better; minus infinity where a run has nothing."""
        values = self.values or [
            None if text == _NOTHING else float(text.split(" ±")[0].replace(",", "")) for text in self.cells
        ]
        sign = 1 if self.higher_is_better else -1
        return [float("-inf") if value is None else sign * value for value in values]


def compare(paths: Sequence[Path], *, trust: bool = False) -> tuple[str, str]:
    """Return runs side by side as an HTML page, and as text.

    Args:
        paths: two run folders or more.
        trust: whether the code may run that the recipes name.

    Raises:
        InputError: there are fewer than two, one is given twice, or one is not a run or names code that may not run.
    """
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise InputError("compare needs two run folders or more, each once")
    runs = dict(zip(_titles(paths), (open_source(path, model=False, trust=trust) for path in paths), strict=True))
    tables = {
        "Errors": _errors(runs),
        "Metrics": _metrics(runs),
        "Recipes": _recipes(runs),
        "Translations": _translations(runs),
        "Evaluation": _evaluation(runs),
    }
    sections = [made for title, (lead, rows) in tables.items() if (made := _section(title, lead, rows, runs))]
    sections.insert([one.title for one in sections].index("Metrics") + 1, _curves(runs))
    command = shlex.join(["modalkit", "compare", *map(str, paths)])
    page = render("Comparison of runs", ", ".join(runs), [], sections, command)
    texts = [text for title, (_, rows) in tables.items() if (text := _text(title, rows, runs))]
    return page, "\n\n".join(texts)


def _section(title: str, lead: str, rows: Sequence[Row], runs: Mapping[str, Source]) -> Section | None:
    """Return a table as a section of the page; None where it has no rows, unless that means equal recipes."""
    if not rows:
        return Section(title, _SAME, []) if title == "Recipes" else None
    lines = ([row.name, *_with_best(row)] for row in rows[:_MOST_LINES])
    parts = [table(f"{title} of {len(runs)} runs", ["", *runs], lines, kind="figures")]
    if len(rows) > _MOST_LINES:
        parts.append(note(f"The first {_MOST_LINES} of {len(rows)} lines are shown."))
    return Section(title, lead, parts)


def _text(title: str, rows: Sequence[Row], runs: Mapping[str, Source]) -> str:
    """Return a table as text; empty where it has no rows, unless that means equal recipes."""
    if not rows:
        return f"{title}\n{_SAME}" if title == "Recipes" else ""
    cut = f"\n(the first {_MOST_PRINTED} of {len(rows)} lines; the page has more)"
    printed = columns([["", *runs], *([row.name, *row.cells] for row in rows[:_MOST_PRINTED])])
    return f"{title}\n{printed}{cut if len(rows) > _MOST_PRINTED else ''}"


def _with_best(row: Row) -> list[object]:
    """Return a row's cells; the best number stands out, if not all are equal."""
    if row.higher_is_better is None:
        return list(row.cells)
    scores = row.scores()
    highest = max(scores) if len(set(scores)) > 1 else None
    return [best(text) if score == highest else text for text, score in zip(row.cells, scores, strict=True)]


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return the runs' names, or their whole paths where two have the same name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _recipes(runs: Mapping[str, Source]) -> tuple[str, list[Row]]:
    """Return the keys in which the recipes differ, with a dash for a recipe without the key."""
    every = [dict(leaves(run.recipe.model_dump(mode="json", exclude={"extends"}))) for run in runs.values()]
    rows = []
    for key in dict.fromkeys(key for one in every for key in one):
        values = [_in_yaml(one[key]) if key in one else _NOTHING for one in every]
        if len(set(values)) > 1:
            rows.append(Row(key, values))
    return "The keys in which the recipes differ.", rows


def _alike(runs: Mapping[str, Source], *modalities: str, objective: bool = False) -> bool:
    """Tell whether runs have the same dataset and state some modalities alike, networks aside, so that nats compare.

    Args:
        runs: the runs.
        modalities: their names; all by default.
        objective: whether the objectives and the sets of modalities must be the same too.
    """
    stated = []
    for run in runs.values():
        schemas = run.recipe.modalities
        asked = {n: schemas[n].model_dump(exclude={"network"}) for n in modalities or schemas if n in schemas}
        stated.append((str(run.recipe.data.path), asked, (run.recipe.objective, set(schemas)) if objective else None))
    return all(one == stated[0] for one in stated)


def _in_yaml(value: Any) -> str:
    """Return a value as a recipe has it, cut to a readable length."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return clipped(text, 60)


def _metrics(runs: Mapping[str, Source]) -> tuple[str, list[Row]]:
    """Return what training logged at the epoch of the best validation ELBO."""
    bests = [best_validation(run) for run in runs.values()]
    rows = [
        Row(
            "best validation ELBO",
            [f"{one[0]:,.3f}" if one else _NOTHING for one in bests],
            higher_is_better=True if _alike(runs, objective=True) else None,
        ),
        Row("its epoch", [str(one[1]) if one else _NOTHING for one in bests]),
        Row("steps done", [f"{run.metrics[-1]['step']:,}" if run.metrics else _NOTHING for run in runs.values()]),
    ]
    lines = [
        next((x for x in run.metrics if x["split"] == "valid" and one and x["epoch"] == one[1]), {})
        for run, one in zip(runs.values(), bests, strict=True)
    ]
    for name in dict.fromkeys(name for line in lines for name in line if name == "kl" or name.startswith("log_px/")):
        cells = [f"{line[name]:,.3f}" if name in line else _NOTHING for line in lines]
        better = name != "kl" and _alike(runs, name.removeprefix("log_px/"), objective=True)
        rows.append(Row(name, cells, higher_is_better=True if better else None))
    lead = (
        "Nats a row on validation rows, from the logs, at the epoch of the best ELBO. The ELBO sums all terms of an "
        "objective, so it compares only runs whose objectives, modalities and data are the same; log_px and the KL are "
        "those of the first term, which is given all that a row has where an objective has such a term. The best "
        "number stands out where the runs are the same in this."
    )
    return lead, rows


def _errors(runs: Mapping[str, Source]) -> tuple[str, list[Row]]:
    """Return in how many cells a linear model is better, and the error of each cell, those from all first."""
    each = [read_errors(run.folder)[0] for run in runs.values()]
    if not any(each):
        return "", []
    compared = [[one.behind for one in cells if one.behind is not None] for cells in each]
    behind = [f"{sum(one)} of {len(one)}" if one else _NOTHING for one in compared]
    rows = [
        Row(
            "cells in which a linear model is better", behind, False, [sum(x) / len(x) if x else None for x in compared]
        )
    ]
    for what in ("all modalities", "one other modality"):
        shares = [explained(cells).get(what) for cells in each]
        cells = [_NOTHING if share is None else f"{100 * share:.0f} %" for share in shares]
        rows.append(Row(f"variation explained given {what}, median", cells, higher_is_better=True, values=shares))
    by = [{(one.given, one.want): one for one in cells} for cells in each]
    keys = [key for key in dict.fromkeys(key for one in by for key in one) if key[0] != key[1]]
    for given, want in sorted(keys, key=lambda key: key[0] != ALL):
        found = [one.get((given, want)) for one in by]
        measure = next(one.measure for one in found if one is not None)
        cells = [_NOTHING if one is None else value_text(one).strip() for one in found]
        values = [None if one is None else one.value for one in found]
        rows.append(Row(f"{want} from {given}, {MEASURES.get(measure, measure)}", cells, measure == ACCURACY, values))
    lead = (
        "How far predictions of held-out rows are from the truth: RMSE, lower is better, or the share of right "
        "classes, bits or characters. In brackets: a linear model of the size of the run's z; * marks where it is "
        "better."
    )
    return lead, rows


def _translations(runs: Mapping[str, Source]) -> tuple[str, list[Row]]:
    """Return how far predictions are above the training mean's, those from all modalities first."""
    by = [{(one["given"], one["want"]): one for one in run.translations or []} for run in runs.values()]
    rows = []
    for given, want in dict.fromkeys(key for one in by for key in one):
        if given == want:
            continue
        cells = []
        for one in by:
            found = one.get((given, want))
            value = None if found is None else found["log_px"] if found["margin"] is None else found["margin"]
            cells.append(_NOTHING if value is None else f"{value:+.4f}")
        rows.append(Row(f"{want} from {given}", cells, higher_is_better=True if _alike(runs, want) else None))
    rows.sort(key=lambda row: not row.name.endswith(f" from {ALL}"))
    lead = "Nats per dimension above predicting the training mean (log p itself, where a kind has no such mean)."
    return lead, rows


def _evaluation(runs: Mapping[str, Source]) -> tuple[str, list[Row]]:
    """Return what `modalkit evaluate` measured, metric by metric."""
    records = [run.records("compare") for run in runs.values()]
    by_metric = {one.metric: one for of_run in records for one in of_run}
    order = dict.fromkeys([log_likelihood.METRIC.name, accuracy.METRIC.name, *by_metric])
    rows = []
    for metric in order:
        texts = [_means(one for one in of_run if one.metric == metric) for of_run in records]
        for label in dict.fromkeys(label for one in texts for label in one):
            cells = [one.get(label, _NOTHING) for one in texts]
            rows.append(Row(label, cells, by_metric[metric].display.higher_is_better))
    lead = "Log-likelihoods in nats a row, and right predictions in per cent, as evaluation.json of each run has them."
    for metric in list(order)[2:]:
        lead += f" {metric}: {by_metric[metric].display.title(by_metric[metric].summary)}."
    return lead, rows


def _means(records: Iterable[Record]) -> dict[str, str]:
    """Return each figure with its standard error as text, by its label."""
    return {
        one.label(part): one.display.text(figure)
        for one in records
        for part, figure in one.figures.items()
        if figure[0] is not None
    }


def _curves(runs: Mapping[str, Source]) -> Section:
    """Overlay the validation curves, or the training curves of a run without validation."""
    every = [line for run in runs.values() for line in run.metrics]
    names = [name for group in ("", "log_px/", "elbo/") for name in metric_names(every, group)]
    charts = []
    for name in names[:_MOST_CURVES]:
        series = {
            title: points(run.metrics, "valid", name) or points(run.metrics, "train", name)
            for title, run in runs.items()
        }
        charts.append(figure(svg.lines(name if "/" in name else chart_title(name), series)))
    parts = [svg.legend(list(runs)), *many(charts)] if charts else [note("None of the runs has logged anything.")]
    if len(runs) > svg.COLOURS:
        parts.append(note(f"There are {svg.COLOURS} colours, which repeat in the order of the runs."))
    if len(names) > _MOST_CURVES:
        parts.append(note(f"The first {_MOST_CURVES} of {len(names)} metrics are shown."))
    return Section("Curves", "On validation rows (of a run without any, on training batches).", parts)
