"""How well a trained model predicts each modality from each other, on held-out rows, in nats."""

from __future__ import annotations

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
from modalkit.model.sampling import plan_noise
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.pictures import chosen
from modalkit.plugin import Plan, Schema
from modalkit.util.progress import bar
from modalkit.util.randomness import generator
from modalkit.util.text import clipped, columns

ALL = "all"
MOST_TRANSLATED = 24
"""At most this many modalities are translated, from and to; of more, those that `chosen` returns."""
_WIDEST_NAME = 32


@dataclass(frozen=True)
class Translation:
    """How well one modality is predicted from another (or from all), averaged over held-out rows.

    Attributes:
        given: the modality that was given, or ``"all"``.
        want: the modality that was predicted.
        rows: how many rows have both.
        log_px: mean of log p(x_want|z), with z sampled from q(z|x_given), nats per dimension of `want`.
        margin: difference between `log_px` and that of the training mean's prediction, nats per dimension; None if the
            kind has no `marginal`, or fewer than 10 training rows have the modality.
        standard_error: standard error over rows of `margin`, or of `log_px` if there is no margin; None for one row.
    """

    given: str
    want: str
    rows: int
    log_px: float
    margin: float | None
    standard_error: float | None


def single_and_all_plan(model: MultimodalVAE, present: Tensor, most: int = MOST_TRANSLATED) -> Plan:
    """Return the plan whose targets are all present modalities, given all of them and given each alone.

    If there are more than `most` modalities, only the ones that `chosen` returns are targets and given alone. The plan
    leaves out subsets that the model has no posterior of, and targets that it has no decoder of.

    Args:
        model: the model that the plan is for.
        present: bool `(batch, modalities)`.
        most: the maximum number of modalities.
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

    If there are more than `MOST_TRANSLATED` modalities, only the ones that `chosen` returns are scored.

    Args:
        model: put in eval mode meanwhile.
        dataset: the dataset that the model was trained on. The means are those of at most 4,096 of its training rows,
            evenly spaced.
        rows: the held-out rows, int64 `(rows,)`.
        seed: seed of the samples of z, one for each row and term.
        batch_size: how many rows to evaluate at a time.
    """
    names = chosen(model.schemas, MOST_TRANSLATED)
    baseline = _marginal_log_px({n: model.schemas[n] for n in names}, dataset, rows)
    with evaluating(model):
        terms, wanted, scores = _score(model, dataset, rows, names, seed, batch_size)
    table = []
    for column, want in enumerate(names):
        size = prod(model.schemas[want].event_shape)
        for term, given in enumerate(terms):
            kept = wanted[term, :, column]
            if not kept.any():  # no row has both, or the model has no such posterior
                continue
            log_px = scores[want][term, kept] / size
            margin = log_px - baseline[want][kept] / size if want in baseline else None
            table.append(_translation(given, want, log_px, margin))
    return table


def _score(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, names: Sequence[str], seed: int, batch_size: int
) -> tuple[tuple[str, ...], Tensor, dict[str, Tensor]]:
    """Evaluate `single_and_all_plan` on rows.

    Returns:
        The names of the terms; which modality counts in which term and row, bool `(terms, rows, names)`; and for each
        name log p(x|z), nats, `(terms, rows)`.
    """
    columns = [model.names.index(name) for name in names]
    scores: list[dict[str, Tensor]] = []
    asked: list[Tensor] = []
    terms: tuple[str, ...] = ()
    with bar(len(rows), "translations", unit="row", leave=False) as progress:
        for index, part in enumerate(torch.split(rows, batch_size)):
            plan = single_and_all_plan(model, dataset.present[part])
            noise = plan_noise(model, plan, generator(seed, "translations", index))
            batch = draw(dataset[part], model.schemas, generator(seed, "translations data", index))
            result = evaluate_plan(model, batch.to(model.device), plan, noise)
            scores.append({n: result.log_px[n].cpu().double() for n in names})
            asked.append(plan.targets[:, :, columns])
            terms = plan.terms
            progress.update(len(part))
    return terms, torch.cat(asked, 1), {n: torch.cat([s[n] for s in scores], 1) for n in names}


def _translation(given: str, want: str, log_px: Tensor, margin: Tensor | None) -> Translation:
    """Average the scores of rows, `(rows,)` each, in nats per dimension."""
    several = (log_px if margin is None else margin) if len(log_px) > 1 else None
    error = None if several is None else float(several.std() / len(log_px) ** 0.5)
    mean_margin = None if margin is None else float(margin.mean())
    return Translation(given, want, len(log_px), float(log_px.mean()), mean_margin, error)


def _marginal_log_px(schemas: dict[str, Schema], dataset: Dataset, rows: Tensor) -> dict[str, Tensor]:
    """Return log p of `rows` under the best constant prediction for the training rows, `(rows,)` for each modality."""
    baseline = {}
    for name, schema in schemas.items():
        if (raw := marginal(dataset, name, schema)) is None:
            continue
        with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
            constant = registry.modality(schema.kind).likelihood(schema, raw)
            baseline[name] = constant.log_prob(schema.unpack(dataset.values(name, rows))).double()
    return baseline


def table(results: Sequence[Translation], names: Sequence[str], width: int = 100) -> str:
    """Lay out translations as text: one row for each given modality, one column for each predicted one.

    A cell holds the margin, or log p in brackets if the kind has no `marginal` to compare with.

    If the table would be wider than `width` characters, it has one row for each predicted modality instead, with the
    prediction from all and the prediction from the best other modality.
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
    """Return the line of one predicted modality: from all, and from the other one that predicts it best."""
    others = [one for one in cells.values() if one.want == want and one.given not in (ALL, want)]
    best = max(others, key=lambda one: one.log_px if one.margin is None else one.margin, default=None)
    said = f"{_cell(best)}  {clipped(best.given, _WIDEST_NAME)}" if best else "-"
    return clipped(want, _WIDEST_NAME), _cell(cells.get((ALL, want))), said


def among(results: Iterable[Mapping[str, Any]], split: str) -> str:
    """Describe the rows on which translations (of ``translations.json``) were measured.

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
