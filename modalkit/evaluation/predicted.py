"""How far a model's predictions are from the truth, for every cell of the table of translations."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.evaluation.measures import Errors, Measure
from modalkit.evaluation.reference import Cell
from modalkit.model.moments import most_frequent
from modalkit.model.sampling import sample_noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

_DRAWS, _LEAST_DRAWS = 16, 4
_DECODED = 1 << 30  # numbers that are decoded, if that leaves enough draws
_AT_ONCE = 1 << 22


def draws_for(model: MultimodalVAE, plan: Plan) -> int:
    """Return over how many samples of z predictions are averaged: 16, or of large pictures fewer, but at least 4."""
    sizes = torch.tensor([prod(model.schemas[name].event_shape) for name in model.names])
    numbers = int((plan.targets.sum((0, 1)) * sizes).sum())
    return max(_LEAST_DRAWS, min(_DRAWS, _DECODED // max(1, numbers)))


def predicted_errors(
    model: MultimodalVAE,
    batch: Batch,
    plan: Plan,
    measures: Mapping[str, Measure],
    truth: Mapping[str, Tensor],
    *,
    seed: int,
    batch_size: int = 50,
) -> dict[Cell, Errors]:
    """Measure the mean predictions of a plan's targets, each given what its term gives.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        plan: which modalities are given and wanted in each term.
        measures: of the modalities to measure.
        truth: their columns, as `Measure.columns` returns them.
        seed: seed of the samples of z.
        batch_size: how many rows to encode at a time.

    Returns:
        Errors by term and modality.
    """
    inputs = _decoder_inputs(model, batch, plan, draws_for(model, plan), seed, batch_size)
    found: dict[Cell, Errors] = {}
    with bar(len(measures), "predictions", unit="modality", leave=False) as progress:
        for name, measure in measures.items():
            targets = plan.targets[:, :, model.names.index(name)]  # (terms, rows)
            for term, given in enumerate(plan.terms):
                if bool((kept := targets[term]).any()):
                    predicted = expected(model, name, inputs[:, term, kept], measure)
                    found[given, name] = measure.errors(predicted, truth[name][kept])
            progress.update()
    return found


def _decoder_inputs(model: MultimodalVAE, batch: Batch, plan: Plan, draws: int, seed: int, batch_size: int) -> Tensor:
    """Return what decoders see of samples of z, `(draws, terms, rows, …)`, on the CPU."""
    parts = []
    for start in range(0, len(batch), batch_size):
        rows = slice(start, start + batch_size)
        part = batch.part(rows).to(model.device)
        source = generator(seed, "predictions", start)
        noise = sample_noise(draws, len(plan.terms), len(part), model.latent_dim, source).mirrored()
        observed = model.observed(part)
        z = sample_z(model, observed, part.present, plan.given[:, rows], noise).z
        parts.append(model.decoder_inputs(z, observed, part.present).cpu())
    return torch.cat(parts, 2)


def expected(model: MultimodalVAE, name: str, inputs: Tensor, measure: Measure) -> Tensor:
    """Return the mean prediction of rows as columns, within what is possible, `(rows, width)`, on the CPU.

    Args:
        model: in eval mode.
        name: the modality.
        inputs: what its decoder sees, `(draws, rows, …)`.
        measure: says what the columns are.
    """
    draws, rows = inputs.shape[:2]
    size = max(1, _AT_ONCE // (draws * max(512, prod(model.schemas[name].event_shape))))
    parts = []
    for start in range(0, rows, size):
        here = inputs[:, start : start + size]
        point = _point(model.likelihood(name, here.flatten(0, 1).to(model.device)), measure).cpu()
        point = point.reshape(draws, here.shape[1], -1)  # (draws * rows, …) -> (draws, rows, width)
        parts.append(measure.bounded(point.float().mean(0)) if measure.is_linear else most_frequent(point).float())
    return torch.cat(parts)


def _point(likelihood: Any, measure: Measure) -> Tensor:
    """Return the mean of a likelihood; the probabilities of classes; the mode of texts, or where there is no mean."""
    if measure.outcome.is_one_of_several:
        found: Tensor = likelihood.probs
        return found
    try:
        found = likelihood.mean if measure.is_linear else likelihood.mode
    except NotImplementedError:
        found = likelihood.mode
    return found
