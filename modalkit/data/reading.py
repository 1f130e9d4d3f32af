"""Read a dataset: fetch rows by index as batches, which say which modalities are present."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from modalkit.data.fetching import fetch
from modalkit.data.manifest import REMEDY, SPLITS, Manifest, read_manifest
from modalkit.data.shards import open_shard
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema
from modalkit.util.remote import is_url, location
from modalkit.util.text import listed


@dataclass(frozen=True)
class Batch:
    """Some rows of a dataset.

    Attributes:
        values: values of each modality, `(batch, *event_shape)` in the stored dtype; zeros where absent.
        present: bool `(batch, modalities)`, with columns in the order of `values`. It is always on the CPU, so that
            planning a step never waits for a device.
        covariates: the same rows of the covariates, which models are conditioned on; None if there are none.
        as_if: the covariates that decoders see instead, to predict as if under other conditions; None: the same.
    """

    values: dict[str, Tensor]
    present: Tensor
    covariates: Batch | None = None
    as_if: Batch | None = None

    def __len__(self) -> int:
        return len(self.present)

    def part(self, rows: slice) -> Batch:
        """Return some of the rows."""
        return self._with({n: v[rows] for n, v in self.values.items()}, self.present[rows], lambda own: own.part(rows))

    def take(self, rows: Tensor) -> Batch:
        """Return the rows with these indices, int64 `(rows,)`, on the CPU."""
        values = {n: _rows(v, rows) for n, v in self.values.items()}
        return self._with(values, self.present[rows], lambda own: own.take(rows))

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its values on `device`."""
        moved: dict[str, Tensor] = {}
        if device.type != "cpu":  # one transfer for hundreds of modalities
            for names, table in _tables(self.values, dim=0).items():
                moved |= zip(names, table.to(device, non_blocking=True), strict=True)
        whole = {n: moved[n] if n in moved else v.to(device, non_blocking=True) for n, v in self.values.items()}
        return self._with(whole, self.present, lambda own: own.to(device))

    def pin_memory(self) -> Batch:
        """Return the batch with its values in page-locked memory, as a DataLoader calls it."""
        return self._with({n: v.pin_memory() for n, v in self.values.items()}, self.present, Batch.pin_memory)

    def _with(self, values: dict[str, Tensor], present: Tensor, change: Callable[[Batch], Batch]) -> Batch:
        """Return a batch of these values, whose covariates are changed in the same way."""
        covariates, as_if = (None if own is None else change(own) for own in (self.covariates, self.as_if))
        return Batch(values, present, covariates, as_if)


