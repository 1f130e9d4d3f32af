"""A whole dataset asked: its gaps filled, as another dataset, and its posteriors, as a table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit.data import SPLITS, Batch, Dataset, DatasetWriter, Rows, write_shard
from modalkit.errors import InputError
from modalkit.files import locked, remove_leftovers, write_atomic
from modalkit.inference.prediction import in_units
from modalkit.inference.results import Imputed
from modalkit.inference.trained import TrainedModel
from modalkit.inspection import schemas as schemas_of
from modalkit.pictures import show
from modalkit.progress import bar
from modalkit.randomness import derived_seed

_ROWS = 1000
Columns = dict[str, Any]
"""A table's columns by name: lists, or arrays of one dimension; NaN is no value."""


def write_embedding(
    model: TrainedModel,
    dataset: Dataset,
    out: Path,
    *,
    given: Sequence[str] | None = None,
    split: str | None = None,
) -> tuple[int, int]:
    """Write the posterior of each row as a table: ``key``, ``split``, ``loc_0`` …, ``scale_0`` ….

    Args:
        model: whose posteriors.
        dataset: with the model's modalities.
        out: a file, ``.parquet`` or ``.csv``.
        given: modalities; of them each row uses those that it has. All by default.
        split: whose rows; all by default.

    Returns:
        How many rows are in the table, and how many are not, for they have nothing that is given.

    Raises:
        InputError: the dataset does not fit, or no row has any of what is given.
    """
    check_table(out)
    dataset.manifest.check(model.schemas, dataset.path)
    rows = torch.arange(len(dataset)) if split is None else dataset.rows(split)
    present = dataset.present[rows][:, [dataset.names.index(n) for n in model.modalities]]
    usable = model.usable(present & torch.tensor([given is None or n in given for n in model.modalities]))
    rows, usable = rows[usable.any(1)], usable[usable.any(1)]
    if not len(rows):
        raise InputError(f"{dataset.path}: no row has anything of which this run has a posterior; see --given, --split")

    def parts() -> Iterator[Columns]:
        with bar(len(rows), "embedding", unit="row", leave=False) as progress:
            for at in torch.split(torch.arange(len(rows)), _ROWS):
                batch = dataset[rows[at]]
                found = model.embed(Batch({n: batch.values[n] for n in model.modalities}, usable[at]))
                columns = {"key": [dataset.key(int(row)) for row in rows[at]], "split": _splits(dataset, rows[at])}
                columns |= _numbered("loc_", found.loc) | _numbered("scale_", found.scale)
                yield columns
                progress.update(len(at))

    write_table(out, parts())
    return len(rows), len(present) - len(rows)


def impute_dataset(
    model: TrainedModel, dataset: Dataset, out: Path, *, sample: bool = False, draws: int = 32, seed: int = 0
) -> dict[str, tuple[int, int]]:
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
        shards = torch.split(torch.arange(len(dataset)), _ROWS)
        writer = DatasetWriter(out, schemas, settings, len(shards))
        for folder in (out / "shards", out / "imputed"):
            remove_leftovers(folder)
        pending = writer.pending()
        with bar(len(shards), "imputing", unit="shard", initial=len(shards) - len(pending), leave=False) as progress:
            for index in pending:
                rows = shards[index]
                filled = model.impute(
                    dataset, rows, sample=sample, draws=draws, seed=derived_seed(seed, "impute shard", index)
                )
                keys = [dataset.key(int(row)) for row in rows]
                table = {"key": keys, "split": _splits(dataset, rows)} | _table(model, dataset, filled)
                # The table first: a shard that is there says that its part of the work is done.
                write_table(out / "imputed" / f"{index:05d}.parquet", iter([table]))
                write_shard(out, index, schemas, _complete(dataset, rows, filled, keys))
                progress.update()
        manifest = writer.finish()
    before = dict(zip(dataset.names, dataset.present.sum(0).tolist(), strict=True))
    counts = {n: manifest.modalities[n].present for n in model.modalities}
    return {n: (counts[n] - before[n], len(dataset) - counts[n]) for n in model.modalities}


