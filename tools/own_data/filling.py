"""Writes a table again with its gaps filled: its own columns, words and digits, and beside it how sure each cell is."""

from __future__ import annotations

import codecs
import csv
import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError
from modalkit.plugin import Filled
from modalkit.util.files import write_atomic

from .cells import Column, Table, read_table
from .grouping import NO, NUMERIC, YES, Group, Grouping

_log = logging.getLogger(__name__)

_OPPOSITE = {"1": "0", "true": "false", "yes": "no", "t": "f", "y": "n"}
_OPPOSITE |= {no: yes for yes, no in _OPPOSITE.items()}

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,15})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Neither is 007, nor what has more digits than a number holds: such texts are names."""


@dataclass(frozen=True)
class _Form:
    """How a text file writes a table; with the encoding ``utf-8-sig`` it begins with the mark that Excel looks for."""

    separator: str
    ending: str = "\n"
    encoding: str = "utf-8"

    @classmethod
    def of(cls, source: Path, table: Table, out: Path) -> _Form:
        """Return the form of the file that a table was read from, as far as `out` is of its sort."""
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


Gaps = dict[int, tuple[str, float]]
"""What a column's empty cells become: by row a text, and its uncertainty."""
Columns = Mapping[str, Column]
Texts = Mapping[str, Mapping[int, str]]
"""By column and row what is written there."""


def copy_of(name: str) -> str:
    """Return the name that a dataset's folder gives the copy of the table it was built from.

    >>> copy_of("Patients.CSV")
    'table.csv'
    """
    return f"table{Path(name).suffix.lower()}"


def fill(dataset: Path, filled: Mapping[str, Filled], out: Path) -> list[Path]:
    """Write the table that a dataset was built from, with what was filled in its empty cells.

    Cells that were not empty are as they were, to the letter. Numbers that were filled have no more decimals than
    their column has, classes and bits its words. A second table of the same rows and columns, ``NAME-uncertainty``, is
    empty but for the ids and the cells that were filled: standard deviations of numbers, probabilities of all else.
    Gaps of a column that holds one value, which no model learns, get that value: numbers with a standard deviation
    of 0, texts with a probability of 1.

    Args:
        dataset: its folder.
        filled: by modality; columns of others stay as they are.
        out: ``.csv``, ``.tsv`` or ``.parquet``.

    Returns:
        Both files.

    Raises:
        InputError: the copy of the table is gone or another, or `out` is that table itself.
        RunError: the disk cannot be written.
    """
    about = read_manifest(dataset).builder
    source = dataset / copy_of(about["file"]["name"])
    if not _is(source, about["file"]["sha256"]):
        what = "is another" if source.exists() else "is not there"
        raise InputError(
            f"{source}: the table that this dataset was built from {what}; copy {about['file']['name']} there again, "
            f"or give a folder as --out, for a dataset in place of a table"
        )
    if _is(out, about["file"]["sha256"]):
        raise InputError(f"{out}: is the table that the dataset was built from; choose another name, to keep both")
    table = read_table(source, about["missing"].split(",") if about["missing"] else ())
    grouping = Grouping.model_validate(about["columns"])
    gaps: dict[str, Gaps] = {}
    for name, group in grouping.modalities.items():
        if name in filled:
            gaps |= _gaps(group, table, filled[name])
    if constant := {n: _constant(c) for n, c in table.columns.items() if n not in gaps and _is_constant(c)}:
        gaps |= constant
        said = ", ".join(f"{name} {len(rows):,}" for name, rows in constant.items())
        _log.info(f"cells filled with the one value that their column holds: {said}")
    nothing = [""] * table.rows
    columns = table.columns | {name: Column(name, nothing, "", nothing) for name in gaps if name not in table.columns}
    if left := [f"{n} {count:,}" for n, c in columns.items() if (count := int(c.empty.sum()) - len(gaps.get(n, ())))]:
        _log.warning(
            f"cells that stay empty, since the model does not infer them or they are pictures: {', '.join(left)}"
        )
    ids = [grouping.ids] if grouping.ids in table.columns else []
    beside = out.with_name(f"{out.stem}-uncertainty{out.suffix}")
    form = _Form.of(source, table, out)
    for path, texts, kept in (
        (beside, {n: {row: f"{x:.4g}" for row, (_, x) in g.items() if x == x} for n, g in gaps.items()}, ids),
        (out, {n: {row: text for row, (text, _) in g.items()} for n, g in gaps.items()}, list(columns)),
    ):
        if out.suffix.lower() == ".parquet":
            _write_parquet(path, columns, texts, kept, source)
        else:
            _write_csv(path, columns, texts, kept, form)
    return [out, beside]


def _is_constant(column: Column) -> bool:
    """Tell whether a column holds one value, in half of the rows or more, and has gaps.

    What is seldom there may say something by being there, and beside a lone yes a gap may mean no.
    """
    held = {text.casefold() for text in column.distinct}
    return not column.unreadable and len(held) == 1 and not held <= YES | NO and 0.5 <= 1 - column.empty.mean() < 1


def _constant(column: Column) -> Gaps:
    """Return what the gaps of such a column become."""
    sure = 0.0 if column.numeric else 1.0
    return dict.fromkeys(column.empty.nonzero()[0].tolist(), (column.distinct[0], sure))


