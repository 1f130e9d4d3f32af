"""Rows without gaps: absent entries filled from what their rows have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.inference.conditions import model_batch
from modalkit.inference.predicting import infer
from modalkit.inference.results import Imputed, joined_predictions
from modalkit.inference.sampler import LatentSampler
from modalkit.inference.subsets import usable
from modalkit.model.prediction import Prediction, as_stored, probability_of
from modalkit.model.vae import MultimodalVAE
from modalkit.util.randomness import derived_seed

_PRIOR_DRAWS = 1000
"""At least this many samples of the prior give its mean, which fills every row that has nothing."""

Known = Mapping[str, tuple[Tensor, Tensor]]
"""By modality which numbers of absent entries are known, bool `(rows, *event_shape)`, and their stored values."""


def fill(
    model: MultimodalVAE,
    batch: Batch,
    known: Known,
    *,
    sample: bool,
    draws: int,
    seed: int,
    sampler: LatentSampler | None = None,
) -> Imputed:
    """Fill the absent entries of a batch; see `modalkit.inference.TrainedModel.impute`.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU, with the modalities in the model's order.
        known: numbers of absent entries that stay as they are.
        sample: fill with samples from the predictive distribution instead of its mean.
        draws: number of samples of z for each row.
        seed: seed of the samples.
        sampler: makes the samples, instead of the posterior.
    """
    given = usable(model, batch.present)
    can = model.allows(given)
    missing = ~batch.present & can[:, None] & torch.tensor([name in model.decoders for name in model.names])
    # All rows that have nothing have the same mean, unless they differ in covariates.
    empty = can & ~given.any(1) & (not sample and model.covariates is None)
    some = missing & ~empty[:, None]
    predictions = _informed(model, replace(batch, present=given), some, sample, draws, seed, sampler)
    expected = _expected(model, missing & empty[:, None], draws)
    whole = replace(batch, values=dict(batch.values), present=batch.present | missing)
    imputed = Imputed(whole, missing, {}, given, {}, {})
    for name in _names(model, missing):
        column = missing[:, model.names.index(name)]
        found = [predicted[name] for predicted in (predictions, expected) if name in predicted]
        if name in expected:
            found += found[-1:] * (int((column & empty).sum()) - 1)
        rows = torch.cat([(column & which).nonzero().squeeze(1) for which in (~empty, empty)])
        _fill_modality(imputed, name, rows, joined_predictions(found), sample)
        if name in known:
            _keep_known(imputed, name, column, *known[name])
    return imputed


def _informed(
    model: MultimodalVAE,
    batch: Batch,
    missing: Tensor,
    sample: bool,
    draws: int,
    seed: int,
    sampler: LatentSampler | None,
) -> Mapping[str, Prediction]:
    """Predict the entries in `missing`, bool `(rows, modalities)`, from what their rows have."""
    return infer(
        model,
        batch,
        _names(model, missing),
        draws=draws,
        samples=int(sample),
        noise=sample,
        seed=derived_seed(seed, "impute"),
        targets=missing,
        mirrored=True,
        sampler=sampler,
    )


def _expected(model: MultimodalVAE, missing: Tensor, draws: int) -> Mapping[str, Prediction]:
    """Predict the modalities in `missing`, bool `(rows, modalities)`, from the prior: one row for all of them."""
    if not (names := _names(model, missing)):
        return {}
    return infer(model, model_batch(model, {}), names, draws=max(draws, _PRIOR_DRAWS), mirrored=True)


def _names(model: MultimodalVAE, missing: Tensor) -> list[str]:
    """Return the modalities of which at least one entry is in `missing`, bool `(rows, modalities)`."""
    return [name for name, some in zip(model.names, missing.any(0), strict=True) if some]


def _fill_modality(imputed: Imputed, name: str, rows: Tensor, prediction: Prediction, sample: bool) -> None:
    """Put predictions into rows of one modality, int64 `(filled rows,)`, with their scale or probability."""
    filled = as_stored(prediction.schema, prediction.samples[0] if sample else prediction.value)
    values = imputed.batch.values
    values[name] = values[name].index_copy(0, rows, filled)
    probability = probability_of(prediction, filled)
    measure, into = (prediction.scale, imputed.scale) if probability is None else (probability, imputed.probability)
    if measure is not None:
        nothing = measure.new_full((len(imputed.batch), *measure.shape[1:]), math.nan)
        into[name] = nothing.index_copy(0, rows, measure)


def _keep_known(imputed: Imputed, name: str, filled: Tensor, where: Tensor, own: Tensor) -> None:
    """Put the numbers that are known of filled entries back.

    Args:
        imputed: changed in place.
        name: the modality.
        filled: which rows were filled, bool `(rows,)`.
        where: which numbers are known, bool `(rows, *event_shape)`.
        own: what they are, as stored, `(rows, *event_shape)`.
    """
    kept = where & filled.reshape(-1, *[1] * (where.ndim - 1))  # (rows,) -> (rows, 1, …)
    imputed.known[name] = kept
    imputed.batch.values[name] = imputed.batch.values[name].where(~kept, own)
    for measure in (imputed.scale, imputed.probability):
        if name in measure:
            measure[name] = measure[name].masked_fill(kept, math.nan)
