"""Write a dataset from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit.data.given import Plain, columns_of, plain_values, rows_masked
from modalkit.data.manifest import SPLITS, Manifest
from modalkit.data.standardizing import check_told_apart, standardized
from modalkit.data.writing import Array, DatasetWriter, Rows, check_values, write_shard
from modalkit.errors import InputError
from modalkit.plugin import Schema
from modalkit.registry import modality
from modalkit.util.json_files import read_json
from modalkit.util.remote import refuse_url

_FRACTIONS = {"train": 0.8, "valid": 0.1, "test": 0.1}
"""Of the rows in each split, if nobody says otherwise."""


def write_dataset(
    out: Path | str,
    schemas: Mapping[str, Schema],
    values: Mapping[str, Any],
    *,
    present: Mapping[str, Any] | None = None,
    split: Sequence[str] | Mapping[str, float] | None = None,
    keys: Sequence[str] | None = None,
    shard_rows: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    standardize: bool | None = None,
) -> Manifest:
    """Write a dataset from arrays and return its manifest.

    Args:
        out: folder to create.
        schemas: schema of each modality, as `modalkit.schema` returns it.
        values: array or tensor `(rows, *event_shape)` of each modality. Integers are stored as they are, and so are
            floats if the kind stores floats; other floats are packed by the schema (an image's must lie in [0, 1]).
            The kind reads a list of texts: class names, strings, paths of images. A row that is masked or None is
            absent. One or several columns of a table (pandas, polars, Arrow) are arrays too, whose missing values are
            absent entries. Nothing that is given is changed.
        present: bool `(rows,)` of each modality that is not present in every row.
        split: train, valid or test for each row, or fractions for a random split with `seed`; the default is
            ``{"train": 0.8, "valid": 0.1, "test": 0.1}``.
        keys: unique, stable name of each row; its number by default.
        shard_rows: rows per shard.
        seed: seed of the random split.
        overwrite: replace a dataset that `write_dataset` wrote in `out`.
        standardize: whether networks see numbers minus their mean, divided by their standard deviation over the
            training rows, in kinds that support it (`vector`). The dataset keeps both; what is stored keeps its unit.
            By default only if a mean lies more than 5 from 0, or a standard deviation is above 10 or below 0.1. A
            schema that states `standardize` keeps its own.

    Raises:
        InputError: lengths, shapes or values do not fit; the message names the modality and row.

    Example:
        >>> import tempfile, torch, modalkit
        >>> folder = tempfile.mkdtemp() + "/pairs"
        >>> manifest = modalkit.write_dataset(
        ...     folder,
        ...     {"position": modalkit.schema("vector", size=2), "class": modalkit.schema("label", classes=3)},
        ...     {"position": torch.randn(30, 2), "class": torch.arange(30) % 3},
        ...     present={"class": torch.arange(30) < 20},
        ... )
        >>> manifest.modalities["class"].present
        20
    """
    refuse_url(out, "out")
    if shard_rows < 1:
        raise InputError(f"shard_rows: {shard_rows} is too small; it must be at least 1")
    rows = _collect(schemas, values, present or {}, split, keys, seed)
    train = rows.split == SPLITS.index("train")
    described = {
        n: standardized(n, s, rows.values[n][train & rows.present[n]], standardize) for n, s in schemas.items()
    }
    return _write(Path(out), described, rows, shard_rows, overwrite)


def _collect(
    schemas: Mapping[str, Schema],
    values: Mapping[str, Any],
    given_present: Mapping[str, Any],
    split: Sequence[str] | Mapping[str, float] | None,
    given_keys: Sequence[str] | None,
    seed: int,
) -> Rows:
    """Check the arguments of `write_dataset` and return them as the rows of the dataset, as they will be stored.

    Raises:
        InputError: lengths, shapes or values do not fit; the message names the modality and row.
    """
    names, values = list(schemas), columns_of(values)
    if not names or set(values) != set(names):
        raise InputError(f"values are for {sorted(values)}, schemas for {sorted(names)}; they must be the same")
    if unknown := set(given_present) - set(names):
        raise InputError(f"present names {sorted(unknown)}, which no schema describes")
    plain = {name: plain_values(name, values[name]) for name in names}
    total = len(next(iter(plain.values())))
    keys = [str(key) for key in given_keys] if given_keys is not None else [str(i) for i in range(total)]
    present = {n: _as_booleans(n, given_present[n]) if n in given_present else np.ones(total, bool) for n in names}
    for what, length in [("keys", len(keys))] + [(f"present of '{n}'", len(p)) for n, p in present.items()]:
        if length != total:
            raise InputError(f"{what}: {length} given for {total} rows")
    if len(set(keys)) < total:
        raise InputError(f"keys: '{next(k for i, k in enumerate(keys) if k in keys[:i])}' is given twice")
    for name in names:
        if len(plain[name]) != total:
            raise InputError(f"values of '{name}': {len(plain[name])} given for {total} rows")
        present[name] = present[name] & ~rows_masked(name, plain[name])
    stored = {name: _stored(name, schema, plain[name], present[name]) for name, schema in schemas.items()}
    rows = Rows(stored, present, assign_splits(total, split, seed), keys)
    check_values(schemas, rows)
    return rows


def _write(out: Path, schemas: Mapping[str, Schema], rows: Rows, shard_rows: int, overwrite: bool) -> Manifest:
    """Write rows to the folder `out`, `shard_rows` in each shard.

    Raises:
        InputError: `out` holds a dataset that may not be replaced, or something else.
    """
    if overwrite:
        _remove(out)
    shards = max(1, -(-len(rows.keys) // shard_rows))
    writer = DatasetWriter(out, schemas, {"name": "write_dataset"}, shards, among_others=overwrite)
    if writer.complete:
        raise InputError(f"{out}: holds a dataset already; give overwrite=True, or choose another folder")
    for index in range(shards):
        write_shard(out, index, schemas, rows.part(slice(index * shard_rows, (index + 1) * shard_rows)))
    return writer.finish()


def _remove(out: Path) -> None:
    """Delete the dataset that `write_dataset` wrote in a folder; keep other files, such as a sheet of images."""
    for note in (out / "manifest.json", out / "build.json"):
        if note.exists():
            about = read_json(note)
            builder = about.get("builder") if isinstance(about, dict) else None
            if not isinstance(builder, dict) or builder.get("name") != "write_dataset":
                raise InputError(f"{out}: holds something that write_dataset did not make; choose another folder")
            for path in [*sorted((out / "shards").glob("*.safetensors")), note]:
                path.unlink()


def _as_booleans(name: str, present: Any) -> Array:
    """Return which rows have a modality as an array of our own, bool `(rows,)`.

    Raises:
        InputError: some are neither true nor false.
    """
    try:
        return np.array(present.cpu().numpy() if isinstance(present, Tensor) else present, dtype=bool)
    except (TypeError, ValueError) as error:
        raise InputError(f"present of '{name}': give true or false for each row ({error})") from None


def _stored(name: str, schema: Schema, values: Plain, present: Array) -> Array:
    """Return one modality's values as its schema stores them, with zeros in absent rows.

    Raises:
        InputError: a value of a present row does not fit; the message names the modality.
    """
    total = len(present)
    stored = np.zeros((total, *schema.event_shape), schema.dtype)
    try:
        held = [value for value, there in zip(values, present, strict=True) if there] if _is_texts(values) else None
        if held is not None:
            texts = [str(text) for text in held]
            if texts:
                value = torch.stack([modality(schema.kind).read(schema, text) for text in texts])
                stored[present] = packed(schema, value)
        else:
            array = _as_array(values)
            if array.shape == (total,) and schema.event_shape == (1,):
                array = array[:, None]  # (rows,) -> (rows, 1), as a column of a table is
            if array.shape != stored.shape:
                raise ValueError(f"got {array.shape}, expected {stored.shape}")
            array = array.astype(np.int64) if array.dtype.kind in "ub" else array
            stored[present] = _as_stored(schema, torch.from_numpy(np.ascontiguousarray(array[present])))
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"modality '{name}': {error}") from None
    return stored


def _is_texts(values: Plain) -> bool:
    """Tell whether values are a list that begins with a text, but for rows that have none."""
    first = next((value for value in values if value is not None), None) if isinstance(values, list) else None
    return isinstance(first, str)


def _as_array(values: Plain) -> Array:
    """Return values as an array, with zeros where a list has None."""
    if not isinstance(values, list) or None not in map(_none_or_some, values):
        return np.asarray(values)
    held = [np.asarray(value) for value in values if value is not None]
    zero = np.zeros_like(held[0]) if held else np.zeros(())
    return np.stack([zero if value is None else np.asarray(value) for value in values])


def _none_or_some(value: Any) -> bool | None:
    return None if value is None else True


def _as_stored(schema: Schema, value: Tensor) -> Array:
    """Return the user's values as a schema stores them; a kind that stores floats stores them in the user's units."""
    target = np.dtype(schema.dtype)
    if target.kind != "f":
        return packed(schema, value)
    if value.numel():
        flat = value.numpy().reshape(len(value), -1)  # (rows, *event_shape) -> (rows, size)
        check_told_apart(flat, schema.part_names or [f"number {place + 1}" for place in range(flat.shape[1])])
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and `check_values` names its row
        return value.numpy().astype(target)


def packed(schema: Schema, value: Tensor) -> Array:
    """Return values as a schema stores them: floats through its `pack`, integers unchanged."""
    target = np.dtype(schema.dtype)
    if value.is_floating_point() or target.kind == "f":
        return np.asarray(schema.pack(value).numpy())
    if value.numel() and not np.iinfo(target).min <= int(value.min()) <= int(value.max()) <= np.iinfo(target).max:
        raise ValueError(f"integers from {int(value.min())} to {int(value.max())} do not fit {target}")
    return value.numpy().astype(target)


def assign_splits(total: int, split: Sequence[str] | Mapping[str, float] | None, seed: int) -> Array:
    """Return the split of each row as an index into `SPLITS`, uint8 `(rows,)`.

    Args:
        total: number of rows.
        split: names of splits, one for each row; or the fraction of rows in each split. None: 80, 10 and 10 %.
        seed: decides which rows are in which split, if fractions are given.

    Raises:
        InputError: a split has an unknown name, the names are not as many as the rows, or the fractions do not add up.
    """
    split = _FRACTIONS if split is None else split
    named = [str(name) for name in split]
    if unknown := sorted(set(named) - set(SPLITS)):
        raise InputError(f"split: unknown {', '.join(unknown)}; the splits are {', '.join(SPLITS)}")
    if not isinstance(split, Mapping):
        if len(named) != total:
            raise InputError(f"split: {len(named)} names given for {total} rows")
        return np.array([SPLITS.index(s) for s in named], np.uint8)
    shares = np.array([split.get(s, 0.0) for s in SPLITS])
    if (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"split: fractions must be positive and add up to 1, not {dict(split)}")
    bounds = np.round(np.cumsum(shares) * total)
    order = np.random.default_rng(seed).permutation(total)
    return np.searchsorted(bounds, order, side="right").clip(max=len(SPLITS) - 1).astype(np.uint8)
