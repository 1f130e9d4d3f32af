"""Datasets, values and tables in memory with what they lack filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit.data import Batch, Dataset, check_manifest
from modalkit.data.frame_values import Reader, cells
from modalkit.data.frames import Frame
from modalkit.data.joining import as_frame
from modalkit.errors import InputError
from modalkit.inference.conditions import model_batch, seen_as_if
from modalkit.inference.filling import Known, fill
from modalkit.inference.frame_rows import read_rows, readers
from modalkit.inference.results import Imputed
from modalkit.inference.sampler import LatentSampler
from modalkit.inference.values import Given, only
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Cells
from modalkit.registry import modality
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed

_ROWS = 1000  # as in `modalkit impute`, whose samples are the same then


def impute(
    model: MultimodalVAE,
    data: Dataset | Given,
    rows: Tensor | None,
    *,
    sample: bool,
    draws: int,
    seed: int,
    sampler: LatentSampler | None,
    as_if: Given | None = None,
) -> Imputed | Any:
    """Fill what is absent; see `modalkit.TrainedModel.impute`.

    Args:
        model: in eval mode.
        data: a dataset, a table or values.
        rows: rows of the dataset; None for all.
        sample: fill with samples instead of means.
        draws: number of samples of z for each row.
        seed: seed of the samples.
        sampler: makes the samples, instead of the posterior.
        as_if: covariates that decoders see instead of the rows' own.
    """
    known: Known = {}
    if (frame := as_frame(data)) is not None:
        if rows is not None:
            raise InputError("rows: is for datasets; give the rows of the table that you mean")
        return impute_frame(model, frame, sample=sample, draws=draws, seed=seed, sampler=sampler, as_if=as_if)
    if isinstance(data, Dataset):
        check_manifest(data.path, {**model.schemas, **model.covariate_schemas})
        rows = torch.arange(len(data)) if rows is None else rows
        batch = rows_of(model, data, rows)
        known = {n: data.known(n, rows) for n in model.names if data.manifest.modalities[n].partly}
    else:
        batch = model_batch(model, data)
    batch = batch if as_if is None else seen_as_if(model, batch, as_if)
    return fill(model, batch, known, sample=sample, draws=draws, seed=seed, sampler=sampler)


def impute_frame(
    model: MultimodalVAE,
    frame: Frame,
    *,
    sample: bool,
    draws: int,
    seed: int,
    sampler: LatentSampler | None = None,
    as_if: Given | None = None,
) -> Any:
    """Return a table with its missing cells filled; see `modalkit.TrainedModel.impute`."""
    reading = readers({**model.schemas, **model.covariate_schemas}, frame)
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    starts = range(0, frame.rows, _ROWS)
    with bar(frame.rows, "imputing", unit="row", leave=False) as shown:
        for index, start in enumerate(starts):
            part = slice(start, min(start + _ROWS, frame.rows))
            whole, known = read_rows(reading, part)
            batch = model_batch(model, whole, as_if=as_if)
            chosen = derived_seed(seed, "impute shard", index)
            filled = fill(model, batch, known, sample=sample, draws=draws, seed=chosen, sampler=sampler)
            for name in model.schemas:
                _collect(found, reading[name], filled, name, part)
            shown.update(len(batch))
    return frame.filled({name: (np.array(rows, np.int64), values) for name, (rows, values) in found.items()})


def rows_of(model: MultimodalVAE, dataset: Dataset, rows: Tensor) -> Batch:
    """Return rows of a dataset that has a model's modalities and covariates, whether it carries these apart or not."""
    batch = dataset[rows]
    apart = batch.covariates is not None
    return model_batch(model, only(batch, model.schemas if apart else {**model.schemas, **model.covariate_schemas}))


def _collect(found: dict[str, Any], reader: Reader, filled: Imputed, name: str, rows: slice) -> None:
    """Add the cells that were missing in some rows of a table to `found`, by column rows and values."""
    imputed = filled.imputed[:, list(filled.batch.values).index(name)]
    schema, stored = reader.schema, filled.batch.values[name]
    kind = modality(schema.kind)
    flat = stored.reshape(len(stored), -1)  # (rows, *event_shape) -> (rows, columns)
    for place, column in enumerate(reader.columns):
        if column is None:
            continue
        at = torch.from_numpy(column.missing(rows)) & imputed
        gaps = at.nonzero().squeeze(1)
        if not len(gaps):
            continue
        if kind.columns.cells is Cells.TEXTS:
            shown = [kind.show(schema, one) for one in schema.unpack(stored[gaps])]
            if not all(isinstance(one, str) for one in shown):
                continue  # a picture is no cell
            values: Any = shown
        else:
            values = flat[gaps, place].numpy()
        into = found.setdefault(column.name, ([], []))
        into[0].extend((gaps + rows.start).tolist())
        into[1].extend(cells(column, schema, values))
