"""The best constant prediction of each modality, from its training rows."""

from __future__ import annotations

from typing import Any

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.errors import guard
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.centered import Centered
from modalkit.nn.scaled import Scaled
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
    made, train = registry.modality(schema.kind).marginal, dataset.rows("train")
    rows = evenly(train[dataset.present[train, dataset.names.index(name)]], _MOST_ROWS)
    if made is None or len(rows) < _LEAST_ROWS:
        return None
    with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
        return made(schema, schema.unpack(dataset.values(name, rows)))


def center(model: MultimodalVAE, dataset: Dataset) -> None:
    """Make each `Centered` decoder return its modality's `marginal` for z = 0, before training.

    Raises:
        InputError: a plugin raised, or its `marginal` has another shape than its decoder's output.
    """
    for name, decoder in model.decoders.items():
        schema = model.schemas[name]
        if isinstance(decoder, Centered) and (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                decoder.start_at(raw)


def start_scales(model: MultimodalVAE, dataset: Dataset) -> None:
    """Make the scales that `Scaled` decoders learn start at those of the best constant predictions, before training.

    Raises:
        InputError: a plugin raised.
    """
    for name, decoder in model.decoders.items():
        schema = model.schemas[name]
        if isinstance(decoder, Scaled) and (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                decoder.start_at(raw)
