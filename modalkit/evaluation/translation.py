"""What a trained model can tell of one modality from another, on held-out rows, in nats."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import draw
from modalkit.errors import guard
from modalkit.model.engine import evaluate_plan
from modalkit.model.marginals import marginal
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan, Schema
from modalkit.util.progress import bar
from modalkit.util.randomness import generator
from modalkit.util.text import clipped, columns, some

_log = logging.getLogger(__name__)

ALL = "all"
MOST_TRANSLATED = 24
"""Of more modalities than this, so many are translated, from and to: those that are `chosen`."""
_WIDEST_NAME = 32


@dataclass(frozen=True)
class Translation:
    """How well one modality is predicted from another (or from all), averaged over held-out rows.

    Attributes:
        given: the modality that was given, or ``"all"``.
        want: the one that was predicted.
        rows: how many rows had both.
        log_px: mean of log p(x_want|z), z drawn from q(z|x_given), nats per dimension of `want`.
        margin: how much that is above the training mean's prediction, nats per dimension; None where the kind
            has no `marginal`, or under 10 training rows have the modality.
        standard_error: of `margin` over rows (of `log_px` without one); None for a single row.
    """

    given: str
    want: str
    rows: int
    log_px: float
    margin: float | None
    standard_error: float | None


def chosen(schemas: Mapping[str, Schema], most: int) -> list[str]:
    """Return at most `most` modalities to show, in their order: first those with classes, for what they say is plain.

    Evenly spaced among their like; where both are many, each kind of them has half.

    Example:
        >>> vector, label = registry.schema("vector", size=1), registry.schema("label", classes=2)
        >>> chosen({"a": vector, "b": vector, "c": vector, "d": label}, 3)
        ['a', 'c', 'd']
    """
    classes = [name for name, schema in schemas.items() if registry.modality(schema.kind).correct is not None]
    others = [name for name in schemas if name not in set(classes)]
    first = some(classes, max(most - len(others), most // 2))
    kept = {*first, *some(others, most - len(first))}
    return [name for name in schemas if name in kept]


def single_and_all_plan(model: MultimodalVAE, present: Tensor, most: int = MOST_TRANSLATED) -> Plan:
    """Return the plan that asks for every present modality, given all of them and given each alone.

    Of many modalities, those `chosen` are asked for and given alone; what the model has no posterior or no decoder of
    is not asked.

    Args:
        model: which modalities there are, and what can be asked.
        present: bool `(batch, modalities)`.
        most: how many modalities at most.
    """
    names = chosen(model.schemas, most)
    each = torch.eye(len(model.names), dtype=torch.bool)[[model.names.index(n) for n in names]]  # (chosen, modalities)
    singles = each[:, None] & present  # (chosen, batch, modalities)
    several = len(names) > 1
    given = torch.stack([present, *(singles if several else [])])
    given = given & model.allows(given).unsqueeze(-1)
    asked = each.any(0) & torch.tensor([name in model.decoders for name in model.names])
    return Plan((ALL, *(names if several else ())), given, present & given.any(-1, keepdim=True) & asked)


@torch.no_grad()
def translations(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, *, seed: int = 0, batch_size: int = 50
) -> list[Translation]:
    """Score every modality given all, and given each single one, against the training mean's prediction.

    Of more than `MOST_TRANSLATED` modalities, those `chosen` stand for all.

    Args:
        model: put in eval mode here.
        dataset: what the model was trained on; its training rows (at most 4,096, evenly spread) give the means.
        rows: the held-out rows, int64 `(rows,)`.
        seed: draws z, once a row and term.
        batch_size: rows at a time.
    """
    model.eval()
    names = chosen(model.schemas, MOST_TRANSLATED)
    columns = [model.names.index(name) for name in names]
    baseline = _marginal_log_px({n: model.schemas[n] for n in names}, dataset, rows)
    scores: list[dict[str, Tensor]] = []  # a batch: per modality (terms, batch)
    asked: list[Tensor] = []
    terms: tuple[str, ...] = ()
    with bar(len(rows), "translations", unit="row", leave=False) as progress:
        for index, part in enumerate(torch.split(rows, batch_size)):
            plan = single_and_all_plan(model, dataset.present[part])
            shape = (model.components * len(plan.terms), len(part), model.latent_dim)
            noise = torch.randn(shape, generator=generator(seed, "translations", index))
            batch = draw(dataset[part], model.schemas, generator(seed, "translations data", index))
            result = evaluate_plan(model, batch.to(model.device), plan, noise.to(model.device, model.dtype))
            scores.append({n: result.log_px[n].cpu().double() for n in names})
            asked.append(plan.targets[:, :, columns])
            terms = plan.terms
            progress.update(len(part))
    wanted = torch.cat(asked, 1)  # (terms, rows, chosen modalities)
    table = []
    for column, want in enumerate(names):
        size = prod(model.schemas[want].event_shape)
        log_px = torch.cat([s[want] for s in scores], 1) / size  # (terms, rows)
        for term, given in enumerate(terms):
            kept = wanted[term, :, column]
            if not kept.any():  # nobody has both, or the model has no such posterior
                continue
            score = log_px[term, kept]
            margin = score - baseline[want][kept] / size if want in baseline else None
            several = (score if margin is None else margin) if len(score) > 1 else None
            error = None if several is None else float(several.std() / len(score) ** 0.5)
            mean_margin = None if margin is None else float(margin.mean())
            table.append(Translation(given, want, len(score), float(score.mean()), mean_margin, error))
    return table


def _marginal_log_px(schemas: dict[str, Schema], dataset: Dataset, rows: Tensor) -> dict[str, Tensor]:
    """Return log p of `rows` under each kind's best constant prediction for the training rows, `(rows,)`."""
    baseline = {}
    for name, schema in schemas.items():
        if (raw := marginal(dataset, name, schema)) is None:
            continue
        with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
            constant = registry.modality(schema.kind).likelihood(schema, raw)
            baseline[name] = constant.log_prob(schema.unpack(dataset.values(name, rows))).double()
    return baseline


