"""Imputation of a whole dataset, written as another dataset or as a table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset, DatasetWriter, Rows, write_shard
from modalkit.data.inspection import schemas as schemas_of
from modalkit.errors import InputError
from modalkit.inference.results import Imputed
from modalkit.inference.tables import ROWS, Columns, check_table, numbered, splits, write_table
from modalkit.inference.trained import TrainedModel
from modalkit.model.prediction import in_units
from modalkit.pictures import show, shown_as_picture
from modalkit.plugin import Filled, Schema
from modalkit.util.files import locked, remove_leftovers
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed
from modalkit.util.remote import is_url

Counts = dict[str, tuple[int, int]]
"""For each modality how many entries were filled, and how many remain absent."""


def impute_dataset(
    model: TrainedModel,
    dataset: Dataset,
    out: Path,
    *,
    sample: bool = False,
    draws: int = 32,
    seed: int = 0,
    as_if: Mapping[str, Any] | None = None,
) -> Counts:
    """Write a dataset in which absent entries are filled, and a table that says how.

    Rows, keys and splits of the dataset stay the same. The folder ``out/imputed`` is a table in Parquet, with one file
    for each shard and one line for each row. Its columns are ``key``, ``split`` and, for each modality,
    ``NAME.imputed``; for modalities that are not pictures also their values, ``NAME`` or ``NAME.0`` …, with
    ``NAME.scale`` or ``NAME.probability`` of the imputed ones. If only some of a modality's numbers were known in a
    row, these stay as they are, and ``NAME.imputed.0`` … say which ones were filled. An interrupted call resumes when
    it is repeated.

    Args:
        model: the model; see `TrainedModel.impute` for how it fills entries.
        dataset: opened with all its modalities. Modalities that the model does not have are copied.
        out: the folder to write.
        sample: see `TrainedModel.impute`.
        draws: see `TrainedModel.impute`.
        seed: see `TrainedModel.impute`.
        as_if: see `TrainedModel.impute`; values that JSON can hold.

    Returns:
        For each modality how many entries were filled, and how many remain absent.

    Raises:
        InputError: the dataset does not fit the model, or `out` holds something else.
    """
    dataset.manifest.check({**model.schemas, **model.covariates}, dataset.path)
    schemas = {name: model.schemas.get(name, schema) for name, schema in schemas_of(dataset).items()}
    if unknown := [name for name in dataset.names if name not in schemas]:
        raise InputError(f"{dataset.path}: {', '.join(unknown)}: of a kind that is not installed, so not copied")
    settings = _settings(model, dataset) | {"sample": sample, "draws": draws, "seed": seed}
    settings |= {} if as_if is None else {"as_if": dict(as_if)}
    with locked(out, "imputing"):
        shards = torch.split(torch.arange(len(dataset)), ROWS)
        writer = DatasetWriter(out, schemas, settings, len(shards))
        for folder in (out, out / "shards", out / "imputed"):
            remove_leftovers(folder)
        pending = writer.pending()
        with bar(len(shards), "imputing", unit="shard", initial=len(shards) - len(pending), leave=False) as progress:
            for index in pending:
                rows = shards[index]
                filled = _impute(model, dataset, index, rows, sample, draws, seed, as_if)
                # The table comes first, because a shard that exists marks its part of the work as done.
                table = _columns(model, dataset, rows, filled)
                write_table(out / "imputed" / f"{index:05d}.parquet", iter([table]))
                write_shard(out, index, schemas, _complete(dataset, rows, filled))
                progress.update()
        manifest = writer.finish()
    before = dict(zip(dataset.names, dataset.present.sum(0).tolist(), strict=True))
    counts = {n: manifest.modalities[n].present for n in model.modalities}
    return {n: (counts[n] - before[n], len(dataset) - counts[n]) for n in model.modalities}


def _settings(model: TrainedModel, dataset: Dataset) -> dict[str, Any]:
    """Return what identifies the model and the dataset of an imputed dataset."""
    digest = hashlib.sha256((dataset.folder / "manifest.json").read_bytes()).hexdigest()
    about = {"name": "impute", "run": str(model.path), "weights": model.weights}
    return about | {"dataset": str(dataset.path), "manifest": digest}


def impute_table(
    model: TrainedModel,
    dataset: Dataset,
    out: Path,
    *,
    sample: bool = False,
    draws: int = 32,
    seed: int = 0,
    as_if: Mapping[str, Any] | None = None,
) -> tuple[Counts, list[Path]]:
    """Write a table of a dataset's rows in which absent entries are filled, with the same numbers as `impute_dataset`.

    If the dataset's builder can fill its source (`Builder.fill`), such as the user's own table, the result has the
    layout of that source. Otherwise it has the columns of ``imputed``, which `impute_dataset` describes.

    Args:
        model: see `impute_dataset`.
        dataset: opened with all its modalities.
        out: the table, ``.csv``, ``.tsv`` or ``.parquet``.
        sample: see `TrainedModel.impute`.
        draws: see `TrainedModel.impute`.
        seed: see `TrainedModel.impute`.
        as_if: see `TrainedModel.impute`.

    Returns:
        For each modality how many entries were filled and how many remain absent; and the files.

    Raises:
        InputError: the dataset does not fit the model, or `out` is not such a table.
        RunError: the disk cannot be written.
    """
    check_table(out)
    dataset.manifest.check({**model.schemas, **model.covariates}, dataset.path)
    counts = torch.zeros(2, len(model.modalities), dtype=torch.long)

    def parts() -> Iterator[tuple[Tensor, Imputed]]:
        with bar(len(dataset), "imputing", unit="row", leave=False) as progress:
            for index, rows in enumerate(torch.split(torch.arange(len(dataset)), ROWS)):
                filled = _impute(model, dataset, index, rows, sample, draws, seed, as_if)
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
    """Return how many rows have nothing to predict the rest from, so that they are filled from the prior."""
    given = model.usable(dataset.present[:, [dataset.names.index(n) for n in model.modalities]])
    return int((~given.any(1) & model.model.allows(given)).sum())


def _impute(
    model: TrainedModel,
    dataset: Dataset,
    index: int,
    rows: Tensor,
    sample: bool,
    draws: int,
    seed: int,
    as_if: Mapping[str, Any] | None,
) -> Imputed:
    """Fill the rows of one shard; their samples depend on the shard's index alone."""
    chosen = derived_seed(seed, "impute shard", index)
    return model.impute(dataset, rows, sample=sample, draws=draws, seed=chosen, as_if=as_if)


