"""How well a trained model predicts each modality from each other, on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import draw, evenly
from modalkit.errors import guard
from modalkit.evaluation.measures import ACCURACY, Errors, Measure, measure_of
from modalkit.evaluation.predicted import predicted_errors
from modalkit.evaluation.reference import (
    ALL,
    Cell,
    columns_of,
    constant_errors,
    linear_errors,
    training_columns,
)
from modalkit.model.engine import evaluate_plan
from modalkit.model.marginals import marginal
from modalkit.model.sampling import plan_noise
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.pictures import chosen
from modalkit.plugin import Plan, Schema
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

MOST_TRANSLATED = 24
"""At most this many modalities are translated, from and to; of more, those that `chosen` returns."""

MOST_ROWS = 500
"""At most this many rows are translated, evenly spread, by training and by `modalkit evaluate`."""


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
        measure: ``"rmse"`` (lower is better) or ``"accuracy"`` (higher is better); empty if the kind has neither.
        value: root mean squared error of the predictive mean, or the share of right classes, bits or characters.
        explained: share of variation explained, 1 - MSE / MSE of the training mean; None for texts.
        levels: mean distance of ordered classes, in levels; None for other kinds.
        similarity: mean structural similarity (SSIM) of pictures; None for other kinds.
        mean_value: `value` of the training mean, or of the most frequent class.
        linear_value: `value` of a linear model whose rank is the size of z; None if there is none.
        linear_explained: `explained` of the linear model.
        linear_similarity: `similarity` of the linear model.
        behind: whether the linear model's `value` is better; None if there is none.
    """

    given: str
    want: str
    rows: int
    log_px: float
    margin: float | None
    standard_error: float | None
    measure: str = ""
    value: float | None = None
    explained: float | None = None
    levels: float | None = None
    similarity: float | None = None
    mean_value: float | None = None
    linear_value: float | None = None
    linear_explained: float | None = None
    linear_similarity: float | None = None
    behind: bool | None = None


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
    model: MultimodalVAE,
    dataset: Dataset,
    rows: Tensor,
    *,
    training: Dataset | None = None,
    seed: int = 0,
    batch_size: int = 50,
) -> list[Translation]:
    """Score every modality given all, and given each single one, against the training mean and a linear model.

    If there are more than `MOST_TRANSLATED` modalities, only the ones that `chosen` returns are scored.

    Args:
        model: put in eval mode meanwhile.
        dataset: the dataset of the rows.
        rows: the rows to predict, int64 `(rows,)`; of more than `MOST_ROWS`, that many, evenly spread.
        training: the dataset that the model was trained on, if it is another one. Linear models are fitted to its
            training rows. The means are those of at most 4,096 of them, evenly spaced.
        seed: seed of the samples of z, one for each row and term.
        batch_size: how many rows to evaluate at a time.
    """
    names, rows, training = chosen(model.schemas, MOST_TRANSLATED), evenly(rows, MOST_ROWS), training or dataset
    baseline = _marginal_log_px({n: model.schemas[n] for n in names}, dataset, rows, training)
    with evaluating(model):
        terms, wanted, scores = _score(model, dataset, rows, names, seed, batch_size)
        compared = _compare(model, dataset, rows, names, training, seed, batch_size)
    table = []
    for column, want in enumerate(names):
        size = prod(model.schemas[want].event_shape)
        for term, given in enumerate(terms):
            kept = wanted[term, :, column]
            if not kept.any():  # no row has both, or the model has no such posterior
                continue
            log_px = scores[want][term, kept] / size
            margin = log_px - baseline[want][kept] / size if want in baseline else None
            table.append(replace(_translation(given, want, log_px, margin), **compared.get((given, want), {})))
    return table


def _compare(
    model: MultimodalVAE,
    dataset: Dataset,
    rows: Tensor,
    names: Sequence[str],
    training: Dataset,
    seed: int,
    batch_size: int,
) -> dict[Cell, dict[str, Any]]:
    """Measure predictions, those of the training mean and those of a linear model; return fields of `Translation`."""
    measures = {n: m for n in names if n in model.decoders and (m := measure_of(model.schemas[n])) is not None}
    batch = draw(dataset[rows], model.schemas, generator(seed, "reference rows"))
    plan = single_and_all_plan(model, dataset.present[rows])
    test = columns_of(batch, model.schemas, measures, model.covariate_schemas)
    predicted = predicted_errors(model, batch, plan, measures, test.targets, seed=seed, batch_size=batch_size)
    kept = {(g, w): plan.targets[plan.terms.index(g), :, model.names.index(w)] for g, w in predicted}
    train = training_columns(training, model.schemas, measures, seed, covariates=model.covariate_schemas)
    constant = constant_errors(train, test, measures, kept)
    linear = linear_errors(train, test, measures, kept, model.shared_dim)
    return {
        cell: _fields(measures[cell[1]], errors, constant.get(cell), linear.get(cell))
        for cell, errors in predicted.items()
    }


def _fields(measure: Measure, model: Errors, constant: Errors | None, linear: Errors | None) -> dict[str, Any]:
    """Return the fields of `Translation` that compare a prediction with simple ones."""
    found = {
        "measure": measure.kind,
        "value": model.value,
        "explained": _explained(model, constant),
        "levels": model.levels,
        "similarity": model.similarity,
        "mean_value": None if constant is None else constant.value,
    }
    if linear is None:
        return found
    as_good = model.value >= linear.value if measure.kind == ACCURACY else model.value <= linear.value
    return found | {
        "linear_value": linear.value,
        "linear_explained": _explained(linear, constant),
        "linear_similarity": linear.similarity,
        "behind": not as_good,  # also if the model predicts what is not a number
    }


def _explained(errors: Errors, constant: Errors | None) -> float | None:
    """Return the share of variation explained; None for texts, where nothing varies, and for what is no number."""
    if constant is None or errors.squared is None or not constant.squared or not isfinite(errors.squared):
        return None
    return 1 - errors.squared / constant.squared


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


def _marginal_log_px(
    schemas: dict[str, Schema], dataset: Dataset, rows: Tensor, training: Dataset
) -> dict[str, Tensor]:
    """Return log p of `rows` under the best constant prediction for the training rows, `(rows,)` for each modality."""
    baseline = {}
    for name, schema in schemas.items():
        if (raw := marginal(training, name, schema)) is None:
            continue
        with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
            constant = registry.modality(schema.kind).likelihood(schema, raw)
            baseline[name] = constant.log_prob(schema.unpack(dataset.values(name, rows))).double()
    return baseline