def _tables(values: Mapping[str, Tensor], dim: int) -> dict[tuple[str, ...], Tensor]:
    """Stack modalities that have one number per row along `dim`, one table for each dtype."""
    alike: dict[torch.dtype, list[str]] = {}
    for name, value in values.items():
        if value.ndim == 1:
            alike.setdefault(value.dtype, []).append(name)
    return {tuple(names): torch.stack([values[n] for n in names], dim) for names in alike.values()}


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of values, on the device of the values."""
    return values[rows.to(values.device, non_blocking=True)]


def _known(shards: Sequence[Mapping[str, Tensor]], name: str) -> tuple[Tensor, Tensor]:
    """Return which numbers are known although the modality is absent, and the numbers, both `(rows, *event_shape)`."""
    masks, values = [], []
    for shard in shards:
        zeros = torch.zeros_like(shard[f"value.{name}"])
        mask = shard.get(f"known.{name}", torch.zeros_like(zeros, dtype=torch.bool))
        masks.append(mask)
        values.append(zeros.masked_scatter(mask, shard[f"part.{name}"]) if f"part.{name}" in shard else zeros)
    return torch.cat(masks), torch.cat(values)


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return at most `most` of the rows, evenly spread.

    >>> evenly(torch.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


def several(present: Tensor) -> Tensor:
    """Return which rows have two modalities or more, bool `(rows,)`.

    Args:
        present: bool `(rows, modalities)`, on the CPU.

    >>> several(torch.tensor([[True, False, True], [False, True, False]])).tolist()
    [True, False]
    """
    # numpy adds up booleans a few at a time; torch first makes 8 bytes of each, which many rows have no memory for.
    return torch.from_numpy(present.numpy().sum(1) > 1)


def redrawn(schemas: Mapping[str, Schema]) -> list[str]:
    """Return the modalities whose stored values are replaced by a random sample at each step (`Schema.draw`)."""
    return [name for name, schema in schemas.items() if schema.drawn]


def draw(batch: Batch, schemas: Mapping[str, Schema], generator: torch.Generator) -> Batch:
    """Return a batch whose modalities in `redrawn` are sampled with `generator`; see `Schema.draw`."""
    drawn = {n: schemas[n].draw(batch.values[n], generator) for n in redrawn(schemas)}
    return replace(batch, values=batch.values | drawn)


def _open_shards(folder: Path, manifest: Manifest) -> list[dict[str, Tensor]]:
    """Return the tensors of all shards, memory-mapped.

    Raises:
        InputError: a shard is missing or damaged, or the manifest counts other rows than the shards hold.
    """
    facts, shards = {name: entry.facts for name, entry in manifest.modalities.items()}, []
    for shard in manifest.shards:
        file = folder / "shards" / shard.file
        if file.exists() and file.stat().st_size != shard.bytes:
            raise InputError(
                f"{file}: this shard is truncated ({file.stat().st_size} bytes of {shard.bytes}); {REMEDY}"
            )
        shards.append(open_shard(file, facts, shard.rows)[0])
    splits = torch.bincount(torch.cat([shard["split"] for shard in shards]), minlength=len(SPLITS)).tolist()
    present = torch.stack([shard["present"].sum(0) for shard in shards]).sum(0).tolist()
    said_of_splits = {str(name): rows for name, rows in manifest.splits.items()}
    counted = {f"splits.{name}": (said_of_splits.get(name, 0), n) for name, n in zip(SPLITS, splits, strict=True)}
    for (name, entry), count in zip(manifest.modalities.items(), present, strict=True):
        counted[f"modalities.{name}.present"] = entry.present, count
    for field, (said, found) in counted.items():
        if said != found:
            raise InputError(
                f"{folder / 'manifest.json'}: {field}: says {said}, but the shards hold {found}; one of the two is "
                f"damaged: {REMEDY.replace('this file and manifest.json', 'manifest.json and the shards')}"
            )
    return shards


class Dataset:
    """A dataset on disk, opened for reading. Index it with many rows at a time.

    Args:
        path: folder of the dataset, or a URL that fsspec supports, such as ``s3://bucket/faces``. The shards of a URL
            are downloaded once; see `modalkit.data.fetching.fetch`.
        names: modalities to read, in the order that batches will have; all by default.
        in_memory: whether to read everything now; by default, only up to 2 GiB. Otherwise shards are memory-mapped,
            and a batch reads only its rows.
        covariates: modalities that batches carry apart, as their `covariates`.

    Attributes:
        path: the argument `path`.
        covariates: the same rows with the covariates alone; None if there are none.
        folder: folder of the files; for a URL, the local copy.

    Raises:
        InputError: the dataset is missing, half-built or damaged; the message says what to do.
    """

    def __init__(
        self,
        path: Path | str,
        names: Sequence[str] | None = None,
        *,
        in_memory: bool | None = None,
        covariates: Sequence[str] = (),
    ) -> None:
        self.covariates = Dataset(path, covariates, in_memory=in_memory) if covariates else None
        self.path = location(path)
        self.folder = fetch(self.path) if is_url(self.path) else Path(self.path)
        self.manifest = read_manifest(self.folder)
        self.names = tuple(names) if names is not None else tuple(self.manifest.modalities)
        if unknown := [name for name in self.names if name not in self.manifest.modalities]:
            known = list(self.manifest.modalities)
            near = [f"no modality '{name}'{did_you_mean(name, known)}" for name in unknown[:9]]
            raise InputError(f"{self.path}: has {listed(near + unknown[9:], 9)}; it has {listed(known)}")
        shards = _open_shards(self.folder, self.manifest)
        columns = {name: column for column, name in enumerate(self.manifest.modalities)}
        self.present = torch.cat([s["present"] for s in shards])[:, [columns[n] for n in self.names]].clone()
        self.split = torch.cat([s["split"] for s in shards]).clone()
        self._keys = [s["key"] for s in shards]
        self._starts = torch.tensor([0] + [s.rows for s in self.manifest.shards]).cumsum(0)
        self._values = [{n: s[f"value.{n}"] for n in self.names} for s in shards]
        self._known = {n: _known(shards, n) for n in self.names if self.manifest.modalities[n].partly}
        self._tables: dict[tuple[str, ...], Tensor] = {}
        size = sum(v.numel() * v.element_size() for s in self._values for v in s.values())
        self.in_memory = size <= 2 << 30 if in_memory is None else in_memory
        if self.in_memory:
            whole = {n: torch.cat([s[n] for s in self._values]) for n in self.names}
            self._tables = _tables(whole, dim=1)  # (rows, modalities): one lookup fetches all bits of a row
            for names, table in self._tables.items():
                whole |= zip(names, table.unbind(1), strict=True)
            self._values = [whole]
            self._starts = torch.tensor([0, len(self)])

    def on(self, device: torch.device, names: Sequence[str]) -> Dataset:
        """Return this dataset with the values of some modalities on a CUDA device.

        Return the dataset unchanged if it is not in memory, or if it would fill over a quarter of the device's free
        memory.
        """
        if device.type != "cuda" or not self.in_memory:
            return self
        size = sum(self._values[0][n].nbytes for n in names)
        if size > torch.cuda.mem_get_info(device)[0] // 4:
            return self
        moved = copy(self)
        moved._tables = {t: v.to(device) if set(t) <= set(names) else v for t, v in self._tables.items()}
        moved._values = [{n: v.to(device) if n in names else v for n, v in self._values[0].items()}]
        return moved

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, rows: Tensor) -> Batch:
        """Fetch rows.

        Args:
            rows: int64 indices, `(batch,)`, in any order.
        """
        covariates = None if self.covariates is None else self.covariates[rows]
        return Batch(self._fetch(rows, self.names), self.present[rows], covariates)

    def values(self, name: str, rows: Tensor) -> Tensor:
        """Fetch rows of one modality, `(rows, *event_shape)` in its stored dtype; zeros where absent."""
        return self._fetch(rows, (name,))[name]

    def known(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Fetch the known numbers of absent entries, such as the filled columns of a group that is filled in part.

        Args:
            name: name of the modality.
            rows: int64 indices, `(rows,)`.

        Returns:
            Which numbers are known, bool `(rows, *event_shape)`, and the numbers in the stored dtype, with zeros
            elsewhere. Entries that are present count as unknown here; `values` returns them.
        """
        if name not in self._known:
            values = torch.zeros_like(self.values(name, rows))
            return torch.zeros_like(values, dtype=torch.bool), values
        known, values = self._known[name]
        return known[rows], values[rows]

    def _fetch(self, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        if len(self._values) == 1:
            found: dict[str, Tensor] = {}
            for together, table in self._tables.items() if len(names) > 1 else ():
                found |= zip(together, _rows(table, rows).unbind(1), strict=True)
            return {n: found[n] if n in found else _rows(self._values[0][n], rows) for n in names}
        shard = torch.bucketize(rows, self._starts[1:], right=True)
        local = rows - self._starts[shard]
        like = {n: self._values[0][n] for n in names}
        values = {n: v.new_empty((len(rows), *v.shape[1:])) for n, v in like.items()}
        for index in sorted(set(shard.tolist())):
            at = (shard == index).nonzero().squeeze(1)  # (rows of this shard,)
            for name in names:
                values[name][at] = self._values[index][name][local[at]]
        return values

    def with_valid_as_train(self) -> Dataset:
        """Return a view of this dataset whose validation rows are training rows; it shares the values."""
        view = copy(self)
        view.split = self.split.masked_fill(self.split == SPLITS.index("valid"), SPLITS.index("train"))
        return view

    def rows(self, split: str) -> Tensor:
        """Return the rows of a split as int64 indices, `(rows,)`, in order."""
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}'; the splits are {', '.join(SPLITS)}")
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def key(self, row: int) -> str:
        """Return the stable key of a row, such as the name of the file that it came from."""
        starts = torch.tensor([0] + [len(k) for k in self._keys]).cumsum(0)
        shard = int(torch.bucketize(torch.tensor(row), starts[1:], right=True))
        return bytes(self._keys[shard][row - int(starts[shard])].tolist()).rstrip(b"\0").decode()

    def require(self, schemas: Mapping[str, Schema]) -> None:
        """Check that a recipe's schemas describe this dataset, and that training rows have every modality.

        Args:
            schemas: the recipe's modalities, all among `names`.

        Raises:
            InputError: some modalities have other facts, or are absent from every training row; the message lists them.
        """
        self.manifest.check(schemas, self.path)
        train = self.present[self.rows("train")]
        if not len(train):
            raise InputError(f"{self.path}: no row is in the train split")
        there = dict(zip(self.names, train.any(0).tolist(), strict=True))
        if empty := [name for name in schemas if not there[name]]:
            raise InputError(
                f"{self.path}: absent from every training row: {listed(empty)}; remove them from the recipe "
                f"(`{empty[0]}: null` in a recipe that extends another)"
            )