def table(results: Sequence[Translation], names: Sequence[str], width: int = 100) -> str:
    """Lay translations out as text: a row for what was given, a column for what was predicted.

    A cell is the margin, or in brackets log p itself where the kind has no `marginal` to compare with.

    Where that is wider than `width` characters, a row for what was predicted: from all, and from the best other one.
    """
    cells = {(r.given, r.want): r for r in results}
    given = [g for g in (ALL, *names) if any(r.given == g for r in results)]
    pitch = max(11, *(len(n) + 2 for n in names))
    head = max(len(g) for g in given) + 6
    lines = [" " * head + "".join(n.rjust(pitch) for n in names)]
    for g in given:
        line = f"given {g}".ljust(head)
        for want in names:
            line += _cell(cells.get((g, want))).rjust(pitch)
        lines.append(line)
    if len(lines[0]) > width:
        head_line = ("predicted", "given all", "given the best other")
        lines = [
            columns([head_line, *(_in_short(cells, n) for n in names)]),
            "(each given each: translations.json in the run's folder)",
        ]
    if any(r.margin is None for r in results):
        lines.append("(in brackets: log p itself; there is no training mean to compare with)")
    return "\n".join(lines)


def _in_short(cells: Mapping[tuple[str, str], Translation], want: str) -> tuple[str, str, str]:
    """Return one modality's line: predicted from all, and from the other that alone tells most of it."""
    others = [one for one in cells.values() if one.want == want and one.given not in (ALL, want)]
    best = max(others, key=lambda one: one.log_px if one.margin is None else one.margin, default=None)
    said = f"{_cell(best)}  {clipped(best.given, _WIDEST_NAME)}" if best else "-"
    return clipped(want, _WIDEST_NAME), _cell(cells.get((ALL, want))), said


def among(results: Iterable[Mapping[str, Any]], split: str) -> str:
    """Say on which rows translations (of ``translations.json``) were measured.

    >>> among([{"rows": 17}, {"rows": 12}], "test")
    'the 12 to 17 test rows that have both'
    >>> among([{"rows": 1}], "test")
    'the 1 test row that has both'
    """
    counts = sorted({one["rows"] for one in results}) or [0]
    if counts == [1]:
        return f"the 1 {split} row that has both"
    return f"the {counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'} {split} rows that have both"


def _cell(result: Translation | None) -> str:
    if result is None:
        return "-"
    return f"({result.log_px:.4f})" if result.margin is None else f"{result.margin:+.4f}"
