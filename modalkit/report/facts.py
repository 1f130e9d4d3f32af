"""What a run's files say without asking its model: learning curves, parameters, presence, environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modalkit.report import svg
from modalkit.report.page import Section, code, figure, folded, heat, many, note, subheading, table
from modalkit.report.sources import HeldOut, Source
from modalkit.runs.metrics import Line, metrics_of

_MOST_CURVES = 24
_MOST_LINES = 40
GROUPS = {
    "": ("", ""),
    "elbo/": ("Terms", "The ELBO of each term of the objective, named after what it is given."),
    "log_px/": (
        "Modalities",
        "log p(x | z) of each modality in the first term, which is given all that a row has if any is.",
    ),
}
"""The groups of charts, by the prefix of their metrics: a title, and what the metrics are."""


def curves(source: Source) -> Section | None:
    """Show every metric that was logged, training and validation in one chart."""
    if not source.metrics:
        return None
    parts = [svg.legend(["validation", "training"])]
    for group, (title, of) in GROUPS.items():
        names = metric_names(source.metrics, group)
        if not names or (group == "elbo/" and len(names) == 1):  # one term is the sum
            continue
        if title:
            parts.append(subheading(title, of))
        parts += many([figure(_curve(source.metrics, name)) for name in names[:_MOST_CURVES]])
        if len(names) > _MOST_CURVES:
            parts.append(note(f"The first {_MOST_CURVES} of {len(names)} have charts; metrics.jsonl has all."))
    lead = (
        "In nats a row, by step; higher is better, but for the KL. Training is measured on single batches, validation "
        "on all validation rows at beta 1. The axes leave out the first steps where those are far off."
    )
    return Section("Learning curves", lead, parts)


def metric_names(metrics: Iterable[Line], group: str) -> list[str]:
    """Return the names of the metrics with this prefix; of the empty prefix the totals."""
    known = dict.fromkeys(name for line in metrics for name in metrics_of(line))
    if not group:
        return [name for name in ("elbo", "kl") if name in known]
    return [name for name in known if name.startswith(group)]


def points(metrics: Iterable[Line], split: str, name: str) -> list[svg.Point]:
    """Return the values of a metric on a split, each with its step."""
    return [(line["step"], float(line[name])) for line in metrics if line["split"] == split and name in line]


def _curve(metrics: Sequence[Line], name: str) -> Markup:
    series = {"validation": points(metrics, "valid", name), "training": points(metrics, "train", name)}
    return svg.lines(chart_title(name), series, faint="training")


def chart_title(name: str) -> str:
    """Return the title of a metric's chart."""
    return name.partition("/")[2] or {"elbo": "ELBO, all terms", "kl": "KL of the first term"}[name]


def parameters(source: Source) -> Section | None:
    """Count parameters by modality."""
    if source.model is None:
        return None
    counts = source.model.model.parameter_counts()
    lines, total = [], sum(counts.values())
    rest = dict(counts)
    for name, schema in source.recipe.modalities.items():
        expert, decoder = rest.pop(f"expert.{name}", 0), rest.pop(f"decoder.{name}", 0)
        shape = "×".join(map(str, schema.event_shape)) or "one"
        kind = schema.kind if schema.role == "modality" else f"{schema.kind}, a covariate"
        lines.append((name, kind, shape, f"{expert:,}", f"{decoder:,}", f"{100 * (expert + decoder) / total:.1f} %"))
    shown = lines[:_MOST_LINES]
    shown += [(name, "", "", f"{count:,}", "", f"{100 * count / total:.1f} %") for name, count in rest.items()]
    head = ("part", "kind", "shape", "expert", "decoder", "share")
    parts = [table(f"{total:,} parameters; an expert is an encoder and its Gaussian head", head, shown, kind="figures")]
    if len(lines) > _MOST_LINES:
        parts.append(note(f"The first {_MOST_LINES} of {len(lines)} modalities are shown."))
    return Section("Parameters", "", parts)


def presence(source: Source) -> Section | None:
    """Show how many rows of each split have each modality."""
    if source.held_out is None:
        return None
    parts = [_presence_table(source.held_out)]
    weak = source.recipe.data.weak
    if weak.paired < 1 or weak.keep < 1:
        parts.append(note(f"Training saw less: data.weak kept paired={weak.paired:g} and keep={weak.keep:g} of it."))
    if len(source.recipe.explained) > _MOST_LINES:
        parts.append(note(f"The first {_MOST_LINES} of {len(source.recipe.explained)} modalities are shown."))
    return Section("Data", f"{source.held_out.dataset.path}: which rows have which modality.", parts)


def _presence_table(held_out: HeldOut) -> Markup:
    dataset = held_out.dataset
    splits = {name: dataset.present[dataset.rows(name)] for name, count in dataset.manifest.splits.items() if count}
    lines: list[list[object]] = []
    for column, name in enumerate(dataset.names[:_MOST_LINES]):
        counts = [(int(present[:, column].sum()), len(present)) for present in splits.values()]
        lines.append([name, *(heat(f"{n:,} ({100 * n / of:.0f} %)", n / of) for n, of in counts)])
    whole = [(int(present.all(1).sum()), len(present)) for present in splits.values()]
    lines.append(["all of them", *(heat(f"{n:,} ({100 * n / of:.0f} %)", n / of) for n, of in whole)])
    head = ("modality", *(f"{name}, {len(present):,} rows" for name, present in splits.items()))
    return table("Rows in which each modality is present", head, lines, kind="figures")


def environment(source: Source) -> Section:
    """Show how the run was made."""
    kept = source.environment
    about = {key: value for key, value in kept.items() if key != "command" and value is not None}
    parts = [table("What it ran on", (), [(key, value) for key, value in about.items()])] if about else []
    if command := trained_by(kept):
        parts.insert(0, code(command))
    parts.append(folded("The whole recipe", source.recipe.to_yaml()))
    return Section("How it was made", "The command that began or went on with this run last.", parts)


def trained_by(environment: dict[str, Any]) -> str:
    """Return the command of an ``environment.json``, as the user types it."""
    command = environment.get("command")
    if not isinstance(command, list) or not command:
        return ""
    program = Path(str(command[0]))
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return f"{name} {shlex.join(map(str, command[1:]))}"
