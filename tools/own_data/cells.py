"""Reads a table, CSV or Parquet, as named columns whose empty cells are known."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalkit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_log = logging.getLogger(__name__)

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"})
"""Cells that hold one of these words, in capitals or not, are empty."""
_SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its header.
        texts: every cell as it is written, without blanks around it; "" where it is empty.
        unreadable: what type it has, if it is one that cannot be used.
        written: every cell as it is written, whatever it means.
    """

    name: str
    texts: Sequence[str]
    unreadable: str = ""
    written: Sequence[str] = ()

    @cached_property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Which cells are empty, `(rows,)`."""
        import numpy as np

        return np.array([not text for text in self.texts], dtype=bool)

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """Every cell as a number, `(rows,)`; NaN where it is empty or none."""
        import numpy as np

        return np.array([_number(text) for text in self.texts], dtype=np.float64)

    @cached_property
    def numeric(self) -> bool:
        """Whether every cell that is not empty is a number, and there is one."""
        import numpy as np

        return bool(not self.empty.all() and not (np.isnan(self.numbers) & ~self.empty).any())

    @cached_property
    def distinct(self) -> list[str]:
        """What the cells hold, each once: in the order of numbers if they are numbers, else of letters."""
        held = sorted(set(self.texts) - {""})
        return sorted(held, key=float) if self.numeric else held


@dataclass(frozen=True)
class Table:
    """A table: its file, how many rows it has, and its columns by name.

    `lines` says on which line of a text file each row begins, and `separator` what stands between cells.
    """

    path: Path
    rows: int
    columns: dict[str, Column]
    lines: Sequence[int] = ()
    separator: str = ""

    def at(self, row: int) -> str:
        """Name a row as a person finds it: by the line that an editor shows, or in Parquet by its number from 1."""
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"


def read_table(path: Path, missing: Iterable[str] = ()) -> Table:
    """Read a CSV file (separated by commas, semicolons or tabs; a header first) or a Parquet file.

    Args:
        path: its name ends in .csv, .tsv, .txt, .parquet or .pq.
        missing: further words that mean an empty cell, such as ``-999``.

    Raises:
        InputError: it cannot be read, its header lacks a name or has one twice, or a line has too many or few cells.
    """
    words = MISSING | {word.strip().casefold() for word in missing}
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
    columns = {
        name: Column(name, _cleaned(column, words), unreadable.get(name, ""), column)
        for name, column in zip(names, cells, strict=True)
    }
    return Table(path, rows, columns, lines, separator)


Read = tuple[list[str], list[Sequence[str]], dict[str, str], list[int], str]
"""Names, cells by column, the types of columns that cannot be used, the rows' lines, and what separates cells."""


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
        raise InputError(f"{path}: is no text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}:{lines.line_num}: is no CSV: {error}") from None
    _check_cells(path, names, [len(row) for row in rows], begins)
    return names, [list(column) for column in zip(*rows, strict=True)], {}, begins, separator


def _check_cells(path: Path, names: Sequence[str], cells: Sequence[int], begins: Sequence[int]) -> None:
    """Raise `InputError` unless every row has as many cells as the header, and say which of them looks wrong."""
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
            f"{path}: is no table: its first line, {header}, has {_cells(len(names))}, and {len(wrong)} of the "
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
        raise InputError(f"{path}: is no Parquet file that can be read: {' '.join(str(error).split())}") from None
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
    """Write a value of a typed column as a CSV file would; a whole float is written as a whole number."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return "" if value is None else str(value)


def _cleaned(cells: Sequence[str], missing: Collection[str]) -> list[str]:
    stripped = (cell.strip() for cell in cells)
    return ["" if cell.casefold() in missing else cell for cell in stripped]


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text or math.nan)
    except ValueError:
        return math.nan
