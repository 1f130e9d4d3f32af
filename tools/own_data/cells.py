"""Reads a table, CSV or Parquet, as named columns of texts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from modalkit.errors import InputError
from modalkit.plugin import Column

from .forms import Decimal, NumberForm, forms

Words = Literal["usual", "own"]
MISSING = frozenset({"na", "n/a", "#n/a", "<na>", "nan", "null", "none"})
"""A cell of a text file with one of these words, in any case, is empty, unless the user says otherwise."""
_SEPARATORS = ",;\t"
_TYPED = (".parquet", ".pq")


@dataclass(frozen=True)
class TableColumn(Column):
    """One column of a table, and how its file has it.

    Attributes:
        unreadable: its type, if that is a type that cannot be used.
        written: every cell as the file has it, also cells that mean an empty one.
        form: how its numbers are written, if not as programs write them.
    """

    unreadable: str = ""
    written: Sequence[str] = ()
    form: NumberForm | None = None

    @cached_property
    def plain(self) -> TableColumn:
        """The column with its numbers as programs write them, such as 1234.5 for ``1.234,50 €``."""
        if self.form is None:
            return self
        return replace(self, texts=[text and self.form.plain(text) for text in self.texts], form=None)

    def keeping(self, names: Collection[str]) -> TableColumn:
        """Return the column with the cells that have one of these names, even if the name means an empty cell."""
        stripped = (cell.strip() for cell in self.written)
        return replace(self, texts=[t or (s if s in names else "") for t, s in zip(self.texts, stripped, strict=True)])

    @cached_property
    def taken(self) -> str:
        """Which words, and how often, are taken as empty cells, such as ``48 cells 'none'``; "" if there are none."""
        words = Counter(
            cell for text, cell in zip(self.texts, map(str.strip, self.written), strict=True) if cell and not text
        )
        return ", ".join(f"{count:,} cell{'s' * (count > 1)} '{word}'" for word, count in words.most_common(3))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        path: its file.
        rows: how many rows it has.
        columns: by name.
        lines: the line of a text file on which each row begins.
        separator: what separates the cells of a text file.
        ids: the rows' ids, if several files were joined by them.
    """

    path: Path
    rows: int
    columns: dict[str, TableColumn]
    lines: Sequence[int] = ()
    separator: str = ""
    ids: Sequence[str] = ()

    def column(self, name: str) -> TableColumn:
        """Return a column; one of empty cells if the table does not have it."""
        nothing = [""] * self.rows
        return self.columns.get(name) or TableColumn(name, nothing, "", nothing)

    def keeping(self, names: Mapping[str, Collection[str]]) -> Table:
        """Return the table in which some columns keep the cells that have one of their names."""
        return replace(self, columns={n: c.keeping(names[n]) if n in names else c for n, c in self.columns.items()})

    def at(self, row: int) -> str:
        """Name a row as the user finds it: by its id, by its line in an editor, or in Parquet by its number from 1."""
        if self.ids:
            return f"row '{self.ids[row]}'"
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"


def read_table(path: Path, missing: Iterable[str] = (), decimal: Decimal = "auto", words: Words = "usual") -> Table:
    """Read a CSV file (separated by commas, semicolons or tabs; a header first) or a Parquet file.

    Args:
        path: its name ends in .csv, .tsv, .txt, .parquet or .pq.
        missing: further words that mean an empty cell, such as ``-999``.
        decimal: the decimal mark, where the cells of a column do not show it.
        words: whether a text file's `MISSING` mean empty cells too. In Parquet, only null, NaN and "" do.

    Raises:
        InputError: it cannot be read, a name in its header is missing or not unique, or a row has a wrong number of
            cells.
    """
    empty = {"", *(word.strip().casefold() for word in missing)}
    if words == "usual" and path.suffix.lower() not in _TYPED:
        empty |= MISSING
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: a table is a .csv, .tsv or .parquet file; save it as one of these")
    try:
        names, cells, unreadable, lines, separator = readers[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"{path}: two columns are called '{name}'; rename one of them")
        if not name and place:  # the first without a name is what pandas writes as the index
            raise InputError(f"{path}: column {place + 1} has no name in the header; give it one")
    rows = len(cells[0]) if cells else 0
    if not rows:
        raise InputError(f"{path}: has no rows below its header")
    texts = {name: _cleaned(column, empty) for name, column in zip(names, cells, strict=True)}
    written = forms({name: column for name, column in texts.items() if name not in unreadable}, separator, decimal)
    columns = {
        name: TableColumn(name, texts[name], unreadable.get(name, ""), column, written.get(name))
        for name, column in zip(names, cells, strict=True)
    }
    return Table(path, rows, columns, lines, separator)