def _complete(dataset: Dataset, rows: Tensor, filled: Imputed, keys: list[str]) -> Rows:
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
    return Rows(values, there, dataset.split[rows].numpy(), keys, known=known)


def _table(model: TrainedModel, dataset: Dataset, filled: Imputed) -> Columns:
    """Return what the table of imputed values says of some rows; see `impute_dataset`."""
    columns: Columns = {}
    partly = [name for name in model.schemas if dataset.manifest.modalities[name].partly]
    for column, (name, schema) in enumerate(model.schemas.items()):
        value, there = schema.unpack(filled.batch.values[name]), filled.batch.present[:, column]
        measure = model.measures.get(name)
        if isinstance(show(schema, torch.zeros_like(value[0])), str):  # no picture
            if value.is_floating_point() or measure == "scale":
                own = filled.batch.values[name] if schema.dtype == "float32" else value  # in a person's units
                columns |= _numbered(name, own.double().masked_fill(~_like(there, value), math.nan), ".")
            else:
                texts = [show(schema, one) if here else None for one, here in zip(value, there.tolist(), strict=True)]
                columns[name] = texts
            if measure == "scale":
                scale = filled.scale.get(name, torch.full(value.shape, math.nan))
                width = in_units(schema, value + scale) - in_units(schema, value)
                columns |= _numbered(f"{name}.scale", width, ".")
            elif measure == "probability":
                sure = filled.probability.get(name, torch.full(value.shape, math.nan))
                if not value.is_floating_point() and sure.ndim > 1:  # a text's least sure place
                    sure = sure.flatten(1).amin(1)
                columns |= _numbered(f"{name}.probability", sure, ".")
        imputed = filled.imputed[:, column]
        columns[f"{name}.imputed"] = imputed.numpy()
        if name in partly:
            cells = _like(imputed, value) & ~filled.known.get(name, torch.zeros(value.shape, dtype=torch.bool))
            columns |= _numbered(f"{name}.imputed", cells, ".")
    return columns


def _like(rows: Tensor, value: Tensor) -> Tensor:
    """Return booleans `(rows,)` with as many dimensions as `value`."""
    return rows.reshape(-1, *[1] * (value.ndim - 1))


def _numbered(name: str, values: Tensor, dot: str = "") -> Columns:
    """Return `(rows, *event_shape)` as columns; numbered, unless there is one for a scalar."""
    if values.ndim == 1:
        return {name: values.numpy()}
    columns = values.flatten(1).unbind(1)  # (rows, *event_shape) -> (rows, columns)
    return {f"{name}{dot}{i}": column.numpy() for i, column in enumerate(columns)}


def _splits(dataset: Dataset, rows: Tensor) -> list[str]:
    return [SPLITS[index] for index in dataset.split[rows].tolist()]


def check_table(path: Path) -> None:
    """Raise `InputError` if a file's name does not say which kind of table it is."""
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: name a table FILE.parquet or FILE.csv")


def write_table(path: Path, parts: Iterator[Columns]) -> None:
    """Write a table part by part, atomically: Parquet, or CSV with a line of names.

    Args:
        path: ``.parquet`` or ``.csv``.
        parts: rows, at least one part; each with the same columns.

    Raises:
        InputError: the file's name says neither.
        RunError: the disk cannot be written.
    """
    check_table(path)
    import pyarrow
    from pyarrow import csv, parquet

    def write(temporary: Path) -> None:
        first = _record(pyarrow, next(parts))
        writer = parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter
        with writer(temporary, first.schema) as table:
            table.write_batch(first)
            for part in parts:
                table.write_batch(_record(pyarrow, part))

    write_atomic(path, write)


def _record(arrow: Any, columns: Columns) -> Any:
    """Return columns as Arrow holds them, NaN as no value."""
    texts = {name: arrow.string() if isinstance(column, list) else None for name, column in columns.items()}
    arrays = [arrow.array(column, texts[name], from_pandas=True) for name, column in columns.items()]
    return arrow.record_batch(arrays, names=list(columns))
