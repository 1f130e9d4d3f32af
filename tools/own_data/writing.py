"""Writes the columns of a table as CSV or Parquet, in the form of the file that the table was read from."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalkit.util.files import write_atomic

from .cells import Table, TableColumn

Columns = Mapping[str, TableColumn]
Texts = Mapping[str, Mapping[int, str]]
"""Texts by column and row."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,15})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A text such as 007, or with more digits than a number holds, is a name and matches neither."""


@dataclass(frozen=True)
class Form:
    """The form of a text file: its separator, line ends and encoding; ``utf-8-sig`` begins with the mark for Excel."""

    separator: str
    ending: str = "\n"
    encoding: str = "utf-8"

    @classmethod
    def of(cls, source: Path, table: Table, out: Path) -> Form:
        """Return the form of the file that a table was read from; the separator only if `out` has the same suffix."""
        usual = {".csv": ",", ".tsv": "\t"}.get(out.suffix.lower(), "")
        if not table.separator:
            return cls(usual)
        with source.open("rb") as file:
            head = file.readline()
        return cls(
            table.separator if source.suffix == out.suffix.lower() else usual,
            "\r\n" if head.endswith(b"\r\n") else "\n",
            "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8",
        )


def write_columns(
    path: Path, columns: Columns, texts: Texts, kept: Collection[str], table: Table, source: Path
) -> None:
    """Write columns to a file with new texts in some cells.

    Args:
        path: its name ends in .csv, .tsv or .parquet.
        columns: in their order.
        texts: the new texts.
        kept: names of the columns whose other cells are written as they are; those of other columns stay empty.
        table: the table that the columns are from.
        source: its file, whose separator, line ends and types are kept; of a joined table the first file.
    """
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, columns, texts, kept, None if table.ids else source)
    else:
        _write_csv(path, columns, texts, kept, Form.of(source, table, path))


def _write_csv(path: Path, columns: Columns, texts: Texts, kept: Collection[str], form: Form) -> None:
    """Write columns as CSV; see `write_columns`."""
    cells = []
    for name, column in columns.items():
        new = texts.get(name, {})
        old = column.written if name in kept else [""] * len(column.written)
        cells.append([new.get(row, text) for row, text in enumerate(old)])

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding=form.encoding) as file:
            lines = csv.writer(file, delimiter=form.separator, lineterminator=form.ending)
            lines.writerow(columns)
            lines.writerows(zip(*cells, strict=True))

    write_atomic(path, write)


def _write_parquet(path: Path, columns: Columns, texts: Texts, kept: Collection[str], source: Path | None) -> None:
    """Write columns as Parquet, with the types of the source, or else the types that their texts look like."""
    import pyarrow as arrow
    import pyarrow.compute as compute
    from pyarrow import parquet

    typed = (
        parquet.read_table(source) if source is not None and source.suffix in (".parquet", ".pq") else arrow.table({})
    )
    arrays = {}
    for name, column in columns.items():
        new = texts.get(name, {})
        if name not in kept:  # new texts are uncertainties
            arrays[name] = arrow.array([float(new[row]) if row in new else None for row in range(len(column.texts))])
            arrays[name] = arrays[name].cast(arrow.float64())
        elif name in typed.column_names:
            old = typed[name].combine_chunks()
            kind = old.type.value_type if arrow.types.is_dictionary(old.type) else old.type
            filled = arrow.array([new.get(row) for row in range(len(old))], arrow.string()).cast(kind)
            arrays[name] = compute.coalesce(filled, old.cast(kind)).cast(old.type) if new else old
        else:
            cells = [new.get(row, text) for row, text in enumerate(column.texts)]
            plain = column.form.plain if column.form else str
            arrays[name] = _as_it_looks([(text and plain(text)) or None for text in cells])
    table = arrow.table(arrays).replace_schema_metadata(typed.schema.metadata if len(kept) == len(columns) else None)
    write_atomic(path, lambda temporary: parquet.write_table(table, temporary))


def _as_it_looks(texts: Sequence[str | None]) -> Any:
    """Return texts as integers or floats if all are written as such, else as texts."""
    import pyarrow as arrow

    held = {text for text in texts if text is not None}
    for pattern, convert, kind in ((_INTEGER, int, arrow.int64()), (_NUMBER, float, arrow.float64())):
        if held and all(map(pattern.fullmatch, held)):
            numbers = {text: convert(text) for text in held}
            return arrow.array([None if text is None else numbers[text] for text in texts], kind)
    return arrow.array(texts, arrow.string())
