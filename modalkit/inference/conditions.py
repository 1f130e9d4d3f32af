"""Rows as a model takes them: modalities, and beside them the covariates that the model is conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from modalkit.data import Batch
from modalkit.errors import InputError, check_names
from modalkit.inference.values import Given, as_batch, only
from modalkit.model.networks import ModalityNetworks
from modalkit.util.randomness import generator

_AS_IF = "this model has no covariates; a recipe makes a modality a covariate with `role: covariate`"


def check_modalities(names: Sequence[str], model: ModalityNetworks) -> None:
    """Raise `InputError` for the first name that is not a modality, or that is a covariate."""
    for name in names:
        if name in model.covariate_schemas:
            raise InputError(f"'{name}' is a covariate: the model is conditioned on it, and does not predict it")
    check_names(names, model.names)


def model_batch(model: ModalityNetworks, given: Given, rows: int = 1, as_if: Given | None = None) -> Batch:
    """Convert known values to rows that carry the covariates of a model apart; see `as_batch`.

    Args:
        model: the model.
        given: values of modalities and of covariates. A covariate that is not given is absent.
        rows: number of rows if nothing is given.
        as_if: covariates that decoders see instead; see `seen_as_if`.

    Raises:
        InputError: see `as_batch` and `seen_as_if`.
    """
    if as_if is not None:
        return seen_as_if(model, model_batch(model, given, rows), as_if)
    own = model.covariate_schemas
    if not own:
        return as_batch(model.schemas, given, rows)
    if isinstance(given, Batch) and given.covariates is not None:
        carried = as_batch(own, given.covariates)
        return replace(as_batch(model.schemas, given), covariates=carried, as_if=given.as_if)
    whole = as_batch({**model.schemas, **own}, given, rows)
    return replace(only(whole, model.schemas), covariates=only(whole, own))


def seen_as_if(model: ModalityNetworks, batch: Batch, covariates: Given, what: str = "as_if") -> Batch:
    """Return rows whose decoders see other covariates than their encoders.

    Args:
        model: the model.
        batch: the rows, as `model_batch` returns them.
        covariates: values of covariates, one for all rows or one for each. Of the others, each row keeps its own.
        what: the argument that an error names.

    Raises:
        InputError: the model has no such covariate, a value does not fit, or the numbers of rows differ.
    """
    own = model.covariate_schemas
    if not own:
        raise InputError(f"{what}: {_AS_IF}")
    assert batch.covariates is not None
    try:
        other = as_batch(own, covariates)
    except InputError as error:
        raise InputError(f"{what}: {error}; only covariates can be given here") from None
    if len(other) not in (1, len(batch)):
        raise InputError(f"{what}: the numbers of rows differ: {len(other)} there, {len(batch)} given")
    present = other.present.expand(len(batch), -1)
    values = {}
    for (name, value), there in zip(other.values.items(), present.unbind(1), strict=True):
        before = batch.covariates.values[name]
        mask = there.reshape(-1, *[1] * (before.ndim - 1))  # (rows,) -> (rows, 1, …)
        values[name] = torch.where(mask, value.expand_as(before), before)
    return replace(batch, as_if=Batch(values, present | batch.covariates.present))


def sampled_rows(model: ModalityNetworks, given: Given | None, rows: int, seed: int) -> Batch:
    """Return rows without modalities, whose covariates are given or else those of training rows, chosen at random.

    Args:
        model: the model.
        given: values of covariates, one for all rows or one for each; None: no values.
        rows: how many rows.
        seed: of the choice. All covariates of a row are those of one training row.

    Raises:
        InputError: a name is no covariate, a value does not fit, or the numbers of rows differ.
    """
    batch = model_batch(model, {}, rows)
    if model.covariates is not None:
        batch = replace(batch, covariates=model.covariates.sample(rows, generator(seed, "covariates")))
    if not given:
        return batch
    changed = seen_as_if(model, batch, given, "given")
    return replace(changed, covariates=changed.as_if, as_if=None)
