"""The best constant prediction of each modality, by its training rows."""

from __future__ import annotations

import logging
from typing import Any

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.errors import guard
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import Centered
from modalkit.plugin import Schema

_log = logging.getLogger(__name__)

_MOST_ROWS = 4096
_LEAST_ROWS = 10  # a mean and a spread of fewer are no prediction


def marginal(dataset: Dataset, name: str, schema: Schema) -> Any:
    """Return raw parameters of a modality's best constant prediction, as its kind's `marginal` does.

    Args:
        dataset: of its training rows that have the modality, at most 4,096 are taken, evenly spread.
        name: the modality.
        schema: what it is.

    Returns:
        What `likelihood` takes, for one row; None where the kind has no `marginal`, or there are under 10 rows.

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
    """Have each `Centered` decoder of a model that is not trained yet say, of z = 0, its modality's `marginal`.

    Raises:
        InputError: a plugin raised, or its `marginal` is of another shape than its decoder's output.
    """
    for name, decoder in model.decoders.items():
        schema = model.schemas[name]
        if isinstance(decoder, Centered) and (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                decoder.start_at(raw)
