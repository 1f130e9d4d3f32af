"""Rows that are read some at a time, written as a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from modalkit.data import Array, DatasetWriter, Rows, write_shard
from modalkit.plugin import Schema
from modalkit.util.progress import bar

_VALUES, _MOST_ROWS = 10_000_000, 250_000
"""Most values and rows of a shard."""


class RowReader(Protocol):
    """Reads a modality, some rows at a time; `schema` is the modality's."""

    @property
    def schema(self) -> Schema:
        """Of the modality."""

    def __call__(self, rows: slice) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
        """Return stored values, which rows are present, and which numbers are known of the others; see `Rows`."""


def write_rows(out: Path, readers: Mapping[str, RowReader], places: Array, keys: Sequence[str], builder: str) -> None:
    """Write what readers read as a dataset, some rows at a time.

    Args:
        out: the folder to make.
        readers: by modality.
        places: an index of a split for each row, `(rows,)`.
        keys: the rows' names.
        builder: what the manifest names as the origin.
    """
    made = {name: reader.schema for name, reader in readers.items()}
    size = sum(prod(schema.event_shape) for schema in made.values())
    step = max(1, min(_MOST_ROWS, _VALUES // max(1, size)))
    parts = [slice(start, min(start + step, len(keys))) for start in range(0, len(keys), step)]
    writer = DatasetWriter(out, made, {"name": builder}, len(parts))
    with bar(len(keys), "reading the data", unit="row", leave=False, disable=len(parts) == 1) as shown:
        for index, part in enumerate(parts):
            read = {name: reader(part) for name, reader in readers.items()}
            values = {name: stored for name, (stored, _, _) in read.items()}
            present = {name: there for name, (_, there, _) in read.items()}
            known = {name: partly for name, (_, _, partly) in read.items() if partly is not None}
            write_shard(out, index, made, Rows(values, present, places[part], list(keys[part]), known=known))
            shown.update(part.stop - part.start)
    writer.finish()
