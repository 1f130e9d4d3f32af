"""The short way to a dataset: from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalkit.data.manifest import SPLITS, Manifest, read_json
from modalkit.data.writing import Array, DatasetWriter, Rows, check_values, write_shard
from modalkit.errors import InputError
from modalkit.plugin import Schema
from modalkit.registry import modality
from modalkit.util.remote import refuse_url


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
) -> Manifest:
    """Write a dataset from arrays.

    Args:
        out: the folder to make.
        schemas: per modality, a schema as `modalkit.schema` makes it.
        values: per modality, an array or tensor `(rows, *event_shape)`. Integers are stored as they are,
            and so are floats where the kind stores floats; else they are packed by the schema (an image's lie in
            [0, 1]). A list of texts is read by the kind, as a person writes its values: class names, strings, paths
            of pictures. In a masked array a row that is masked whole is absent.
        present: per modality, bool `(rows,)`; a modality that is not named is present in every row.
        split: a name out of train, valid, test for each row, or fractions such as
            ``{"train": 0.8, "valid": 0.1, "test": 0.1}`` (the default), drawn with `seed`.
        keys: a stable name for each row; its number by default.
        shard_rows: rows a shard.
        seed: draws the splits.
        overwrite: replace a dataset that is there.

    Returns:
        The manifest.

    Raises:
        InputError: lengths, shapes or values that do not fit; the message names the modality and row.

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
    out, names = Path(out), list(schemas)
    if not names or set(values) != set(names):
        raise InputError(f"values are for {sorted(values)}, schemas for {sorted(names)}; they must be the same")
    if unknown := set(present or {}) - set(names):
        raise InputError(f"present names {sorted(unknown)}, which no schema describes")
    if shard_rows < 1:
        raise InputError(f"shard_rows: {shard_rows} is too few")
    total = len(next(iter(values.values())))
    keys = [str(key) for key in keys] if keys is not None else [str(i) for i in range(total)]
    there = {n: np.asarray(present[n], dtype=bool) if present and n in present else np.ones(total, bool) for n in names}
    for what, length in [("keys", len(keys))] + [(f"present of '{n}'", len(p)) for n, p in there.items()]:
        if length != total:
            raise InputError(f"{what}: {length} given for {total} rows")
    if len(set(keys)) < total:
        raise InputError(f"keys: '{next(k for i, k in enumerate(keys) if k in keys[:i])}' is given twice")
    for name in names:
        there[name] &= ~_masked(name, values[name])
    stored = {name: _stored(name, schema, values[name], there[name]) for name, schema in schemas.items()}
    fractions = {"train": 0.8, "valid": 0.1, "test": 0.1} if split is None else split
    whole = Rows(stored, there, assign_splits(total, fractions, seed), keys)
    check_values(schemas, whole)  # before anything is written
    if overwrite:
        _remove(out)  # and keep what else is there, such as a sheet of pictures
    shards = max(1, -(-total // shard_rows))
    writer = DatasetWriter(out, schemas, {"name": "write_dataset"}, shards, among_others=overwrite)
    if writer.complete:
        raise InputError(f"{out}: holds a dataset already; give overwrite=True, or choose another folder")
    for index in range(shards):
        write_shard(out, index, schemas, whole.part(slice(index * shard_rows, (index + 1) * shard_rows)))
    return writer.finish()


def _remove(out: Path) -> None:
    """Delete the dataset that `write_dataset` made in a folder, and no other file."""
    for note in (out / "manifest.json", out / "build.json"):
        if note.exists():
            about = read_json(note)
            builder = about.get("builder") if isinstance(about, dict) else None
            if not isinstance(builder, dict) or builder.get("name") != "write_dataset":
                raise InputError(f"{out}: holds something that write_dataset did not make; choose another folder")
            for path in [*sorted((out / "shards").glob("*.safetensors")), note]:
                path.unlink()


def _masked(name: str, values: Any) -> Array:
    """Tell which rows of a masked array are masked, bool `(rows,)`; none of anything else.

    Raises:
        InputError: a row is masked in part.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return np.zeros(len(values), bool)
    mask = np.ma.getmaskarray(values).reshape(len(values), -1)  # (rows, *event_shape) -> (rows, values of a sample)
    partly = mask.any(1) & ~mask.all(1)
    if partly.any():
        raise InputError(f"modality '{name}': row {int(partly.argmax())} is masked in part; mask all of it, or fill it")
    return np.asarray(mask.all(1))


def _stored(name: str, schema: Schema, values: Any, present: Array) -> Array:
    """Return one modality's values as its schema stores them, zeros where they are absent.

    Raises:
        InputError: a value that is present does not fit; names the modality.
    """
    total = len(present)
    stored = np.zeros((total, *schema.event_shape), schema.dtype)
    try:
        if total and isinstance(values[0], str):
            texts = [str(text) for text, here in zip(values, present, strict=True) if here]
            if texts:
                value = torch.stack([modality(schema.kind).read(schema, text) for text in texts])
                stored[present] = packed(schema, value)
        else:
            array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
            if array.shape != stored.shape:
                raise ValueError(f"got {array.shape}, expected {stored.shape}")
            array = array.astype(np.int64) if array.dtype.kind in "ub" else array
            stored[present] = _given(schema, torch.from_numpy(np.ascontiguousarray(array[present])))
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"modality '{name}': {error}") from None
    return stored


def _given(schema: Schema, value: Tensor) -> Array:
    """Return what a person gives as a schema stores it: floats that are stored as floats are in their unit already."""
    target = np.dtype(schema.dtype)
    return value.numpy().astype(target) if target.kind == "f" else packed(schema, value)


def packed(schema: Schema, value: Tensor) -> Array:
    """Return values as a schema stores them: floats by its `pack`, integers as they are."""
    target = np.dtype(schema.dtype)
    if value.is_floating_point() or target.kind == "f":
        return np.asarray(schema.pack(value).numpy())
    if value.numel() and not np.iinfo(target).min <= int(value.min()) <= int(value.max()) <= np.iinfo(target).max:
        raise ValueError(f"integers from {int(value.min())} to {int(value.max())} do not fit {target}")
    return value.numpy().astype(target)


def assign_splits(total: int, split: Sequence[str] | Mapping[str, float], seed: int) -> Array:
    """Return an index into `SPLITS` for each row."""
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
