"""Predictions for users to look at: translations beside the truth, samples, walks through the latent space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from markupsafe import Markup

from modalkit.data import Batch
from modalkit.evaluation.reference import ALL
from modalkit.evaluation.saved import as_translations
from modalkit.evaluation.translation import translations
from modalkit.evaluation.translation_text import among
from modalkit.inference import Prediction, TrainedModel
from modalkit.pictures import Cell, row_cells, shown_as_picture
from modalkit.report.errors import errors_table
from modalkit.report.latent import Latent
from modalkit.report.page import Section, cell, heat, note, side_by_side, table
from modalkit.report.sources import HeldOut, Source, only, take_rows
from modalkit.report.svg import number

_EXAMPLES, _DRAWS, _SAMPLES, _GIVEN = 4, 16, 8, 8
_STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
_WALKS = 8


def translated(source: Source, seed: int) -> Section | None:
    """Show every modality predicted from each single one and from all, in nats and as values."""
    if source.model is None or source.held_out is None:
        return None
    found = _found(source, source.held_out)
    on, size = among(found, source.held_out.split), source.recipe.model.latent_dim
    errors = errors_table(as_translations(found), source.names, source.recipe.explained, size, on)
    figures = [*errors, _margins(source, source.held_out, found)]
    rows = source.held_out.examples(_EXAMPLES)
    examples = side_by_side(_translated_row(source, source.model, source.held_out, row, seed) for row in rows)
    pictured = any(shown_as_picture(source.recipe.explained[name]) for name in source.names)
    parts = [examples, *figures] if pictured else [*figures, examples]  # pictures say more than their errors
    if source.unseen:
        parts.append(note(source.unseen))
    lead = (
        f"Held-out rows of the {source.held_out.split} split: the truth, and the model's predictions of every modality "
        f"given all of them and given each alone, averaged over {_DRAWS} samples of z."
    )
    return Section("Translations", lead, parts)


def _found(source: Source, held_out: HeldOut) -> list[dict[str, Any]]:
    """Return the translations as training left them, or measured here if the run has not ended."""
    found = source.translations
    if isinstance(found, list):
        return found
    assert source.model is not None  # `translated` has checked that
    with torch.random.fork_rng():
        return [vars(one) for one in translations(source.model.model, held_out.dataset, held_out.rows)]


def _margins(source: Source, held_out: HeldOut, found: Sequence[Mapping[str, Any]]) -> Markup:
    """Return how much better each prediction is than the training mean, in nats."""
    names = source.names
    by = {(one["given"], one["want"]): one for one in found}
    lines = []
    for given in (ALL, *names):
        if any((given, want) in by for want in names):
            lines.append([f"from {given}", *(_margin(by, given, want, names) for want in names)])
    caption = (
        "Nats per dimension above predicting the training mean; shaded within each column, where it is more than two "
        f"standard errors from 0; each on {among(found, held_out.split)}"
    )
    bare = [n for n in names if any(k[1] == n and one["margin"] is None for k, one in by.items())]
    if bare:
        caption += f"; in brackets, where there is no mean to compare with, log p itself ({', '.join(bare)})"
    return table(caption, ("", *names), lines, kind="figures")


def _margin(by: Mapping[tuple[str, str], Mapping[str, Any]], given: str, want: str, names: Sequence[str]) -> object:
    one = by.get((given, want))
    if one is None:
        return "–"
    if one["margin"] is None:
        return f"({one['log_px']:.3f})"
    column = [by[given_, want]["margin"] for given_ in (ALL, *names) if (given_, want) in by]
    most = max((abs(value) for value in column if value is not None), default=0.0) or 1.0
    sure = abs(one["margin"]) > 2 * (one["standard_error"] or 0.0)
    text = f"{round(one['margin'], 3) + 0.0:+.3f}".replace("-", "−")
    return heat(text, one["margin"] / most if sure else 0.0)


def _translated_row(source: Source, asked: TrainedModel, held_out: HeldOut, row: int, seed: int) -> Markup:
    names, key = source.names, held_out.dataset.key(int(held_out.rows[row]))
    batch = take_rows(held_out.batch, [row])
    there = row_cells(asked.schemas, batch, 0, names)
    lines = [["truth", *_cells(there, names, f"of {key}, the truth")]]
    for given in (ALL, *names):
        columns = range(len(asked.modalities)) if given == ALL else [asked.modalities.index(given)]
        known = only(batch.present, list(columns))
        if not known.any() or not bool(asked.model.allows(known)[0]):
            continue
        want = [n for n in names if n in asked.predictable]
        found = asked.infer(take_rows(batch, [0], known), want, draws=_DRAWS, seed=seed)
        shown = [found[n].show() if n in want else None for n in names]
        lines.append([f"from {given}", *_cells(shown, names, f"of {key}, predicted from {given}", "–")])
    return table(f"Row {key}", ("", *names), lines, kind="pictures")


def _cells(shown: Sequence[Cell], names: Sequence[str], of: str, nothing: str = "") -> list[object]:
    return [
        nothing if one is None and nothing else cell(one, f"{name} {of}")
        for name, one in zip(names, shown, strict=True)
    ]


def samples(source: Source, seed: int) -> Section | None:
    """Show samples from the prior or the fitted sampler, and samples of one modality given each single other one."""
    if source.model is None:
        return None
    asked, names, parts = source.model, [n for n in source.names if n in source.model.predictable], []
    numbers = [str(i + 1) for i in range(_SAMPLES)]
    if asked.allows([]):
        drawn, source_of_z = asked.sample(_SAMPLES, names, seed=seed), "prior" if asked.sampler is None else "sampler"
        lines = [
            [n, *(cell(drawn[n].show(i, 0), f"{n}, sample {i + 1} from the {source_of_z}") for i in range(_SAMPLES))]
            for n in names
        ]
        caption = f"Samples from the {source_of_z}; each column is one z, decoded into every modality"
        parts.append(table(caption, ("", *numbers), lines, kind="pictures"))
    else:
        parts.append(note("This objective has no prior without a condition, so there are no samples from it."))
    if source.held_out is not None and (rows := source.held_out.examples(1)):
        parts += _conditional(source, asked, take_rows(source.held_out.batch, rows), numbers, seed)
    if source.unseen:
        parts.append(note(source.unseen))
    return Section("Samples", "Means of the likelihoods (modes for classes and texts), without their noise.", parts)


def _conditional(source: Source, asked: TrainedModel, batch: Batch, numbers: list[str], seed: int) -> list[Markup]:
    """Show samples of one modality, a picture if there is one, given each modality of one row."""
    wanted = shown_best(source, asked)[0]
    lines: list[list[object]] = []
    for given, there in zip(source.names, row_cells(asked.schemas, batch, 0, source.names), strict=True):
        known = only(batch.present, [asked.modalities.index(given)])
        if given == wanted or not known.any() or not asked.allows([given]) or len(lines) == _GIVEN:
            continue
        found = asked.infer(take_rows(batch, [0], known), [wanted], _SAMPLES, seed=seed)[wanted]
        drawn = [cell(found.show(0, i), f"{wanted} given {given}, sample {i + 1}") for i in range(_SAMPLES)]
        lines.append([f"given {given}", cell(there, f"{given}, which is given"), *drawn])
    caption = f"Samples of {wanted} given one modality of a held-out row"
    return [table(caption, ("", "given", *numbers), lines, kind="pictures")] if lines else []


def shown_best(source: Source, asked: TrainedModel) -> list[str]:
    """Return the first modality that is shown as a picture and the first that is shown as a text, if there are any."""
    names = [n for n in source.names if n in asked.predictable] or list(asked.predictable)
    pictures = [name for name in names if shown_as_picture(asked.schemas[name])]
    texts = [name for name in names if name not in pictures]
    return [*pictures[:1], *texts[:1]]


def walks(source: Source, latent: Latent | None) -> Section | None:
    """Show what changes along the latent dimensions with the largest KL, starting from a held-out row or the prior."""
    asked = source.model
    if asked is None or not (latent or asked.allows([])):
        return None
    start, condition, begun = torch.zeros(asked.latent_dim), None, "the origin"
    dims = (latent.order if latent else list(range(asked.latent_dim)))[:_WALKS]
    if latent is not None and source.held_out is not None:
        place = next((i for i in source.held_out.examples(_EXAMPLES) if i in latent.rows), int(latent.rows[0]))
        start, begun = latent.posterior.loc[(latent.rows == place).nonzero()[0, 0]], "a held-out row's posterior mean"
        rows = take_rows(source.held_out.batch, [place] * (len(dims) * len(_STEPS)))
        condition = replace(rows, present=asked.usable(rows.present))
    z = start.repeat(len(dims), len(_STEPS), 1)  # (dims, steps, latent_dim)
    for i, dim in enumerate(dims):
        z[i, :, dim] = torch.tensor(_STEPS)
    names = shown_best(source, asked)
    found = asked.decode(z.flatten(0, 1), names, condition)  # dims * steps rows
    parts = [_walk(name, found[name], dims) for name in names]
    which = f"the {len(dims)} with the largest KL" if latent else f"the first {len(dims)}"
    lead = f"One dimension at a time is set to −3 … 3, the others stay at {begun}; {which}."
    return Section("Latent traversals", lead, parts)


def _walk(name: str, found: Prediction, dims: Sequence[int]) -> Markup:
    """Return a table of one modality: one line for each dimension, one column for each step along it."""
    lines = []
    for i, dim in enumerate(dims):
        steps = enumerate(_STEPS)
        cells = (cell(found.show(i * len(_STEPS) + j), f"{name} at z{dim} = {number(at)}") for j, at in steps)
        lines.append([f"z{dim}", *cells])
    head = ("", *(number(at) for at in _STEPS))
    return table(f"{name} along single dimensions", head, lines, kind="pictures")
