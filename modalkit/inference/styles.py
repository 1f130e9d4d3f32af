"""The style of other rows: private latents that are inferred from values of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.inference.conditions import model_batch
from modalkit.inference.values import Given
from modalkit.model.sampling import Noise, sample_z
from modalkit.model.vae import MultimodalVAE


def style_rows(model: MultimodalVAE, style: Given, rows: int, want: Sequence[str], objective: str) -> Batch:
    """Return the values that private latents are inferred from, for each of some rows.

    Args:
        model: the model.
        style: one value for all rows or one for each; see `model_batch`.
        rows: how many rows are predicted.
        want: the modalities that are predicted.
        objective: name of the objective that the model was trained with.

    Raises:
        InputError: the model has no private latents, a modality has none or is not predicted, a value does not fit, or
            the numbers of rows differ.
    """
    private = ", ".join(model.own)
    if not private:
        raise InputError(
            f"style: this run's objective ({objective}) has no private latents; train with dmvae or mmvae-plus, and "
            f"give modalities a private_dim"
        )
    try:
        batch = model_batch(model, style)
    except InputError as error:
        raise InputError(f"style: {error}") from None
    names = [name for name, there in zip(model.names, batch.present.any(0), strict=True) if there]
    if not names:
        raise InputError(f"style: nothing is given; give a value of {private}")
    for name in names:
        if name not in model.own:
            raise InputError(f"style: '{name}' has no private latent; those that have one are {private}")
        if name not in want:
            raise InputError(f"style: '{name}' is not predicted; add it to want, or leave its style out")
    if len(batch) not in (1, rows):
        raise InputError(f"style: the numbers of rows differ: {len(batch)} there, {rows} given")
    return batch if len(batch) == rows else batch.take(torch.zeros(rows, dtype=torch.long))


def restyled(model: MultimodalVAE, z: Tensor, style: Batch, noise: Noise) -> Tensor:
    """Return samples of z whose private latents are those of a style, where it has the modality.

    Args:
        model: in eval mode, under `computing`.
        z: `(samples, rows, latent_dim)`.
        style: the style of these rows.
        noise: of at least as many samples of these rows.
    """
    there = torch.zeros(len(style), model.latent_dim, dtype=torch.bool)
    for name, own in model.own.items():
        there[:, own] = style.present[:, model.names.index(name), None]
    observed = model.observed(style.to(model.device))
    found = sample_z(model, observed, style.present, style.present[None], noise).z.squeeze(1)
    return torch.where(there.to(z.device), found[: len(z)].to(z), z)
