"""Datasets of N modalities on disk: safetensors shards with a manifest, and batches with presence.

A dataset is a folder::

    manifest.json             schemas, splits, counts, checksums, and how it was built
    shards/00000.safetensors  every modality's rows, which are present, their split and their key
    set_aside.tsv             what the builder could not use, and why (where there is any)
    build.json                only while it is being built: the settings, so that work can go on

A shard is written whole or not at all, so it is the unit of resume and of distribution: whoever writes
it, the bytes are the same.
"""

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
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from modalkit.errors import InputError, did_you_mean
from modalkit.files import write_atomic, write_json, write_text
from modalkit.plugin import Schema, Settings

FORMAT = 1
SPLITS = ("train", "valid", "test")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Some rows of a dataset.

    Attributes:
        values: per modality, `(batch, *event_shape)` in its stored dtype; zeros where absent.
        present: bool `(batch, modalities)`, columns in the order of `values`; always on the CPU, so that
            planning a step never waits for a device.
    """

    values: dict[str, Tensor]
    present: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its values on `device`."""
        return Batch({n: v.to(device, non_blocking=True) for n, v in self.values.items()}, self.present)

    def pin_memory(self) -> Batch:
        """Return the batch with its values in page-locked memory (what a DataLoader calls)."""
        return Batch({n: v.pin_memory() for n, v in self.values.items()}, self.present)


class ModalityFacts(Settings):
    """What a manifest says of one modality: what `Schema.facts` gives, and in how many rows it is present."""

    facts: dict[str, Any]
    present: int


class ShardFacts(Settings):
    """What a manifest says of one shard."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Manifest(Settings):
    """The content of manifest.json."""

    format: int
    rows: int
    modalities: dict[str, ModalityFacts]
    splits: dict[str, int]
    set_aside: int
    builder: dict[str, Any]
    shards: list[ShardFacts]


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


def shard_path(out: Path, index: int) -> Path:
    """Return where shard `index` of the dataset `out` lies."""
    return out / "shards" / f"{index:05d}.safetensors"


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
    for name, schema in schemas.items():
        value, present = np.asarray(rows.values[name]), np.asarray(rows.present[name], dtype=bool)
        expected = (len(rows.keys), *schema.event_shape)
        if value.shape != expected or value.dtype != np.dtype(schema.dtype):
            raise InputError(
                f"modality '{name}': got {value.dtype}{value.shape}, its schema asks for {schema.dtype}{expected}"
            )
        valid = schema.valid(torch.from_numpy(np.ascontiguousarray(value))).numpy() | ~present
        if not valid.all():
            key = rows.keys[int(np.flatnonzero(~valid)[0])]
            raise InputError(
                f"modality '{name}', row {key}: the value is not one that kind '{schema.kind}' can hold "
                f"(NaN or out of range); correct it, or mark it absent"
            )
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


class DatasetWriter:
    """Keeps the account of a dataset while its shards are being written, by whomever.

    Args:
        out: the dataset's folder; made if needed.
        schemas: every modality's schema, in the order of the manifest.
        builder: what made it and with which settings; a folder that was begun with others is refused.
        shards: how many shards there will be.

    Raises:
        InputError: `out` holds something else.
    """

    def __init__(self, out: Path, schemas: Mapping[str, Schema], builder: Mapping[str, Any], shards: int) -> None:
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
            before = _read_json(marker)
        elif out.exists() and any(p.name != ".lock" for p in out.iterdir()):
            raise InputError(f"{out}: is not empty and not a dataset; choose another folder")
        else:
            write_json(marker, begun)
            return
        if before != begun:
            raise InputError(
                f"{out}: holds a dataset {'built' if self.complete else 'begun'} with other settings "
                f"({_difference(before, begun)}); choose another folder or delete this one"
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
            shard, about = _open_shard(path)
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


def _difference(before: Any, now: Any, at: str = "") -> str:
    """Name the first place in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{at}.{key}" if at else key)
    return f"{at}: {json.dumps(before)} there, {json.dumps(now)} now"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def read_manifest(path: Path) -> Manifest:
    """Read a dataset's manifest.

    Raises:
        InputError: no dataset there, one half-built, or a manifest that cannot be read.
    """
    file = path / "manifest.json"
    if not file.exists():
        if (path / "build.json").exists():
            begun = _read_json(path / "build.json")
            done = len(list((path / "shards").glob("*.safetensors"))) if (path / "shards").exists() else 0
            raise InputError(
                f"{path}: this dataset is half-built ({done} of {begun.get('shards', '?')} shards); run the "
                f"command that builds it again and it goes on where it stopped"
            )
        what = "is not a modalkit dataset (no manifest.json)" if path.exists() else "there is no such dataset"
        raise InputError(f"{path}: {what}; build one with `modalkit build-dataset` or modalkit.write_dataset")
    raw = _read_json(file)
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {raw.get('format')!r} is not one this version reads ({FORMAT}); build it again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; build the dataset again"
        ) from None


