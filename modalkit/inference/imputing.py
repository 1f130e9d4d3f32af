"""A whole dataset's gaps filled: as another dataset, or as the table that it came from."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset, DatasetWriter, Rows, write_shard
from modalkit.data.inspection import schemas as schemas_of
from modalkit.errors import InputError
from modalkit.evaluation.pictures import show
from modalkit.inference.prediction import in_units
from modalkit.inference.results import Imputed
from modalkit.inference.tables import ROWS, Columns, check_table, numbered, splits, write_table
from modalkit.inference.trained import TrainedModel
from modalkit.plugin import Filled, Schema
from modalkit.util.files import locked, remove_leftovers
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed
from modalkit.util.remote import is_url

_log = logging.getLogger(__name__)

Counts = dict[str, tuple[int, int]]
"""By modality how many entries were filled, and how many remain absent."""


def impute_dataset(
    model: TrainedModel, dataset: Dataset, out: Path, *, sample: bool = False, draws: int = 32, seed: int = 0
) -> Counts:
    """Write a dataset in which what was absent is filled in, and a table of what that was.

    The dataset is as any other, its rows, keys and splits the same. ``out/imputed`` is a table in Parquet, a file for
    each shard, with a line for each row: ``key``, ``split``, for each modality ``NAME.imputed``, and for those that are
    no pictures their values, ``NAME`` or ``NAME.0`` …, with ``NAME.scale`` or ``NAME.probability`` where they were
    imputed. Where only some of a modality's numbers were known in a row, these stay, and ``NAME.imputed.0`` … say
    which were filled. Killed, it goes on when it is called again.

    Args:
        model: see `TrainedModel.impute`, also for what else there is.
        dataset: opened with all its modalities; those that the model does not know are copied.
        out: the folder to make.
        sample: see `TrainedModel.impute`.
        draws: see `TrainedModel.impute`.
        seed: see `TrainedModel.impute`.

    Returns:
        By modality how many entries were filled, and how many remain absent.

    Raises:
        InputError: the dataset does not fit, or `out` holds something else.
    """
    dataset.manifest.check(model.schemas, dataset.path)
    schemas = {name: model.schemas.get(name, schema) for name, schema in schemas_of(dataset).items()}
    if unknown := [name for name in dataset.names if name not in schemas]:
        raise InputError(f"{dataset.path}: {', '.join(unknown)}: of a kind that is not installed, so not copied")
    settings: dict[str, Any] = {"name": "impute", "run": str(model.path), "weights": model.weights}
    manifest_digest = hashlib.sha256((dataset.folder / "manifest.json").read_bytes()).hexdigest()
    settings |= {"dataset": str(dataset.path), "manifest": manifest_digest}
    settings |= {"sample": sample, "draws": draws, "seed": seed}
    with locked(out, "imputing"):
        shards = torch.split(torch.arange(len(dataset)), ROWS)
        writer = DatasetWriter(out, schemas, settings, len(shards))
        for folder in (out / "shards", out / "imputed"):
            remove_leftovers(folder)
        pending = writer.pending()
        with bar(len(shards), "imputing", unit="shard", initial=len(shards) - len(pending), leave=False) as progress:
            for index in pending:
                rows = shards[index]
                filled = _impute(model, dataset, index, rows, sample, draws, seed)
                # The table first: a shard that is there says that its part of the work is done.
                table = _columns(model, dataset, rows, filled)
                write_table(out / "imputed" / f"{index:05d}.parquet", iter([table]))
                write_shard(out, index, schemas, _complete(dataset, rows, filled))
                progress.update()
        manifest = writer.finish()
    before = dict(zip(dataset.names, dataset.present.sum(0).tolist(), strict=True))
    counts = {n: manifest.modalities[n].present for n in model.modalities}
    return {n: (counts[n] - before[n], len(dataset) - counts[n]) for n in model.modalities}


def impute_table(
    model: TrainedModel, dataset: Dataset, out: Path, *, sample: bool = False, draws: int = 32, seed: int = 0
) -> tuple[Counts, list[Path]]:
    """Write a table of a dataset's rows in which what was absent is filled in, with `impute_dataset`'s numbers.

    Of a dataset whose builder can fill what it was built from (`Builder.fill`), such as a person's own table, it has
    that one's layout; of others, the columns of ``imputed`` as `impute_dataset` describes them.

    Args:
        model: see `impute_dataset`, also for what else there is.
        dataset: opened with all its modalities.
        out: ``.csv``, ``.tsv`` or ``.parquet``.
        sample: see `TrainedModel.impute`.
        draws: see `TrainedModel.impute`.
        seed: see `TrainedModel.impute`.

    Returns:
        By modality how many entries were filled and remain absent, and the files.

    Raises:
        InputError: the dataset does not fit, or `out` cannot be such a table.
        RunError: the disk cannot be written.
    """
    check_table(out)
    dataset.manifest.check(model.schemas, dataset.path)
    counts = torch.zeros(2, len(model.modalities), dtype=torch.long)

    def parts() -> Iterator[tuple[Tensor, Imputed]]:
        with bar(len(dataset), "imputing", unit="row", leave=False) as progress:
            for index, rows in enumerate(torch.split(torch.arange(len(dataset)), ROWS)):
                filled = _impute(model, dataset, index, rows, sample, draws, seed)
                counts.add_(torch.stack([filled.imputed, ~filled.batch.present]).sum(1))
                yield rows, filled
                progress.update(len(rows))

    builder, files = dataset.manifest.builder.get("name"), [out]
    known = builder in registry.names(registry.BUILDERS) and not is_url(dataset.path)
    if known and (fill := registry.get(registry.BUILDERS, str(builder)).fill) is not None:
        files = fill(dataset.folder, _joined(model, dataset, [filled for _, filled in parts()]), out)
    else:
        write_table(out, (_columns(model, dataset, rows, filled) for rows, filled in parts()))
    return dict(zip(model.modalities, zip(*counts.tolist(), strict=True), strict=True)), files


def uninformed(model: TrainedModel, dataset: Dataset) -> int:
    """Return how many rows have nothing that the model could infer the rest from, so that the prior fills them."""
    given = model.usable(dataset.present[:, [dataset.names.index(n) for n in model.modalities]])
    return int((~given.any(1) & model.model.allows(given)).sum())


def _impute(
    model: TrainedModel, dataset: Dataset, index: int, rows: Tensor, sample: bool, draws: int, seed: int
) -> Imputed:
    return model.impute(dataset, rows, sample=sample, draws=draws, seed=derived_seed(seed, "impute shard", index))


def _joined(model: TrainedModel, dataset: Dataset, parts: Sequence[Imputed]) -> dict[str, Filled]:
    """Return what was filled of each modality, all rows together."""
    found, schemas = {}, schemas_of(dataset)
    for column, (name, schema) in enumerate(model.schemas.items()):
        found[name] = Filled(
            schemas.get(name, schema),
            torch.cat([part.batch.values[name] for part in parts]),
            torch.cat([part.batch.present[:, column] for part in parts]),
            torch.cat([_uncertainty(schema, part, name) for part in parts]),
        )
    return found


def _complete(dataset: Dataset, rows: Tensor, filled: Imputed) -> Rows:
    """Return rows of a dataset with what was filled in their place."""
    batch, names = dataset[rows], list(filled.batch.values)
    values = {n: (filled.batch.values[n] if n in names else v).numpy() for n, v in batch.values.items()}
    present = dict(zip(dataset.names, batch.present.unbind(1), strict=True))
    present |= dict(zip(names, filled.batch.present.unbind(1), strict=True))
    known = {}
    for name in dataset.names:
        if dataset.manifest.modalities[name].partly:  # what is not filled is known in part as before
            here, own = dataset.known(name, rows)
            known[name] = here.numpy()
            values[name] = np.where(here, own, values[name])
    there = {name: column.numpy() for name, column in present.items()}
    keys = [dataset.key(int(row)) for row in rows]
    return Rows(values, there, dataset.split[rows].numpy(), keys, known=known)


def _columns(model: TrainedModel, dataset: Dataset, rows: Tensor, filled: Imputed) -> Columns:
    """Return what the table of imputed values says of some rows; see `impute_dataset`."""
    columns: Columns = {"key": [dataset.key(int(row)) for row in rows], "split": splits(dataset, rows)}
    partly = [name for name in model.schemas if dataset.manifest.modalities[name].partly]
    for column, (name, schema) in enumerate(model.schemas.items()):
        value, there = schema.unpack(filled.batch.values[name]), filled.batch.present[:, column]
        measure = model.measures.get(name)
        if isinstance(show(schema, torch.zeros_like(value[0])), str):  # no picture
            if value.is_floating_point() or measure == "scale":
                own = filled.batch.values[name] if schema.dtype == "float32" else value  # in a person's units
                columns |= numbered(name, own.double().masked_fill(~_like(there, value), math.nan), ".")
            else:
                texts = [show(schema, one) if here else None for one, here in zip(value, there.tolist(), strict=True)]
                columns[name] = texts
            if measure is not None:
                unsure = _uncertainty(schema, filled, name)
                if measure == "probability" and not value.is_floating_point() and unsure.ndim > 1:
                    unsure = unsure.flatten(1).amin(1)  # a text's least sure place
                columns |= numbered(f"{name}.{measure}", unsure, ".")
        imputed = filled.imputed[:, column]
        columns[f"{name}.imputed"] = imputed.numpy()
        if name in partly:
            cells = _like(imputed, value) & ~filled.known.get(name, torch.zeros(value.shape, dtype=torch.bool))
            columns |= numbered(f"{name}.imputed", cells, ".")
    return columns


def _uncertainty(schema: Schema, filled: Imputed, name: str) -> Tensor:
    """Return how sure what was filled of a modality is, `(rows, *event_shape)`, in a person's units, NaN elsewhere."""
    if name in filled.probability:
        return filled.probability[name]
    value = schema.unpack(filled.batch.values[name])
    scale = filled.scale.get(name, torch.full(value.shape, math.nan))
    return in_units(schema, value + scale) - in_units(schema, value)


def _like(rows: Tensor, value: Tensor) -> Tensor:
    """Return booleans `(rows,)` with as many dimensions as `value`."""
    return rows.reshape(-1, *[1] * (value.ndim - 1))
