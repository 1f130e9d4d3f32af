"""Several runs side by side, on a page and on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modalkit.errors import InputError
from modalkit.evaluation.translation import ALL
from modalkit.report import svg
from modalkit.report.facts import chart_title, metric_names, points
from modalkit.report.page import Section, figure, many, note, render, table
from modalkit.report.run import best_validation
from modalkit.report.sources import Source, open_source
from modalkit.runs.folder import leaves
from modalkit.util.text import clipped, columns

_MOST_CURVES, _MOST_LINES, _MOST_PRINTED = 24, 600, 60
_SAME = "The recipes are the same, key by key."
Rows = list[list[str]]
"""A first column of names, and one for each run."""


def compare(paths: Sequence[Path]) -> tuple[str, str]:
    """Return runs side by side as an HTML page, and as text.

    Args:
        paths: two run folders or more.

    Raises:
        InputError: fewer than two, one twice, or one is no run.
    """
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise InputError("compare needs two run folders or more, each once")
    runs = dict(zip(_titles(paths), (open_source(path, model=False) for path in paths), strict=True))
    head = ["", *runs]
    tables = {
        "Metrics": _metrics(runs),
        "Recipes": _recipes(runs),
        "Translations": _translations(runs),
        "Evaluation": _evaluation(runs),
    }
    sections = []
    for title, (lead, rows) in tables.items():
        if title == "Recipes" and not rows:
            sections.append(Section(title, _SAME, []))
        if rows:
            parts = [
                table(
                    f"{title} of {len(runs)} runs",
                    head,
                    (_with_best(row, title) for row in rows[:_MOST_LINES]),
                    kind="figures",
                )
            ]
            if len(rows) > _MOST_LINES:
                parts.append(note(f"The first {_MOST_LINES} of {len(rows)} lines are shown."))
            sections.append(Section(title, lead, parts))
    sections.insert(1, _curves(runs))
    page = render(
        "Comparison of runs", ", ".join(runs), [], sections, shlex.join(["modalkit", "compare", *map(str, paths)])
    )
    said = []
    for title, (_, rows) in tables.items():
        if rows:
            cut = f"\n(the first {_MOST_PRINTED} of {len(rows)} lines; the page has more)"
            printed = columns([head, *rows[:_MOST_PRINTED]])
            said.append(f"{title}\n{printed}{cut if len(rows) > _MOST_PRINTED else ''}")
        elif title == "Recipes":
            said.append(f"{title}\n{_SAME}")
    return page, "\n\n".join(said)


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return the runs' names, or their whole paths where two have the same."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _recipes(runs: dict[str, Source]) -> tuple[str, Rows]:
    """Return the keys in which the recipes differ; what only some have is a dash."""
    every = [dict(leaves(run.recipe.model_dump(mode="json", exclude={"extends"}))) for run in runs.values()]
    keys = dict.fromkeys(key for one in every for key in one)
    rows = []
    for key in keys:
        values = [_said(one[key]) if key in one else "–" for one in every]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return "The keys in which the recipes differ.", rows


def _said(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return clipped(text, 60)


def _metrics(runs: dict[str, Source]) -> tuple[str, Rows]:
    """Return what training logged, at the epoch of the best validation ELBO."""
    bests = [best_validation(run) for run in runs.values()]
    rows = [
        ["best validation ELBO", *(f"{best[0]:,.3f}" if best else "–" for best in bests)],
        ["its epoch", *(str(best[1]) if best else "–" for best in bests)],
        ["steps done", *(f"{run.metrics[-1]['step']:,}" if run.metrics else "–" for run in runs.values())],
    ]
    lines = [
        next((x for x in run.metrics if x["split"] == "valid" and best and x["epoch"] == best[1]), {})
        for run, best in zip(runs.values(), bests, strict=True)
    ]
    for name in dict.fromkeys(name for line in lines for name in line if name == "kl" or name.startswith("log_px/")):
        rows.append([name, *(f"{line[name]:,.3f}" if name in line else "–" for line in lines)])
    lead = (
        "Nats a row on validation rows, from the logs, at the epoch of the best ELBO. The ELBO sums all terms of an "
        "objective, so it compares only runs whose objectives, modalities and data are the same; log_px and the KL are "
        "those of the first term, which is given all that a row has where an objective has such a term."
    )
    return lead, rows


def _translations(runs: dict[str, Source]) -> tuple[str, Rows]:
    """Return how far predictions are above the training mean's."""
    kept = [run.kept("translations.json") or [] for run in runs.values()]
    by = [{(one["given"], one["want"]): one for one in found} for found in kept]
    rows = []
    for given, want in dict.fromkeys(key for one in by for key in one):
        if given == want:
            continue
        cells = []
        for one in by:
            found = one.get((given, want))
            value = None if found is None else found["log_px"] if found["margin"] is None else found["margin"]
            cells.append("–" if value is None else f"{value:+.4f}")
        rows.append([f"{want} from {given}", *cells])
    rows.sort(key=lambda row: not row[0].endswith(f" from {ALL}"))
    lead = "Nats per dimension above predicting the training mean (log p itself, where a kind has no such mean)."
    return lead, rows


def _evaluation(runs: dict[str, Source]) -> tuple[str, Rows]:
    """Return what `modalkit evaluate` found."""
    kept = [run.kept("evaluation.json") or {} for run in runs.values()]
    rows = []
    for part, factor, digits in (("log_likelihoods", 1, 3), ("accuracies", 100, 2)):
        flat = [
            {
                f"{key}: {name}" if part == "accuracies" else key: value
                for key, found in one.get(part, {}).items()
                for name, value in (found.items() if part == "accuracies" else (("", found.get("log_p")),))
                if name != "settings" and value and value[0] is not None
            }
            for one in kept
        ]
        for key in dict.fromkeys(key for one in flat for key in one):
            rows.append([key, *(f"{factor * one[key][0]:.{digits}f}" if key in one else "–" for one in flat)])
    lead = "Log-likelihoods in nats a row, and right predictions in per cent, as evaluation.json of each run has them."
    return lead, rows


def _with_best(row: Sequence[str], title: str) -> list[object]:
    """Return a row of a table in which the highest number stands out, where higher is better."""
    if title == "Recipes" or row[0] in ("its epoch", "steps done", "kl"):
        return list(row)
    numbers = [float(text.replace(",", "")) if text != "–" else float("-inf") for text in row[1:]]
    best = max(numbers) if len(set(numbers)) > 1 else None
    cells = [
        Markup('<td class="best">{}</td>').format(text) if number == best else text
        for text, number in zip(row[1:], numbers, strict=True)
    ]
    return [row[0], *cells]


def _curves(runs: dict[str, Source]) -> Section:
    """Overlay the validation curves, or the training ones where nothing was validated."""
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
