"""Write a dataset: shards, which any process may write, and the manifest, which describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from modalkit.data.manifest import (
    FORMAT,
    SPLITS,
    Manifest,
    ModalityFacts,
    ShardFacts,
    difference,
    read_manifest,
    shard_path,
)
from modalkit.data.shards import open_shard
from modalkit.errors import InputError
from modalkit.plugin import Schema
from modalkit.util.files import is_empty, write_atomic, write_json, write_text
from modalkit.util.json_files import read_json

Array = npt.NDArray[Any]
"""A numpy array of any dtype."""


@dataclass
class Rows:
    """The content of one shard.

    Attributes:
        values: values of each modality, `(rows, *event_shape)` in the stored dtype. Absent entries are written as
            zeros, whatever they hold here.
        present: bool `(rows,)` of each modality.
        split: index into `SPLITS`, `(rows,)`.
        keys: stable name of each row, such as the file that it came from.
        set_aside: pairs of an input that could not be used and the reason.
        known: for modalities that may be known in part where they are absent: which of their numbers are known, bool
            `(rows, *event_shape)`. `values` holds these numbers. Training ignores them, and imputing keeps them.
    """

    values: dict[str, Array]
    present: dict[str, Array]
    split: Array
    keys: list[str]
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, Array] = field(default_factory=dict)

    def part(self, rows: slice) -> Rows:
        """Return some of the rows."""
        values, present, known = (
            {name: one[rows] for name, one in some.items()} for some in (self.values, self.present, self.known)
        )
        return Rows(values, present, self.split[rows], self.keys[rows], known=known)


def write_shard(out: Path, index: int, schemas: Mapping[str, Schema], rows: Rows) -> None:
    """Write one shard atomically; the same content gives the same bytes.

    Args:
        out: folder of the dataset.
        index: number of the shard, from 0.
        schemas: schema of each modality; values are checked against it.
        rows: content of the shard.

    Raises:
        InputError: a value does not fit its schema; the message names the modality and the row's key.
        RunError: the disk cannot be written.
    """
    tensors: dict[str, Array] = {}
    check_values(schemas, rows)
    for name in schemas:
        value, present = np.asarray(rows.values[name]), np.asarray(rows.present[name], dtype=bool)
        there = present.reshape(-1, *[1] * (value.ndim - 1))  # (rows,) -> (rows, 1, …)
        # Absent entries become zeros, so that their values do not change the bytes of the shard.
        tensors[f"value.{name}"] = np.where(there, value, value.dtype.type(0))
        if name in rows.known and (known := np.asarray(rows.known[name], dtype=bool) & ~there).any():
            tensors |= {f"known.{name}": known, f"part.{name}": value[known]}
    tensors["present"] = np.stack([np.asarray(rows.present[n], dtype=bool) for n in schemas], 1)
    tensors["split"] = np.asarray(rows.split, dtype=np.uint8)
    encoded = [k.encode() for k in rows.keys]
    tensors["key"] = np.zeros((len(encoded), max(map(len, encoded), default=1)), np.uint8)
    for i, key_bytes in enumerate(encoded):
        tensors["key"][i, : len(key_bytes)] = np.frombuffer(key_bytes, np.uint8)
    # safetensors writes the memory of an array as it is and ignores its strides.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    about = json.dumps({"modalities": list(schemas), "rows": len(rows.keys), "set_aside": rows.set_aside})
    # Use only one metadata key: the library writes several keys in no fixed order.
    write_atomic(shard_path(out, index), lambda path: save_file(tensors, path, metadata={"modalkit": about}))


def check_values(schemas: Mapping[str, Schema], rows: Rows) -> None:
    """Raise `InputError` for the first value that does not fit its schema; the message names modality and row key."""
    split, count = np.asarray(rows.split), len(rows.keys)
    if split.shape != (count,) or (count and not 0 <= split.min() <= split.max() < len(SPLITS)):
        raise InputError(f"split: expected {count} numbers from 0 to {len(SPLITS) - 1}, one per row")
    for name, schema in schemas.items():
        value, present = np.asarray(rows.values[name]), np.asarray(rows.present[name], dtype=bool)
        expected = (count, *schema.event_shape)
        if value.shape != expected or value.dtype != np.dtype(schema.dtype):
            raise InputError(
                f"modality '{name}': got {value.dtype}{value.shape}, its schema requires {schema.dtype}{expected}"
            )
        if present.shape != (count,):
            raise InputError(f"present of '{name}': got {present.shape}, expected one value for each of {count} rows")
        if name in rows.known and np.shape(rows.known[name]) != expected:
            raise InputError(f"known of '{name}': got {np.shape(rows.known[name])}, expected {expected}")
        valid = schema.valid(torch.from_numpy(np.ascontiguousarray(value))).numpy() | ~present
        if not valid.all():
            key = rows.keys[int(np.flatnonzero(~valid)[0])]
            raise InputError(
                f"modality '{name}', row {key}: kind '{schema.kind}' cannot hold this value (NaN or out of range); "
                f"correct it, or mark it absent"
            )


class DatasetWriter:
    """Tracks which shards of a dataset are written, and writes its manifest at the end.

    Any number of processes may write the shards meanwhile, with `write_shard`.

    Args:
        out: folder of the dataset; created if needed.
        schemas: schema of each modality, in the order of the manifest.
        builder: name and settings of the builder.
        shards: number of shards of the whole dataset.
        among_others: accept other files in `out`.

    Raises:
        InputError: `out` holds something else, or a dataset that was begun with other settings.
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
        """Return the indices of the shards that have not been written yet."""
        return [] if self.complete else [i for i in range(self.shards) if not shard_path(self.out, i).exists()]

    def finish(self) -> Manifest:
        """Count the rows, compute the checksums of the shards, write the manifest, and return it.

        Raises:
            InputError: there is not a single row, or a shard is damaged.
        """
        if self.complete:
            return read_manifest(self.out)
        facts, set_aside = [], []
        present, splits = np.zeros(len(self.schemas), np.int64), np.zeros(len(SPLITS), np.int64)
        partly = dict.fromkeys(self.schemas, 0)
        for index in range(self.shards):
            path = shard_path(self.out, index)
            shard, about = open_shard(path, {name: schema.facts() for name, schema in self.schemas.items()})
            present += shard["present"].numpy().sum(0)
            splits += np.bincount(shard["split"].numpy(), minlength=len(SPLITS))
            for name in self.schemas:
                if (known := shard.get(f"known.{name}")) is not None:
                    partly[name] += int(known.flatten(1).any(1).sum())
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
                n: ModalityFacts(facts=s.facts(), present=int(c), partly=partly[n])
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
