"""Writes a table with its gaps filled, in its own words and digits, and a second table of uncertainties."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError
from modalkit.plugin import NO, YES, Cells, Filled
from modalkit.registry import modality

from .cells import Table, TableColumn
from .grouping import Group, Grouping, declared
from .joining import read_tables
from .kinds import columns_of
from .writing import write_columns

_log = logging.getLogger(__name__)

_OPPOSITE = {"1": "0", "true": "false", "yes": "no", "t": "f", "y": "n"}
_OPPOSITE |= {no: yes for yes, no in _OPPOSITE.items()}

Gaps = dict[int, tuple[str, float]]
"""What a column's empty cells become: by row a text and its uncertainty."""


def copies_of(files: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the copies of its tables in a dataset's folder.

    >>> copies_of([{"name": "Patients.CSV"}]), copies_of([{"name": "a.csv"}, {"name": "b.parquet"}])
    (['table.csv'], ['table-1.csv', 'table-2.parquet'])
    """
    single = len(files) == 1
    return [f"table{'' if single else f'-{i + 1}'}{Path(f['name']).suffix.lower()}" for i, f in enumerate(files)]


def fill(dataset: Path, filled: Mapping[str, Filled], out: Path) -> list[Path]:
    """Write the table that a dataset was built from, with its empty cells filled.

    Cells that were not empty stay as they were. Filled numbers are written as their column writes them, with no more
    decimals, and classes and bits with its words. Tables that were joined become one. A second table of the same rows
    and columns, ``NAME-uncertainty``, holds the ids, and for each filled cell the standard deviation of a number or the
    probability of anything else. A column that holds one value, which no model learns, has its gaps filled with that
    value: with a standard deviation of 0 if it is a number, else with a probability of 1.

    Args:
        dataset: its folder.
        filled: by modality; columns of other modalities stay as they are.
        out: ``.csv``, ``.tsv`` or ``.parquet``.

    Returns:
        Both files.

    Raises:
        InputError: the dataset's copy of the table is missing or has changed, or `out` is that table itself.
        RunError: the disk cannot be written.
    """
    about = read_manifest(dataset).builder
    files = about["files"] if "files" in about else [about["file"]]
    sources = [_source(dataset / copy, file, out) for copy, file in zip(copies_of(files), files, strict=True)]
    missing = about["missing"].split(",") if about["missing"] else ()
    grouping = Grouping.model_validate(about["columns"])
    words = about.get("missing_words", "usual")
    table = read_tables(sources, grouping.ids, missing, about.get("decimal", "auto"), words)
    table = table.keeping(declared(grouping, table.columns))
    gaps: dict[str, Gaps] = {}
    for name, group in grouping.modalities.items():
        if name in filled:
            gaps |= _gaps(group, table, filled[name])
    if constant := {n: _constant(c) for n, c in table.columns.items() if n not in gaps and _is_constant(c)}:
        gaps |= constant
        said = ", ".join(f"{name} {len(rows):,}" for name, rows in constant.items())
        _log.info(f"cells filled with the one value that their column holds: {said}")
    columns = table.columns | {name: table.column(name) for name in gaps if name not in table.columns}
    if left := [f"{n} {count:,}" for n, c in columns.items() if (count := int(c.empty.sum()) - len(gaps.get(n, ())))]:
        _log.warning(
            f"cells that stay empty, since the model does not infer them or they are pictures: {', '.join(left)}"
        )
    ids = [grouping.ids] if grouping.ids in table.columns else []
    beside = out.with_name(f"{out.stem}-uncertainty{out.suffix}")
    # A text file has one decimal mark in all of its columns, as spreadsheets expect.
    comma = out.suffix.lower() != ".parquet" and any(c.form and c.form.decimal == "," for c in table.columns.values())
    mark = "," if comma else "."
    unsure = {n: {row: f"{x:.4g}".replace(".", mark) for row, (_, x) in g.items() if x == x} for n, g in gaps.items()}
    texts = {n: {row: text for row, (text, _) in g.items()} for n, g in gaps.items()}
    write_columns(beside, columns, unsure, ids, table, sources[0])
    write_columns(out, columns, texts, list(columns), table, sources[0])
    return [out, beside]


def _source(source: Path, file: Mapping[str, str], out: Path) -> Path:
    """Return a dataset's copy of a table; raise `InputError` if that has changed, or if `out` is the same table."""
    if not _is(source, file["sha256"]):
        what = "has changed" if source.exists() else "is missing"
        raise InputError(
            f"{source}: the table that this dataset was built from {what}; copy {file['name']} there again, or give a "
            f"folder as --out to write a dataset in place of a table"
        )
    if _is(out, file["sha256"]):
        raise InputError(f"{out}: is the table that the dataset was built from; choose another name, to keep both")
    return source


def _is_constant(column: TableColumn) -> bool:
    """Tell whether a column holds one value, in half of the rows or more, and has gaps.

    A value in fewer rows may carry meaning by being there. If the one value is yes or no, a gap may mean the other.
    """
    held = {text.casefold() for text in column.distinct}
    filled = 1 - column.empty.mean()
    return not column.unreadable and len(held) == 1 and not column.yes_or_no and bool(0.5 <= filled < 1)


def _constant(column: TableColumn) -> Gaps:
    """Return what the gaps of a constant column become."""
    sure = 0.0 if column.plain.numeric else 1.0
    return dict.fromkeys(column.empty.nonzero()[0].tolist(), (column.distinct[0], sure))


def _gaps(group: Group, table: Table, filled: Filled) -> dict[str, Gaps]:
    """Return what the empty cells of one modality's columns become."""
    there, cells = filled.present.tolist(), columns_of(str(group.kind)).cells
    columns = [table.column(name) for name in group.columns]
    one_number = filled.values.is_floating_point() and filled.values[0].numel() == 1
    if cells is Cells.TEXTS and not (one_number and columns[0].numeric):
        return {columns[0].name: _words(columns[0], filled)}
    found = {}
    flat = (one.reshape(len(there), -1) for one in (filled.values, filled.uncertainty))  # (rows, …) -> (rows, columns)
    habits = group.written or habits_of(group, columns)
    roundable = _stay_valid(filled, habits)
    for column, habit, *of_column in zip(columns, habits, *(one.unbind(1) for one in flat), strict=True):
        values, unsure = (one.tolist() for one in of_column)
        rounded, exact = _writer(habit), _writer(None)
        usual = _share(column) if cells is Cells.BITS else _spread(column.plain)
        rows = [row for row, known in enumerate(column.texts) if not known and there[row]]
        text = {row: (rounded if roundable[row] else exact)(values[row]) for row in rows}
        if column.form is not None and cells is Cells.NUMBERS:
            text = {row: column.form.written(plain) for row, plain in text.items()}
        # A gap that the builder filled with a mean has no uncertainty from a model: take the column's own.
        found[column.name] = {
            row: (text[row], unsure[row] if unsure[row] == unsure[row] else usual(values[row])) for row in rows
        }
    return found


def _stay_valid(filled: Filled, habits: Sequence[int | tuple[str, str] | None]) -> list[bool]:
    """Tell for each row whether its numbers are still valid when they are rounded as their columns are.

    A positive number, for example, must not become 0.
    """
    if not filled.values.is_floating_point():
        return [True] * len(filled.values)
    columns = filled.values.reshape(len(filled.values), -1).clone()  # (rows, *event_shape) -> (rows, columns)
    for column, habit in zip(columns.unbind(1), habits, strict=True):
        if isinstance(habit, int):
            column.copy_(column.round(decimals=habit))
    valid: list[bool] = filled.schema.valid(columns.reshape(filled.values.shape)).tolist()
    return valid


def _words(column: TableColumn, filled: Filled) -> Gaps:
    """Return what a column's empty cells become as the kind shows them; nothing if it shows pictures."""
    schema, found = filled.schema, Gaps()
    show = modality(schema.kind).show
    for row in filled.present.nonzero().squeeze(1).tolist():
        if column.texts[row]:
            continue
        shown = show(schema, schema.unpack(filled.values[row : row + 1])[0])
        if not isinstance(shown, str):
            return {}
        found[row] = shown, float(filled.uncertainty[row].min())  # of the least certain place in a text
    return found


def habits_of(group: Group, columns: Sequence[TableColumn]) -> tuple[int | tuple[str, str] | None, ...]:
    """Return how each column writes its cells, see `Group.written`; None if its cells do not show it."""
    if columns_of(str(group.kind)).cells is Cells.BITS:
        return tuple(_words_of_bits(column) for column in columns)
    return tuple(_decimals(one) if one.numeric else None for one in (column.plain for column in columns))


def _decimals(column: TableColumn) -> int:
    return max(0, *(-int(Decimal(text).as_tuple().exponent) for text in column.distinct))


def _words_of_bits(column: TableColumn) -> tuple[str, str] | None:
    """Return a column's most frequent words for 0 and 1; if it has only one of them, the other in the same style."""
    held = [Counter(text for text in column.texts if text.casefold() in words).most_common(1) for words in (NO, YES)]
    no, yes = (words[0][0] if words else "" for words in held)
    return (no or _opposite(yes), yes or _opposite(no)) if no or yes else None


def _opposite(word: str) -> str:
    other = _OPPOSITE[word.casefold()]
    return other.upper() if word.isupper() else other.title() if word.istitle() else other


def _writer(habit: int | tuple[str, str] | None) -> Callable[[float], str]:
    """Return a function that writes numbers as a column does; without a habit, with all digits that float32 has."""
    import numpy as np

    def write(number: float) -> str:
        if isinstance(habit, tuple):
            return habit[round(number)]
        if isinstance(number, int):
            return str(number)
        exact = float(str(np.float32(number)))
        rounded = (exact if habit is None else round(exact, habit)) + 0.0  # no -0.0
        return str(int(rounded)) if habit == 0 else repr(rounded)

    return write


def _spread(column: TableColumn) -> Callable[[float], float]:
    """Return a function that returns a column's standard deviation for any number."""
    import numpy as np

    spread = float(np.nanstd(column.numbers)) if column.numeric else math.nan
    return lambda _: spread


def _share(column: TableColumn) -> Callable[[float], float]:
    """Return a function from a bit to the fraction of a column's filled cells that have it."""
    bits = [text.casefold() in YES for text in column.texts if text]
    share = sum(bits) / len(bits) if bits else math.nan
    return lambda bit: share if bit else 1 - share


def _is(path: Path, digest: str) -> bool:
    """Tell whether a file exists and has this SHA-256."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
