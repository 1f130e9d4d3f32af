"""Reading a dataset: rows by index, many at a time, as batches with presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modalkit.data.manifest import SPLITS, check_manifest, open_shard, read_manifest
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema


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

    def part(self, rows: slice) -> Batch:
        """Return some of the rows."""
        return Batch({n: v[rows] for n, v in self.values.items()}, self.present[rows])

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its values on `device`."""
        return Batch({n: v.to(device, non_blocking=True) for n, v in self.values.items()}, self.present)

    def pin_memory(self) -> Batch:
        """Return the batch with its values in page-locked memory (what a DataLoader calls)."""
        return Batch({n: v.pin_memory() for n, v in self.values.items()}, self.present)


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return at most `most` of some rows, evenly spread over all of them.

    >>> evenly(torch.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


def draws(schemas: Mapping[str, Schema]) -> list[str]:
    """Return the modalities whose samples are drawn anew each time (`Schema.draw`)."""
    return [name for name, schema in schemas.items() if schema.drawn]


def draw(batch: Batch, schemas: Mapping[str, Schema], generator: torch.Generator) -> Batch:
    """Return a batch as one step sees it; see `Schema.draw`."""
    drawn = {n: schemas[n].draw(batch.values[n], generator) for n in draws(schemas)}
    return Batch(batch.values | drawn, batch.present)


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
        if unknown := [name for name in self.names if name not in self.manifest.modalities]:
            known = list(self.manifest.modalities)
            near = "; ".join(f"no modality '{name}'{did_you_mean(name, known)}" for name in unknown)
            raise InputError(f"{self.path}: has {near}; it has {', '.join(known)}")
        shards = []
        for facts in self.manifest.shards:
            file = self.path / "shards" / facts.file
            if file.exists() and file.stat().st_size != facts.bytes:
                raise InputError(
                    f"{file}: this shard is truncated ({file.stat().st_size} bytes of {facts.bytes}); delete it and "
                    f"manifest.json, and run the command that builds the dataset again"
                )
            shards.append(open_shard(file, list(self.manifest.modalities), facts.rows)[0])
        columns = [list(self.manifest.modalities).index(n) for n in self.names]
        self.present = torch.cat([s["present"] for s in shards])[:, columns].clone()
        self.split = torch.cat([s["split"] for s in shards]).clone()
        self._keys = [s["key"] for s in shards]
        self._starts = torch.tensor([0] + [s.rows for s in self.manifest.shards]).cumsum(0)
        self._values = [{n: s[f"value.{n}"] for n in self.names} for s in shards]
        size = sum(v.numel() * v.element_size() for s in self._values for v in s.values())
        self.in_memory = size <= 2 << 30 if in_memory is None else in_memory
        if self.in_memory:
            self._values = [{n: torch.cat([s[n] for s in self._values]) for n in self.names}]
            self._starts = torch.tensor([0, len(self)])

    def on(self, device: torch.device, names: Sequence[str]) -> Dataset:
        """Return this dataset with the values of some modalities on a CUDA device.

        Where it was not read into memory, or would fill over a quarter of what is free there, that is itself.
        """
        if device.type != "cuda" or not self.in_memory:
            return self
        size = sum(self._values[0][n].nbytes for n in names)
        if size > torch.cuda.mem_get_info(device)[0] // 4:
            return self
        moved = copy(self)
        moved._values = [{n: v.to(device) if n in names else v for n, v in self._values[0].items()}]
        return moved

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, rows: Tensor) -> Batch:
        """Fetch rows.

        Args:
            rows: int64 indices, `(batch,)`, in any order.
        """
        if len(self._values) == 1:
            whole = self._values[0]
            return Batch({n: v[rows.to(v.device, non_blocking=True)] for n, v in whole.items()}, self.present[rows])
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
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}'; the splits are {', '.join(SPLITS)}")
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def key(self, row: int) -> str:
        """Return a row's stable key, such as the name of the file that it came from."""
        starts = torch.tensor([0] + [len(k) for k in self._keys]).cumsum(0)
        shard = int(torch.bucketize(torch.tensor(row), starts[1:], right=True))
        return bytes(self._keys[shard][row - int(starts[shard])].tolist()).rstrip(b"\0").decode()

    def require(self, schemas: Mapping[str, Schema]) -> None:
        """Check that a recipe's schemas describe this dataset, and that there is something to learn for each.

        Args:
            schemas: the recipe's modalities, all among `names`.

        Raises:
            InputError: lists every modality whose facts differ, or that is absent from every training row.
        """
        check_manifest(self.path, schemas)
        train = self.present[self.rows("train")]
        if not len(train):
            raise InputError(f"{self.path}: no row is in the train split")
        if empty := [name for name in schemas if not train[:, self.names.index(name)].any()]:
            raise InputError(
                f"{self.path}: absent from every training row: {', '.join(empty)}; leave them out of the recipe "
                f"(in one that extends it: `{empty[0]}: null`)"
            )
