"""Writing a dataset: shards that anyone may write, the account of them, and the short way from arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import Tensor

from modalkit.data.manifest import (
    FORMAT,
    SPLITS,
    Manifest,
    ModalityFacts,
    ShardFacts,
    difference,
    open_shard,
    read_json,
    read_manifest,
    shard_path,
)
from modalkit.errors import InputError
from modalkit.files import is_empty, write_atomic, write_json, write_text
from modalkit.plugin import Schema
from modalkit.registry import modality

Array = npt.NDArray[Any]


@dataclass
class Rows:
    """The content of one shard.

    Attributes:
        values: per modality, `(rows, *event_shape)` in the stored dtype; whatever stands where it is absent is
            written as zeros.
        present: per modality, bool `(rows,)`.
        split: index into `SPLITS`, `(rows,)`.
        keys: a stable name for each row, such as the file that it came from.
        set_aside: pairs of a source that could not be used and the reason.
    """

    values: dict[str, Array]
    present: dict[str, Array]
    split: Array
    keys: list[str]
    set_aside: list[tuple[str, str]] = field(default_factory=list)

    def part(self, rows: slice) -> Rows:
        """Return some of the rows."""
        values = {name: value[rows] for name, value in self.values.items()}
        return Rows(
            values, {name: there[rows] for name, there in self.present.items()}, self.split[rows], self.keys[rows]
        )


def write_shard(out: Path, index: int, schemas: Mapping[str, Schema], rows: Rows) -> None:
    """Write one shard atomically; the same content gives the same bytes.

    Args:
        out: the dataset's folder.
        index: the shard's place in it.
        schemas: every modality's schema; values are checked against it.
        rows: the content.

    Raises:
        InputError: a value does not fit its schema; names the modality and the row's key.
        RunError: the disk cannot be written.
    """
    tensors: dict[str, Array] = {}
    _check_values(schemas, rows)
    for name in schemas:
        value, present = np.asarray(rows.values[name]), np.asarray(rows.present[name], dtype=bool)
        # Zeros where absent: what happened to stand there must not change the bytes.
        tensors[f"value.{name}"] = np.where(present.reshape(-1, *[1] * (value.ndim - 1)), value, value.dtype.type(0))
    tensors["present"] = np.stack([np.asarray(rows.present[n], dtype=bool) for n in schemas], 1)
    tensors["split"] = np.asarray(rows.split, dtype=np.uint8)
    encoded = [k.encode() for k in rows.keys]
    tensors["key"] = np.zeros((len(encoded), max(map(len, encoded), default=1)), np.uint8)
    for i, key_bytes in enumerate(encoded):
        tensors["key"][i, : len(key_bytes)] = np.frombuffer(key_bytes, np.uint8)
    about = json.dumps({"modalities": list(schemas), "rows": len(rows.keys), "set_aside": rows.set_aside})
    # One metadata key: the library writes several in no fixed order.
    write_atomic(shard_path(out, index), lambda path: save_file(tensors, path, metadata={"modalkit": about}))


def _check_values(schemas: Mapping[str, Schema], rows: Rows) -> None:
    """Raise `InputError` for the first value that its schema cannot hold, naming the modality and the row's key."""
    split, count = np.asarray(rows.split), len(rows.keys)
    if split.shape != (count,) or (count and not 0 <= split.min() <= split.max() < len(SPLITS)):
        raise InputError(f"split: expected {count} numbers from 0 to {len(SPLITS) - 1}, a row each")
    for name, schema in schemas.items():
        value, present = np.asarray(rows.values[name]), np.asarray(rows.present[name], dtype=bool)
        expected = (count, *schema.event_shape)
        if value.shape != expected or value.dtype != np.dtype(schema.dtype):
            raise InputError(
                f"modality '{name}': got {value.dtype}{value.shape}, its schema asks for {schema.dtype}{expected}"
            )
        if present.shape != (count,):
            raise InputError(f"present of '{name}': got {present.shape}, expected one for each of {count} rows")
        valid = schema.valid(torch.from_numpy(np.ascontiguousarray(value))).numpy() | ~present
        if not valid.all():
            key = rows.keys[int(np.flatnonzero(~valid)[0])]
            raise InputError(
                f"modality '{name}', row {key}: the value is not one that kind '{schema.kind}' can hold "
                f"(NaN or out of range); correct it, or mark it absent"
            )


