"""The best constant prediction of each modality, from its training rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.errors import guard
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.centered import Centered
from modalkit.nn.narrowed import Narrowed
from modalkit.nn.scaled import Scaled, join_scale
from modalkit.plugin import Schema

_MOST_ROWS = 4096
_LEAST_ROWS = 10  # fewer give no reliable mean and spread


def marginal(dataset: Dataset, name: str, schema: Schema) -> Any:
    """Return the raw parameters of a modality's best constant prediction, by its kind's `marginal`.

    Args:
        dataset: the dataset; at most 4,096 of its training rows with the modality are used, evenly spaced.
        name: the modality.
        schema: its schema.

    Returns:
        Raw parameters for one row, as `likelihood` takes them; None if the kind has no `marginal` or fewer than 10 rows
        have the modality.

    Raises:
        InputError: the plugin raised.
    """
    made, stored = registry.modality(schema.kind).marginal, _stored(dataset, name)
    if made is None or len(stored) < _LEAST_ROWS:
        return None
    with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
        return made(schema, schema.unpack(stored))


def _stored(dataset: Dataset, name: str) -> Tensor:
    """Return the stored samples that a `marginal` is computed from, `(rows, *event_shape)`."""
    train = dataset.rows("train")
    return dataset.values(name, evenly(train[dataset.present[train, dataset.names.index(name)]], _MOST_ROWS))


@torch.no_grad()
def _start(scaled: Scaled, raw: Tensor, stored: Tensor) -> Tensor:
    """Return a marginal's raw parameters, but with the untrained decoder's scales for values that never vary.

    A scale near zero would make the loss huge until the decoder returns exactly such a value.

    Args:
        scaled: the untrained decoder.
        raw: the marginal, in the form of `join_scale`.
        stored: the samples that it was computed from, `(rows, *event_shape)`.
    """
    varies = (stored != stored[:1]).any(0, keepdim=True)  # (1, *event_shape)
    own = scaled.raw_scale
    if own.shape != varies.shape:
        varies = varies.any().expand(own.shape)
    used = join_scale(torch.ones(1, *stored.shape[1:], dtype=torch.bool), varies)
    return raw.where(used, join_scale(raw[:, : stored.shape[1]], own))


def center(model: MultimodalVAE, dataset: Dataset) -> None:
    """Make each `Centered` decoder return its modality's `marginal` for z = 0, before training.

    Raises:
        InputError: a plugin raised, or its `marginal` has another shape than its decoder's output.
    """
    for name, decoder in model.decoders.items():
        schema = model.schemas[name]
        if isinstance(decoder, Centered) and (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                if (scaled := _scaled(decoder.decoder)) is not None:
                    raw = _start(scaled, raw, _stored(dataset, name))
                decoder.start_at(raw)


def start_scales(model: MultimodalVAE, dataset: Dataset) -> None:
    """Make the scales that `Scaled` decoders learn start at those of the best constant predictions, before training.

    Scales of values that never vary keep the start of an untrained decoder.

    Raises:
        InputError: a plugin raised.
    """
    for name, decoder in model.decoders.items():
        schema = model.schemas[name]
        if (scaled := _scaled(decoder)) is not None and (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                scaled.start_at(_start(scaled, raw, _stored(dataset, name)))


def _scaled(decoder: nn.Module) -> Scaled | None:
    """Return a decoder that learns scales, also of a model with private latents; None for others."""
    inner = decoder.network if isinstance(decoder, Narrowed) else decoder
    return inner if isinstance(inner, Scaled) else None
