"""Predictions of a modality from others beside the true values, and metrics that compare the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset
from modalkit.errors import guard
from modalkit.evaluation.likelihood import fetch
from modalkit.evaluation.metrics._means import mean_and_error
from modalkit.evaluation.questions import Asking, Question, allows
from modalkit.model.prediction import predict
from modalkit.model.sampling import mask, sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import Figure, Modality, Schema
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed

if TYPE_CHECKING:
    from modalkit.runs.opened import Run

SAMPLES = 20
"""Samples of z that a prediction is averaged over."""
ROWS = 200
"""Rows at a time."""
Score: TypeAlias = Callable[[Schema, Tensor, Tensor], Mapping[str, Tensor] | Tensor]
Applies: TypeAlias = Callable[[Modality[Any]], bool]
Summarize: TypeAlias = Callable[[Tensor], Figure]
Figures: TypeAlias = dict[str, Figure]


@torch.no_grad()
def predictions(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, target: str, given: Sequence[str], samples: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict a modality from others, and yield predictions and true values batch by batch.

    Both are `(batch, *event_shape)` on the CPU, as networks see values (`Schema.unpack`): real numbers are standardised
    if the schema says so. `Schema.pack` returns them to the user's units. The order is that of the rows.

    Args:
        model: in eval mode while it predicts.
        dataset: where the rows are.
        rows: int64 `(rows,)`; rows without the target, or without any of the given modalities, are left out.
        target: the modality to predict.
        given: the modalities to predict it from.
        samples: samples of z a row.
        seed: of the samples.
    """
    schema, column = model.schemas[target], model.names.index(target)
    usable = dataset.present[rows, column] & (dataset.present[rows] & mask(model, given)).any(1)
    rows = rows[usable]
    with evaluating(model), bar(len(rows), f"{target} from {'+'.join(given)}", unit="row", leave=False) as progress:
        for start in range(0, len(rows), ROWS):
            batch = fetch(dataset, model.schemas, rows[start : start + ROWS], seed).to(model.device)
            inputs = sample_posterior(model, batch, given, samples, derived_seed(seed, "accuracy", start))
            predicted = predict(model, target, inputs, 0, noise=False).value
            yield predicted, schema.unpack(batch.values[target]).cpu()
            progress.update(len(batch))


def of_predictions(
    score: Score, applies: Applies = lambda kind: True, summarize: Summarize = mean_and_error
) -> Callable[[Run, Question, Asking], Figures]:
    """Return a metric's `measure` from a function that scores the prediction of each row.

    Args:
        score: `(schema, predicted, values) ->` a number a row, `(rows,)`, or by name several. `predicted` and `values`
            are `(rows, *event_shape)` as networks see values; `schema.pack` returns them to the user's units.
        applies: `kind ->` whether `score` applies to targets of this kind; other targets are left out.
        summarize: `(rows,) ->` what the rows' numbers amount to, and its standard error (NaN if it is not known):
            `mean_and_error`, `median_and_error` or a function of your own.

    Returns:
        A function that predicts each target of a question from what is given and summarises the scores of its rows, by
        target: ``"position"``, or ``"position: x"`` where `score` names its numbers.

    Example:
        >>> from modalkit.plugin import Outcome
        >>> def error(schema, predicted, values):
        ...     return (predicted - values).abs().flatten(1).mean(1)
        >>> measure = of_predictions(error, lambda kind: kind.outcome is Outcome.REAL)
    """

    def measure(run: Run, question: Question, asking: Asking) -> Figures:
        found: Figures = {}
        if not question.given or not allows(run.model, question.given):
            return found
        rows = asking.rows_of(run.dataset)
        for target in question.targets:
            if applies(registry.modality(run.model.schemas[target].kind)):
                parts = scores(run.model, run.dataset, rows, target, question.given, SAMPLES, asking.seed, score)
                for part, each in parts.items():
                    found[f"{target}: {part}" if part else target] = summarize(each.double())
        return found

    return measure


def scores(
    model: MultimodalVAE,
    dataset: Dataset,
    rows: Tensor,
    target: str,
    given: Sequence[str],
    samples: int,
    seed: int,
    score: Score,
) -> dict[str, Tensor]:
    """Return what `score` says of each row's prediction, by part `(rows that count,)`; empty if no row counts.

    The arguments are those of `predictions` and `of_predictions`.
    """
    schema, found = model.schemas[target], list[Mapping[str, Tensor]]()
    for predicted, values in predictions(model, dataset, rows, target, given, samples, seed):
        with guard(f"modality '{target}' (kind '{schema.kind}'): the score of its predictions"):
            each = score(schema, predicted, values)
        found.append({"": each} if isinstance(each, Tensor) else each)
    return {part: torch.cat([one[part] for one in found]).cpu() for part in found[0]} if found else {}