class DatasetWriter:
    """Keeps the account of a dataset while its shards are being written, by whomever.

    Args:
        out: the dataset's folder; made if needed.
        schemas: every modality's schema, in the order of the manifest.
        builder: what made it and with which settings; a folder that was begun with others is refused.
        shards: how many shards there will be.
        among_others: accept files of something else in `out`.

    Raises:
        InputError: `out` holds something else.
    """

    def __init__(
        self,
        out: Path,
        schemas: Mapping[str, Schema],
        builder: Mapping[str, Any],
        shards: int,
        *,
        among_others: bool = False,
    ) -> None:
        self.out, self.schemas, self.shards = out, dict(schemas), shards
        self.builder: dict[str, Any] = json.loads(json.dumps(dict(builder)))
        begun = {
            "builder": self.builder,
            "shards": shards,
            "modalities": {n: s.facts() for n, s in schemas.items()},
        }
        begun = json.loads(json.dumps(begun))
        manifest, marker = out / "manifest.json", out / "build.json"
        self.complete = manifest.exists()
        if self.complete:
            old = read_manifest(out)
            before = {
                "builder": old.builder,
                "shards": len(old.shards),
                "modalities": {n: m.facts for n, m in old.modalities.items()},
            }
        elif marker.exists():
            before = read_json(marker)
        elif out.exists() and not (among_others or is_empty(out)):
            raise InputError(f"{out}: is not empty and not a dataset; choose another folder")
        else:
            write_json(marker, begun)
            return
        if before != begun:
            raise InputError(
                f"{out}: holds a dataset {'built' if self.complete else 'begun'} with other settings "
                f"({difference(before, begun)}); choose another folder or delete this one"
            )

    def pending(self) -> list[int]:
        """Return the indices of the shards that are not written yet."""
        return [] if self.complete else [i for i in range(self.shards) if not shard_path(self.out, i).exists()]

    def finish(self) -> Manifest:
        """Count and checksum the shards, write the manifest, and return it.

        Raises:
            InputError: not one row could be used, or a shard is damaged.
        """
        if self.complete:
            return read_manifest(self.out)
        facts, set_aside = [], []
        present, splits = np.zeros(len(self.schemas), np.int64), np.zeros(len(SPLITS), np.int64)
        for index in range(self.shards):
            path = shard_path(self.out, index)
            shard, about = open_shard(path, list(self.schemas))
            present += shard["present"].numpy().sum(0)
            splits += np.bincount(shard["split"].numpy(), minlength=len(SPLITS))
            set_aside += about["set_aside"]
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            facts.append(ShardFacts(file=path.name, rows=about["rows"], bytes=path.stat().st_size, sha256=digest))
        rows = sum(s.rows for s in facts)
        if set_aside:
            lines = "".join(f"{source}\t{' '.join(reason.split())}\n" for source, reason in set_aside)
            write_text(self.out / "set_aside.tsv", lines)
        if not rows:
            why = f"; the first: {set_aside[0][0]}: {set_aside[0][1]}" if set_aside else ""
            raise InputError(f"{self.out}: nothing could be read, {len(set_aside)} set aside{why}")
        manifest = Manifest(
            format=FORMAT,
            rows=rows,
            modalities={
                n: ModalityFacts(facts=s.facts(), present=int(c))
                for (n, s), c in zip(self.schemas.items(), present, strict=True)
            },
            splits={name: int(n) for name, n in zip(SPLITS, splits, strict=True)},
            set_aside=len(set_aside),
            builder=self.builder,
            shards=facts,
        )
        write_json(self.out / "manifest.json", manifest.model_dump(mode="json"))
        (self.out / "build.json").unlink(missing_ok=True)
        return manifest


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
        values: per modality, an array or tensor `(rows, *event_shape)`. Integers are stored as they are;
            floats are in the schema's own units and are packed by it (an image's lie in [0, 1]). A list of texts
            is read by the kind, as a person writes its values: class names, strings, paths of pictures.
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
    stored = {name: _stored(name, schema, values[name], there[name]) for name, schema in schemas.items()}
    fractions = {"train": 0.8, "valid": 0.1, "test": 0.1} if split is None else split
    whole = Rows(stored, there, _assign_splits(total, fractions, seed), keys)
    _check_values(schemas, whole)  # before anything is written
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


def _stored(name: str, schema: Schema, values: Any, present: Array) -> Array:
    """Return one modality's values as its schema stores them, zeros where they are absent.

    Raises:
        InputError: a value that is present does not fit; names the modality.
    """
    total = len(present)
    stored = np.zeros((total, *schema.event_shape), schema.dtype)
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"modality '{name}': a masked array; give its data, and say by `present` which rows are there")
    try:
        if total and isinstance(values[0], str):
            texts = [str(text) for text, here in zip(values, present, strict=True) if here]
            value = torch.stack([modality(schema.kind).read(schema, text) for text in texts]) if texts else None
        else:
            array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
            if array.shape != stored.shape:
                raise ValueError(f"got {array.shape}, expected {stored.shape}")
            array = array.astype(np.int64) if array.dtype.kind in "ub" else array
            value = torch.from_numpy(np.ascontiguousarray(array[present]))
        if value is not None:
            stored[present] = _packed(schema, value)
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"modality '{name}': {error}") from None
    return stored


def _packed(schema: Schema, value: Tensor) -> Array:
    """Return values as a schema stores them: floats by its `pack`, integers as they are."""
    target = np.dtype(schema.dtype)
    if value.is_floating_point() or target.kind == "f":
        return np.asarray(schema.pack(value).numpy())
    if value.numel() and not np.iinfo(target).min <= int(value.min()) <= int(value.max()) <= np.iinfo(target).max:
        raise ValueError(f"integers from {int(value.min())} to {int(value.max())} do not fit {target}")
    return value.numpy().astype(target)


def _assign_splits(total: int, split: Sequence[str] | Mapping[str, float], seed: int) -> Array:
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
