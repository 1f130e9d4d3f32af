"""Ways to colour a map of rows: by their classes and bits, by numbers, and by brightness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch, Dataset
from modalkit.data.inspection import schemas
from modalkit.inference import TrainedModel
from modalkit.model.prediction import in_units
from modalkit.pictures import show
from modalkit.plugin import Outcome, Schema
from modalkit.report import svg
from modalkit.report.sources import HeldOut

_MOST_GROUPS = svg.COLOURS


@dataclass(frozen=True)
class Colours:
    """A way to colour the dots of a map: by group, or by shades of one colour.

    Attributes:
        groups: for each dot the index of its group, or its shade from 0 to 1.
        names: names of the groups, or of the two ends of the shades.
        rows: which rows the dots stand for.
        shaded: whether the colours are shades.
    """

    groups: list[float]
    names: list[str]
    rows: list[int]
    shaded: bool = False


def colours(
    model: TrainedModel, held_out: HeldOut, names: Sequence[str], rows: Tensor, plane: Tensor
) -> dict[str, Colours]:
    """Return ways to colour dots: first by classes and bits, then by numbers and by brightness.

    Args:
        model: the model.
        held_out: the rows and their dataset.
        names: the modalities that the page shows.
        rows: which of the held-out rows the dots stand for, int64 `(dots,)`.
        plane: places of the dots, `(dots, 2)`. Classes and bits that only the dataset has are taken in the order in
            which they tell the dots apart.
    """
    own = {name: model.schemas[name] for name in names}
    by_group, by_shade = _ways(own, held_out.batch, rows)
    best = sorted(_others(model, held_out, rows).items(), key=lambda item: -_told_apart(item[1], plane))
    for title, one in best:
        if one not in by_group.values():  # a dataset may have a bit alone and among others
            by_group.setdefault(title, one)
    return by_group | by_shade


def _others(model: TrainedModel, held_out: HeldOut, rows: Tensor) -> dict[str, Colours]:
    """Return ways to colour rows by classes and bits of the dataset that the model does not know."""
    opened = Dataset(held_out.dataset.path, in_memory=False)
    known = {*model.schemas, *model.covariates}
    others = {name: one for name, one in schemas(opened).items() if name not in known and _is_group(one)}
    if not others:
        return {}
    batch = Dataset(held_out.dataset.path, list(others), in_memory=False)[held_out.rows]
    return _ways(others, batch, rows)[0]


def _is_group(schema: Schema) -> bool:
    outcome = registry.modality(schema.kind).outcome
    return outcome is Outcome.BINARY or outcome.is_one_of_several


def _told_apart(one: Colours, plane: Tensor) -> float:
    """Return the share of the dots' variance that lies between the groups, from 0 to 1."""
    dots, groups = plane[one.rows], torch.tensor(one.groups)
    parts = [dots[groups == group] for group in set(one.groups)]
    within = sum(float((part - part.mean(0)).square().sum()) for part in parts)
    return 1 - within / max(1e-12, float((dots - dots.mean(0)).square().sum()))


def _ways(own: Mapping[str, Schema], batch: Batch, rows: Tensor) -> tuple[dict[str, Colours], dict[str, Colours]]:
    """Return ways to colour some rows of a batch by its modalities: by groups, and by shades."""
    by_group: dict[str, Colours] = {}
    by_shade: dict[str, Colours] = {}
    columns = list(batch.values)
    for name, schema in own.items():
        kept = batch.present[rows, columns.index(name)].nonzero().squeeze(1)
        if len(kept) < 3:
            continue
        value = schema.unpack(batch.values[name][rows[kept]])
        shown = [show(schema, one) for one in value]
        texts = [one for one in shown if isinstance(one, str)]
        known = sorted(set(texts))
        if len(texts) == len(shown) and 2 <= len(known) <= _MOST_GROUPS:
            by_group[name] = Colours([float(known.index(text)) for text in texts], known, kept.tolist())
        elif registry.modality(schema.kind).outcome is Outcome.BINARY and (schema.part_names or value.ndim == 1):
            titles = [f"{name}: {part}" for part in schema.part_names] or [name]
            for title, bits in zip(titles, (value > 0.5).reshape(len(value), -1).unbind(1), strict=True):
                by_group[title] = Colours(bits.double().tolist(), ["no", "yes"], kept.tolist())
        else:
            by_shade |= _shades(name, in_units(schema, value), kept.tolist(), numbers=bool(texts))
    return by_group, by_shade


def _shades(name: str, value: Tensor, rows: list[int], *, numbers: bool) -> dict[str, Colours]:
    """Return ways to shade rows by one modality: by each of up to three numbers, else by the mean.

    Args:
        name: the modality.
        value: in the user's units, `(rows, *event_shape)`.
        rows: which rows they are.
        numbers: whether the values are shown as texts, so that each number may be worth a map.
    """
    flat = value.double().reshape(len(value), -1)  # (rows, *event_shape) -> (rows, numbers)
    parts = {f"{name}, mean": flat.mean(1)}
    if numbers and flat.shape[1] <= 3:
        parts = {f"{name} [{i}]" if flat.shape[1] > 1 else name: flat[:, i] for i in range(flat.shape[1])}
    found = {}
    for title, one in parts.items():
        low, high = one.quantile(0.02), one.quantile(0.98)
        if high > low:
            shades = ((one - low) / (high - low)).clamp(0, 1)
            ends = [svg.number(float(end), 3) for end in (low, high)]
            found[title] = Colours(shades.tolist(), ends, rows, shaded=True)
    return found
