"""Tables with one line for each row of a dataset, such as the table of its posteriors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalkit.data import SPLITS, Dataset
from modalkit.errors import InputError
from modalkit.inference.frames import rows_of
from modalkit.inference.trained import TrainedModel
from modalkit.util.files import write_atomic
from modalkit.util.progress import bar

ROWS = 1000
"""How many rows are computed at a time."""
TABLES = (".csv", ".tsv", ".parquet")
"""The file types of tables."""
Columns = dict[str, Any]
"""A table's columns by name: lists, or arrays of one dimension; NaN stands for a missing value."""


def write_embedding(
    model: TrainedModel,
    dataset: Dataset,
    out: Path,
    *,
    given: Sequence[str] | None = None,
    split: str | None = None,
    private: bool = False,
) -> tuple[int, int]:
    """Write the posterior of each row as a table: ``key``, ``split``, ``loc_0`` …, ``scale_0`` ….

    Args:
        model: the model whose posteriors are written.
        dataset: a dataset with the model's modalities.
        out: the file, ``.csv``, ``.tsv`` or ``.parquet``.
        given: the modalities to condition on; each row uses those of them that it has. All by default.
        split: write only the rows of this split; all by default.
        private: add the private latents of each modality that has one: ``loc_NAME_0`` …, ``scale_NAME_0`` …. They are
            missing where the modality is not given.

    Returns:
        How many rows the table has, and how many are left out because they have none of the given modalities.

    Raises:
        InputError: the dataset does not fit the model, or no row has any of the given modalities, or there are no
            private latents.
    """
    check_table(out)
    if private and not model.model.own:
        raise InputError("--private: this run has no private latents; leave it out")
    dataset.manifest.check({**model.schemas, **model.covariates}, dataset.path)
    rows = torch.arange(len(dataset)) if split is None else dataset.rows(split)
    present = dataset.present[rows][:, [dataset.names.index(n) for n in model.modalities]]
    usable = model.usable(present & torch.tensor([given is None or n in given for n in model.modalities]))
    rows, usable = rows[usable.any(1)], usable[usable.any(1)]
    if not len(rows):
        raise InputError(f"{dataset.path}: no row has anything of which this run has a posterior; see --given, --split")

    def parts() -> Iterator[Columns]:
        with bar(len(rows), "embedding", unit="row", leave=False) as progress:
            for at in torch.split(torch.arange(len(rows)), ROWS):
                batch = replace(rows_of(model.model, dataset, rows[at]), present=usable[at])
                found = model.embed(batch, private=private)
                columns = {"key": [dataset.key(int(row)) for row in rows[at]], "split": splits(dataset, rows[at])}
                for moment, values in (("loc", found.loc), ("scale", found.scale)):
                    columns |= numbered(f"{moment}_", values[:, : model.model.shared_dim])
                    for name, dimensions in (model.model.own if private else {}).items():
                        missing = ~usable[at][:, [model.modalities.index(name)]]
                        columns |= numbered(f"{moment}_{name}_", values[:, dimensions].masked_fill(missing, torch.nan))
                yield columns
                progress.update(len(at))

    write_table(out, parts())
    return len(rows), len(present) - len(rows)


def numbered(name: str, values: Tensor, dot: str = "") -> Columns:
    """Return values, `(rows, *event_shape)`, as columns that are numbered; scalars are one column without a number."""
    if values.ndim == 1:
        return {name: values.numpy()}
    columns = values.flatten(1).unbind(1)  # (rows, *event_shape) -> (rows, columns)
    return {f"{name}{dot}{i}": column.numpy() for i, column in enumerate(columns)}


def splits(dataset: Dataset, rows: Tensor) -> list[str]:
    """Return the name of each row's split."""
    return [SPLITS[index] for index in dataset.split[rows].tolist()]


def check_table(path: Path) -> None:
    """Raise `InputError` if a file's name does not end like a table's."""
    if path.suffix.lower() not in TABLES:
        raise InputError(f"{path}: name a table FILE.csv, FILE.tsv or FILE.parquet")


def write_table(path: Path, parts: Iterator[Columns]) -> None:
    """Write a table part by part and atomically, as Parquet or as text with a header.

    Args:
        path: the file, ``.parquet``, ``.csv`` or ``.tsv``.
        parts: the rows, in at least one part; all parts have the same columns.

    Raises:
        InputError: the file's name ends in none of these.
        RunError: the disk cannot be written.
    """
    check_table(path)
    import pyarrow
    from pyarrow import csv, parquet

    def write(temporary: Path) -> None:
        first = _record(pyarrow, next(parts))
        if path.suffix.lower() == ".parquet":
            writer = parquet.ParquetWriter(temporary, first.schema)
        else:
            form = csv.WriteOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            writer = csv.CSVWriter(temporary, first.schema, write_options=form)
        with writer as table:
            table.write_batch(first)
            for part in parts:
                table.write_batch(_record(pyarrow, part))

    write_atomic(path, write)


def _record(arrow: Any, columns: Columns) -> Any:
    """Return columns as an Arrow record batch, with NaN as missing values."""
    texts = {name: arrow.string() if isinstance(column, list) else None for name, column in columns.items()}
    arrays = [arrow.array(column, texts[name], from_pandas=True) for name, column in columns.items()]
    return arrow.record_batch(arrays, names=list(columns))