def _gaps(group: Group, table: Table, filled: Filled) -> dict[str, Gaps]:
    """Return what the empty cells of one modality's columns become."""
    there = filled.present.tolist()
    columns = [table.columns.get(name) or Column(name, [""] * table.rows) for name in group.columns]
    numbers = group.kind in NUMERIC or (filled.values.is_floating_point() and filled.values[0].numel() == 1)
    if not numbers and group.kind not in ("bit", "attributes"):
        return {columns[0].name: _words(columns[0], filled)}
    found = {}
    flat = (one.reshape(len(there), -1) for one in (filled.values, filled.uncertainty))  # (rows, …) -> (rows, columns)
    habits = group.written or habits_of(group, columns)
    for column, habit, *of_column in zip(columns, habits, *(one.unbind(1) for one in flat), strict=True):
        values, unsure = (one.tolist() for one in of_column)
        text = _writer(habit)
        usual = _spread(column) if numbers else _share(column)
        rows = [row for row, known in enumerate(column.texts) if not known and there[row]]
        # What a builder filled with means has no uncertainty of a model's; there the column's own stands for it.
        found[column.name] = {
            row: (text(values[row]), unsure[row] if unsure[row] == unsure[row] else usual(values[row])) for row in rows
        }
    return found


def _words(column: Column, filled: Filled) -> Gaps:
    """Return what the empty cells of a column of classes, strings or the like become; nothing, of pictures."""
    from modalkit.registry import modality

    schema, found = filled.schema, Gaps()
    show = modality(schema.kind).show
    for row in filled.present.nonzero().squeeze(1).tolist():
        if column.texts[row]:
            continue
        shown = show(schema, schema.unpack(filled.values[row : row + 1])[0])
        if not isinstance(shown, str):
            return {}
        found[row] = shown, float(filled.uncertainty[row].min())  # a text's least sure place
    return found


def habits_of(group: Group, columns: Sequence[Column]) -> tuple[int | tuple[str, str] | None, ...]:
    """Return how columns write what they hold: `Group.written`; None where a column does not tell."""
    if group.kind in ("bit", "attributes"):
        return tuple(_words_of_bits(column) for column in columns)
    return tuple(_decimals(column) if column.numeric else None for column in columns)


def _decimals(column: Column) -> int:
    return max(0, *(-int(Decimal(text).as_tuple().exponent) for text in column.distinct))


def _words_of_bits(column: Column) -> tuple[str, str] | None:
    """Return a column's most frequent words for 0 and 1; where it has one alone, the other is written alike."""
    held = [Counter(text for text in column.texts if text.casefold() in words).most_common(1) for words in (NO, YES)]
    no, yes = (words[0][0] if words else "" for words in held)
    return (no or _opposite(yes), yes or _opposite(no)) if no or yes else None


def _opposite(word: str) -> str:
    other = _OPPOSITE[word.casefold()]
    return other.upper() if word.isupper() else other.title() if word.istitle() else other


def _writer(habit: int | tuple[str, str] | None) -> Callable[[float], str]:
    """Return what writes numbers as a column does; without a habit, all digits that single precision has."""
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


def _spread(column: Column) -> Callable[[float], float]:
    """Return what says of any number the standard deviation of a column."""
    import numpy as np

    spread = float(np.nanstd(column.numbers)) if column.numeric else math.nan
    return lambda _: spread


def _share(column: Column) -> Callable[[float], float]:
    """Return what says of a bit how often a column has it."""
    bits = [text.casefold() in YES for text in column.texts if text]
    share = sum(bits) / len(bits) if bits else math.nan
    return lambda bit: share if bit else 1 - share


def _write_csv(path: Path, columns: Columns, texts: Texts, kept: Collection[str], form: _Form) -> None:
    """Write columns as CSV: their cells as they are written, of those that are kept, with new texts in some rows."""
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


def _write_parquet(path: Path, columns: Columns, texts: Texts, kept: Collection[str], source: Path) -> None:
    """Write columns as Parquet, see `_write_csv`; of the types that the source has, or that they look like."""
    import pyarrow as arrow
    import pyarrow.compute as compute
    from pyarrow import parquet

    typed = parquet.read_table(source) if source.suffix in (".parquet", ".pq") else arrow.table({})
    arrays = {}
    for name, column in columns.items():
        new = texts.get(name, {})
        if name not in kept:  # how sure what was filled is
            arrays[name] = arrow.array([float(new[row]) if row in new else None for row in range(len(column.texts))])
            arrays[name] = arrays[name].cast(arrow.float64())
        elif name in typed.column_names:
            old = typed[name].combine_chunks()
            kind = old.type.value_type if arrow.types.is_dictionary(old.type) else old.type
            filled = arrow.array([new.get(row) for row in range(len(old))], arrow.string()).cast(kind)
            arrays[name] = compute.coalesce(filled, old.cast(kind)).cast(old.type) if new else old
        else:
            arrays[name] = _as_it_looks([new.get(row, text) or None for row, text in enumerate(column.texts)])
    table = arrow.table(arrays).replace_schema_metadata(typed.schema.metadata if len(kept) == len(columns) else None)
    write_atomic(path, lambda temporary: parquet.write_table(table, temporary))


def _as_it_looks(texts: Sequence[str | None]) -> Any:
    """Return texts as integers or floats if all are such, and written in the usual way, else as they are."""
    import pyarrow as arrow

    held = {text for text in texts if text is not None}
    for pattern, convert, kind in ((_INTEGER, int, arrow.int64()), (_NUMBER, float, arrow.float64())):
        if held and all(map(pattern.fullmatch, held)):
            numbers = {text: convert(text) for text in held}
            return arrow.array([None if text is None else numbers[text] for text in texts], kind)
    return arrow.array(texts, arrow.string())


def _is(path: Path, digest: str) -> bool:
    """Tell whether a file is there and has this SHA-256."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
