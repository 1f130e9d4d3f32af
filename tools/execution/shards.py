"""Writes a dataset's shards in one process, for builders whose rows are made quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalkit.plugin import Schema
from modalkit.util.files import locked, remove_leftovers, write_bytes
from modalkit.util.progress import bar

if TYPE_CHECKING:
    from modalkit.data import Rows
    from modalkit.data.manifest import Manifest

SHARD_ROWS = 10_000


def write(
    out: Path,
    about: Mapping[str, Any],
    schemas: Mapping[str, Schema],
    total: int,
    make: Callable[[slice], Rows],
    *,
    shard_rows: int = SHARD_ROWS,
    what: str = "pictures",
    beside: Mapping[str, bytes] | None = None,
) -> str:
    """Write the dataset `out` shard by shard, or resume writing it.

    Args:
        out: its folder.
        about: the builder and its settings, for the manifest.
        schemas: every modality's schema.
        total: number of rows.
        make: returns the rows of a slice; called once for each shard that is not written yet.
        shard_rows: number of rows in a shard.
        what: what the rows are called in the line that is returned.
        beside: the content of further files of the folder by name; existing files are kept.

    Returns:
        One line that says what was made.

    Raises:
        InputError: `out` holds something else.
        RunError: the disk is full.
    """
    from modalkit.data import DatasetWriter, write_shard

    parts = [slice(start, min(start + shard_rows, total)) for start in range(0, total, shard_rows)]
    with locked(out, "building"):
        for folder in (out, out / "shards"):
            remove_leftovers(folder)
        writer = DatasetWriter(out, schemas, about, len(parts))
        for name, content in (beside or {}).items():
            if not (out / name).exists():
                write_bytes(out / name, content)
        todo = writer.pending()
        left = sum(parts[index].stop - parts[index].start for index in todo)
        with bar(total, "rows", unit="row", initial=total - left) as progress:
            for index in todo:
                rows = make(parts[index])
                write_shard(out, index, schemas, rows)
                progress.update(len(rows.keys))
        return _summary(out, writer.finish(), what)


def _summary(out: Path, manifest: Manifest, what: str) -> str:
    splits = ", ".join(f"{name} {n}" for name, n in manifest.splits.items())
    aside = f"; {manifest.set_aside} set aside, see {out / 'set_aside.tsv'}" if manifest.set_aside else ""
    return f"{out}: {manifest.rows} {what} ({splits}){aside}"
