"""How often predictions are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset
from modalkit.errors import InputError, guard
from modalkit.evaluation.metrics._predictions import of_predictions, scores
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Display, Metric, Schema


def right(schema: Schema, predicted: Tensor, values: Tensor) -> Mapping[str, Tensor]:
    """Return which parts of predictions are right, by their names, bool `(rows,)` each.

    Raises:
        InputError: the kind does not say when a prediction is right.
    """
    correct = registry.modality(schema.kind).correct
    if correct is None:
        raise InputError(f"kind '{schema.kind}' does not say when a prediction is right")
    with guard(f"kind '{schema.kind}': its correct"):
        return correct(schema, predicted, values)


def accuracy(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, target: str, given: Sequence[str], samples: int, seed: int
) -> dict[str, Tensor]:
    """Return which parts of a modality are predicted right from others.

    Args:
        model: in eval mode while it predicts.
        dataset: where the rows are.
        rows: int64 `(rows,)`; rows without the target, or without any of the given modalities, are left out.
        target: the modality to predict; its kind must have `correct`.
        given: the modalities to predict it from.
        samples: samples of z a row.
        seed: of the samples.

    Returns:
        By part, bool `(rows that count,)`.
    """
    kind = model.schemas[target].kind
    if registry.modality(kind).correct is None:
        raise InputError(f"modality '{target}': kind '{kind}' does not say when a prediction is right")
    return scores(model, dataset, rows, target, given, samples, seed, right)


METRIC = Metric(
    name="accuracy",
    summary="Right predictions",
    measure=of_predictions(right, lambda kind: kind.correct is not None),
    display=Display("%", factor=100, digits=2, pages=("report", "compare")),
    heading="right, predicted as {question}",
)