def _open_shard(path: Path, rows: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's tensors, memory-mapped, and what it says of itself."""
    remedy = "delete this file and run the command that builds the dataset again"
    try:
        with safe_open(path, framework="pt") as shard:
            about = json.loads((shard.metadata() or {})["modalkit"])
            tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118 (it is no dict)
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; run the command that builds the dataset again") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: this shard is truncated or damaged ({error}); {remedy}") from None
    if rows is not None and about["rows"] != rows:
        raise InputError(f"{path}: this shard holds {about['rows']} rows, the manifest says {rows}; {remedy}")
    return tensors, about


class Dataset:
    """A dataset on disk, opened for reading; rows are fetched by index, many at a time.

    Args:
        path: the dataset's folder.
        names: the modalities to read, in the order that batches will have; all by default.
        in_memory: read everything now; by default if it is no more than 2 GiB. Otherwise shards are
            memory-mapped, and a batch reads just its rows.

    Raises:
        InputError: missing, half-built or damaged; the message says what to do.
    """

    def __init__(self, path: Path | str, names: Sequence[str] | None = None, *, in_memory: bool | None = None) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.names = tuple(names) if names is not None else tuple(self.manifest.modalities)
        for name in self.names:
            if name not in self.manifest.modalities:
                known = list(self.manifest.modalities)
                raise InputError(
                    f"{self.path}: has no modality '{name}'{did_you_mean(name, known)}; it has {', '.join(known)}"
                )
        shards = []
        for facts in self.manifest.shards:
            file = self.path / "shards" / facts.file
            if file.exists() and file.stat().st_size != facts.bytes:
                raise InputError(
                    f"{file}: this shard is truncated ({file.stat().st_size} bytes of {facts.bytes}); delete it and "
                    f"manifest.json, and run the command that builds the dataset again"
                )
            shards.append(_open_shard(file, facts.rows)[0])
        columns = [list(self.manifest.modalities).index(n) for n in self.names]
        self.present = torch.cat([s["present"] for s in shards])[:, columns].clone()
        self.split = torch.cat([s["split"] for s in shards]).clone()
        self._keys = [s["key"] for s in shards]
        self._starts = torch.tensor([0] + [s.rows for s in self.manifest.shards]).cumsum(0)
        self._values = [{n: s[f"value.{n}"] for n in self.names} for s in shards]
        size = sum(v.numel() * v.element_size() for s in self._values for v in s.values())
        if in_memory if in_memory is not None else size <= 2 << 30:
            self._values = [{n: torch.cat([s[n] for s in self._values]) for n in self.names}]
            self._starts = torch.tensor([0, len(self)])

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, rows: Tensor) -> Batch:
        """Fetch rows.

        Args:
            rows: int64 indices, `(batch,)`, in any order.
        """
        if len(self._values) == 1:
            return Batch({n: self._values[0][n][rows] for n in self.names}, self.present[rows])
        shard = torch.bucketize(rows, self._starts[1:], right=True)
        local = rows - self._starts[shard]
        values = {n: v.new_empty((len(rows), *v.shape[1:])) for n, v in self._values[0].items()}
        for index in sorted(set(shard.tolist())):
            at = (shard == index).nonzero().squeeze(1)  # (rows of this shard,)
            for name in self.names:
                values[name][at] = self._values[index][name][local[at]]
        return Batch(values, self.present[rows])

    def rows(self, split: str) -> Tensor:
        """Return the int64 indices of a split's rows, `(rows,)`, in order."""
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def key(self, row: int) -> str:
        """Return a row's stable key, such as the name of the file that it came from."""
        starts = torch.tensor([0] + [len(k) for k in self._keys]).cumsum(0)
        shard = int(torch.bucketize(torch.tensor(row), starts[1:], right=True))
        return bytes(self._keys[shard][row - int(starts[shard])].tolist()).rstrip(b"\0").decode()

    def require(self, schemas: Mapping[str, Schema]) -> None:
        """Check that a recipe's schemas describe this dataset.

        Args:
            schemas: the recipe's modalities, all among `names`.

        Raises:
            InputError: lists every modality whose facts differ, or that is absent from every training row.
        """
        wrong, train = [], self.present[self.rows("train")]
        if not len(train):
            wrong.append("no row is in the train split")
        for name, schema in schemas.items():
            there, here = self.manifest.modalities[name].facts, schema.facts()
            # The kind itself may differ: another kind may model the same stored samples.
            for key in sorted((there.keys() & here.keys()) - {"kind"}):
                if there[key] != here[key]:
                    wrong.append(f"{name}: {key} is {there[key]} in the dataset, {here[key]} in the recipe")
            if len(train) and not train[:, self.names.index(name)].any():
                wrong.append(f"{name}: absent from every training row; leave it out of the recipe")
        if wrong:
            raise InputError(f"{self.path}: does not fit the recipe:\n  " + "\n  ".join(wrong))


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
) -> Manifest:
    """Write a dataset from arrays.

    Args:
        out: the folder to make.
        schemas: per modality, a schema as `modalkit.schema` makes it.
        values: per modality, an array or tensor `(rows, *event_shape)`. Integers are stored as they are;
            floats are in the schema's own units and are packed by it (an image's lie in [0, 1]).
        present: per modality, bool `(rows,)`; a modality that is not named is present in every row.
        split: a name out of train, valid, test for each row, or fractions such as
            ``{"train": 0.8, "valid": 0.1, "test": 0.1}`` (the default), drawn with `seed`.
        keys: a stable name for each row; its number by default.
        shard_rows: rows a shard.
        seed: draws the splits.

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
    if set(values) != set(names):
        raise InputError(f"values are for {sorted(values)}, schemas for {sorted(names)}; they must be the same")
    total = len(next(iter(values.values()))) if names else 0
    stored: dict[str, Array] = {}
    for name, schema in schemas.items():
        value = torch.as_tensor(values[name])
        if value.shape != (total, *schema.event_shape):
            raise InputError(f"modality '{name}': got {tuple(value.shape)}, expected {(total, *schema.event_shape)}")
        try:
            stored[name] = _stored(schema, value)
        except ValueError as error:
            raise InputError(f"modality '{name}': {error}") from None
    there = {n: np.asarray(present[n], dtype=bool) if present and n in present else np.ones(total, bool) for n in names}
    if unknown := set(present or {}) - set(names):
        raise InputError(f"present names {sorted(unknown)}, which no schema describes")
    keys = list(keys) if keys is not None else [str(i) for i in range(total)]
    for what, length in [("keys", len(keys))] + [(f"present of '{n}'", len(p)) for n, p in there.items()]:
        if length != total:
            raise InputError(f"{what}: {length} given for {total} rows")
    which = _assign_splits(total, split or {"train": 0.8, "valid": 0.1, "test": 0.1}, seed)
    shards = max(1, -(-total // shard_rows))
    writer = DatasetWriter(out, schemas, {"name": "write_dataset"}, shards)
    if writer.complete:
        raise InputError(f"{out}: holds a dataset already; choose another folder or delete it")
    for index in range(shards):
        part = slice(index * shard_rows, (index + 1) * shard_rows)
        rows = Rows({n: stored[n][part] for n in names}, {n: there[n][part] for n in names}, which[part], keys[part])
        write_shard(out, index, schemas, rows)
    return writer.finish()


def _stored(schema: Schema, value: Tensor) -> Array:
    """Return values as a schema stores them."""
    target = np.dtype(schema.dtype)
    if value.dtype == torch.bool:
        value = value.to(torch.uint8)
    if value.is_floating_point() or target.kind == "f":
        return np.asarray(schema.pack(value).numpy())
    if value.numel() and not np.iinfo(target).min <= int(value.min()) <= int(value.max()) <= np.iinfo(target).max:
        raise ValueError(f"integers from {int(value.min())} to {int(value.max())} do not fit {target}")
    return value.numpy().astype(target)


def _assign_splits(total: int, split: Sequence[str] | Mapping[str, float], seed: int) -> Array:
    """Return an index into `SPLITS` for each row."""
    named = list(split)
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