def _joined(model: TrainedModel, dataset: Dataset, parts: Sequence[Imputed]) -> dict[str, Filled]:
    """Return the filled values of each modality, all rows together."""
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
    """Return rows of a dataset with their filled entries."""
    batch, names = dataset[rows], list(filled.batch.values)
    values = {n: (filled.batch.values[n] if n in names else v).numpy() for n, v in batch.values.items()}
    present = dict(zip(dataset.names, batch.present.unbind(1), strict=True))
    present |= dict(zip(names, filled.batch.present.unbind(1), strict=True))
    known = {}
    for name in dataset.names:
        if dataset.manifest.modalities[name].partly:  # entries that were not filled keep their known numbers
            here, own = dataset.known(name, rows)
            known[name] = here.numpy()
            values[name] = np.where(here, own, values[name])
    there = {name: column.numpy() for name, column in present.items()}
    keys = [dataset.key(int(row)) for row in rows]
    return Rows(values, there, dataset.split[rows].numpy(), keys, known=known)


def _columns(model: TrainedModel, dataset: Dataset, rows: Tensor, filled: Imputed) -> Columns:
    """Return the table of imputed values for some rows; see `impute_dataset`."""
    columns: Columns = {"key": [dataset.key(int(row)) for row in rows], "split": splits(dataset, rows)}
    for name, schema in model.schemas.items():
        if not shown_as_picture(schema):
            columns |= _value_columns(schema, filled, name, model.measures.get(name))
        imputed = filled.imputed[:, model.modalities.index(name)]
        columns[f"{name}.imputed"] = imputed.numpy()
        if dataset.manifest.modalities[name].partly:
            shape = (len(imputed), *schema.event_shape)
            cells = imputed.reshape(-1, *[1] * len(schema.event_shape)).expand(shape)  # (rows,) -> (rows, *event_shape)
            columns |= numbered(f"{name}.imputed", cells & ~filled.known.get(name, torch.zeros_like(cells)), ".")
    return columns


def _value_columns(schema: Schema, filled: Imputed, name: str, measure: str | None) -> Columns:
    """Return the columns of one modality's values, and of how certain the imputed ones are.

    Args:
        schema: the modality's schema.
        filled: the rows.
        name: the modality.
        measure: ``scale``, ``probability``, or None; see `TrainedModel.measures`.
    """
    stored, there = filled.batch.values[name], filled.batch.present[:, list(filled.batch.values).index(name)]
    value = schema.unpack(stored)
    columns: Columns = {}
    if value.is_floating_point() or measure == "scale":
        own = stored if schema.dtype == "float32" else value  # in the user's units
        absent = ~there.reshape(-1, *[1] * len(schema.event_shape))  # (rows,) -> (rows, 1, …)
        columns |= numbered(name, own.double().masked_fill(absent, math.nan), ".")
    else:
        columns[name] = [show(schema, one) if here else None for one, here in zip(value, there.tolist(), strict=True)]
    if measure is None:
        return columns
    unsure = _uncertainty(schema, filled, name)
    if name in columns and isinstance(columns[name], list) and unsure.ndim > 1:
        unsure = unsure.flatten(1).amin(1)  # one text has one probability: that of its least certain place
    return columns | numbered(f"{name}.{measure}", unsure, ".")


def _uncertainty(schema: Schema, filled: Imputed, name: str) -> Tensor:
    """Return how certain filled entries are, `(rows, *event_shape)`, in the user's units; NaN elsewhere."""
    if name in filled.probability:
        return filled.probability[name]
    value = schema.unpack(filled.batch.values[name])
    scale = filled.scale.get(name, torch.full(value.shape, math.nan))
    return in_units(schema, value + scale) - in_units(schema, value)
