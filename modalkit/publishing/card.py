"""The model card: what a model was trained on, how well it does, and what only its author can fill in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import jinja2

import modalkit
from modalkit.data import read_manifest
from modalkit.errors import InputError
from modalkit.evaluation.metrics import log_likelihood
from modalkit.evaluation.records import Record, read_records
from modalkit.evaluation.saved import read_errors, read_translations
from modalkit.evaluation.translation import Translation
from modalkit.evaluation.translation_text import MEASURES, headline, more_text, number_text
from modalkit.inference import TrainedModel
from modalkit.plugin import Schema
from modalkit.runs.folder import RunFolder
from modalkit.util.text import markdown_table

_log = logging.getLogger(__name__)


def card(model: TrainedModel, graphs: Sequence[PurePath]) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    Args:
        model: opened from the run folder that has the figures.
        graphs: files for other runtimes, relative to the card.
    """
    counts = model.model.parameter_counts()
    counts["all"] = sum(counts.values())
    modalities = [(f"`{n}`", s.kind, _shape(s), f"{s.weight:g}") for n, s in model.schemas.items()]
    modalities += [(f"`{n}`", f"{s.kind}, a covariate", _shape(s), "") for n, s in model.covariates.items()]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string((files("modalkit.publishing") / "card.md").read_text()).render(
        name=model.path.resolve().name,
        model=model,
        recipe=model.recipe,
        version=modalkit.__version__,
        graphs=graphs,
        modalities=markdown_table(("name", "kind", "shape", "weight"), modalities),
        data=_data(model),
        results=_results(model),
        parameters=markdown_table(("part", "parameters"), [(part, f"{n:,}") for part, n in counts.items()]),
    )


def _shape(schema: Schema) -> str:
    return " x ".join(map(str, schema.event_shape)) or "one number"


def _data(model: TrainedModel) -> str:
    """Return what the dataset's manifest says; only its name if the dataset is gone."""
    path = model.recipe.data.path
    said = f"Trained on the dataset `{Path(path).name}`"
    try:
        manifest = read_manifest(model.dataset_path())
    except InputError as error:
        _log.info(f"the card says nothing of the dataset's rows: {error}")
        return f"{said}. TODO: what it is, where it is from, and its terms."
    splits = ", ".join(f"{rows:,} {split}" for split, rows in manifest.splits.items() if rows)
    made = manifest.builder.get("name")
    present = [(f"`{n}`", f"{manifest.modalities[n].present:,}") for n in model.modalities if n in manifest.modalities]
    builder = f", made by the builder `{made}`" if made else ""
    table = markdown_table(("modality", "rows that have it"), present)
    return f"{said}: {manifest.rows:,} rows ({splits}){builder}. TODO: where it is from, and its terms.\n\n{table}"


def _results(model: TrainedModel) -> str:
    """Return what the run's own files say of how well the model does, errors first; empty if they say nothing."""
    folder = RunFolder(model.path)
    found = _errors(model, *read_errors(folder))
    if folder.translations.is_file():
        rows = [
            (t.given, t.want, t.rows, _number(t.log_px), _number(t.margin), _number(t.standard_error))
            for t in read_translations(folder)
        ]
        head = ("given", "wanted", "rows", "log p, nats per dimension", "above the training mean's", "standard error")
        found.append("Held-out rows, one draw of z:\n\n" + markdown_table(head, rows))
    by_metric: dict[str, list[Record]] = {}
    for record in read_records(folder.evaluation, "card"):
        by_metric.setdefault(record.metric, []).append(record)
    for metric, records in by_metric.items():
        likelihoods = metric == log_likelihood.METRIC.name
        title = "Importance-sampled, nats" if likelihoods else records[0].display.title(records[0].summary)
        found.append(f"{title}:\n\n{_figures(records)}")
    return "\n\n".join(found)


def _errors(model: TrainedModel, cells: Sequence[Translation], rows: str) -> list[str]:
    """Return a sentence, a table with a line for each cell, and what its numbers are; nothing without cells."""
    if not cells:
        return []
    head = ("given", "wanted", "rows", "measure", "error or share", "linear model", "training mean", "further")
    lines = [
        (
            *(one.given, one.want, one.rows, MEASURES.get(one.measure, ""), number_text(one.value or 0.0, one.measure)),
            *("" if v is None else number_text(v, one.measure) for v in (one.linear_value, one.mean_value)),
            more_text(one),
        )
        for one in cells
    ]
    size = model.latent_dim
    about = (
        f"The linear model has the same size ({size} dimensions) and is fitted to training rows. Further: the share of "
        "the variation that is explained, and the similarity of pictures (SSIM, at most 1)."
    )
    return [f"Errors, on {rows}. {headline(cells, size)}\n\n{markdown_table(head, lines)}\n\n{about}"]


def _figures(records: Sequence[Record]) -> str:
    """Return a table of one metric's figures, with the number of rows where it is known."""
    head, lines = ["", "rows", "mean", "standard error"], []
    for one in records:
        for part, figure in one.figures.items():
            shown = (None if value is None else one.display.factor * value for value in figure)
            lines.append([one.label(part), one.details.get("rows", ""), *map(_number, shown)])
    if not any(line[1] for line in lines):  # a column without numbers
        head, lines = [head[0], *head[2:]], [[line[0], *line[2:]] for line in lines]
    return markdown_table(head, lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