Read = tuple[list[str], list[Sequence[str]], dict[str, str], list[int], str]
"""Names, cells by column, types of columns that cannot be used, the rows' lines, and the separator of cells."""


def _read_csv(path: Path) -> Read:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = max(_SEPARATORS, key=file.readline().count)
            file.seek(0)
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(lines, [])]
            if not any(names):
                raise InputError(f"{path}: is empty; a table has a header line with the columns' names, then rows")
            rows, begins = [], []
            begin = lines.line_num + 1
            for row in lines:
                if row:
                    rows.append(row)
                    begins.append(begin)
                begin = lines.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}:{lines.line_num}: is not valid CSV: {error}") from None
    _check_cells(path, names, [len(row) for row in rows], begins)
    return names, [list(column) for column in zip(*rows, strict=True)], {}, begins, separator


def _check_cells(path: Path, names: Sequence[str], cells: Sequence[int], begins: Sequence[int]) -> None:
    """Raise `InputError` unless every row has as many cells as the header; say whether header or row looks wrong."""
    wrong = [row for row, count in enumerate(cells) if count != len(names)]
    if not wrong:
        return
    first, header = cells[wrong[0]], f"'{','.join(names)[:40]}'"
    if len(wrong) == len(cells) > 1 and len(set(cells)) == 1:
        raise InputError(
            f"{path}:1: {header} was taken as the header, which names the columns, but has {_cells(len(names))}, and "
            f"every line below it {first}; delete it if it is a comment or a title, or give each column a name"
        )
    if len(wrong) > max(1, len(cells) / 2):
        raise InputError(
            f"{path}: is not a table: its first line, {header}, has {_cells(len(names))}, and {len(wrong)} of the "
            f"{len(cells)} lines below have other numbers of them; a table has a header with the columns' names, then "
            f"a line for each row, with cells separated by commas, semicolons or tabs"
        )
    raise InputError(
        f"{path}:{begins[wrong[0]]}: has {_cells(first)}, the header {len(names)} ({header}); correct this line (a "
        f"cell that holds a separator stands in double quotes)"
    )


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _read_parquet(path: Path) -> Read:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not a readable Parquet file: {' '.join(str(error).split())}") from None
    cells: list[Sequence[str]] = []
    unreadable = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
        usable = (arrow.types.is_integer, arrow.types.is_floating, arrow.types.is_boolean, arrow.types.is_decimal)
        known = any(check(kind) for check in (*usable, arrow.types.is_string, arrow.types.is_large_string))
        if not known and column.null_count < len(column):
            unreadable[name] = str(kind)
        cells.append([_text(value) for value in column.to_pylist()])
    return list(table.column_names), cells, unreadable, [], ""


def _text(value: Any) -> str:
    """Return a value of a typed column as a CSV file has it; a whole float becomes a whole number, NaN nothing."""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return "" if value is None else str(value)


def _cleaned(cells: Sequence[str], missing: Collection[str]) -> list[str]:
    stripped = (cell.strip() for cell in cells)
    return ["" if cell.casefold() in missing else cell for cell in stripped]
