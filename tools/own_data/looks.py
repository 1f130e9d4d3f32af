"""What columns look like that are neither numbers nor categories: ids, codes, dates, times."""

from __future__ import annotations

import re

import numpy as np

from modalkit.data.standardizing import TOO_ALIKE, too_alike

from .cells import TableColumn

_TIME = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?[AaPp][Mm])?"
_DAY = r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2[0-9]{2}([0-9]{2})?"
_DATES = re.compile(rf"({_DAY})([T ]{_TIME}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?|{_TIME}")
_LEAST_ROWS = 20
_ID_DIGITS = 5
_PLACEHOLDERS = re.compile(r"0|-1|-?9+")
_LEAST_OTHERS, _APART = 10, 0.5
_EPOCH = ((3e8, 4e9, "seconds"), (3e11, 4e12, "milliseconds"))
"""Times since 1970 in these units, from 1979 to 2096."""


def dates(column: TableColumn) -> str:
    """Return why a column of dates or times is left out; empty for other columns."""
    held = column.distinct
    if not held or not all(map(_DATES.fullmatch, held)):
        return ""
    return (
        f"dates or times, such as '{held[0]}', which no kind takes as numbers; write numbers, such as days, in a "
        f"column of their own, or give a kind such as label"
    )


def codes(column: TableColumn) -> str:
    """Return an example of a column's codes: whole numbers of which some begin with 0; empty for other columns."""
    held = column.distinct
    return next((text for text in held if re.fullmatch(r"0[0-9]+", text)), "") if all(map(str.isdigit, held)) else ""


def row_number(column: TableColumn) -> str:
    """Return why a column that numbers the rows is left out; empty for other columns."""
    if not _all_different(column) or column.numbers.max() - column.numbers.min() != len(column.texts) - 1:
        return ""
    return "numbers the rows, each number once; to use it, give `kind: vector`"


def alike(column: TableColumn) -> str:
    """Return why a column of numbers that differ by less than is stored is left out; empty for other columns."""
    held = column.numbers[np.isfinite(column.numbers), None]  # (rows, 1)
    if not column.numeric or not too_alike(held).any():
        return ""
    return f"numbers such as {held[0, 0]:.17g}, {TOO_ALIKE}"


def doubt(column: TableColumn) -> str:
    """Return what a column of numbers may be instead; empty if it looks like numbers."""
    if not column.numeric:
        return ""
    least, most = float(abs(column.numbers[~column.empty]).min()), float(abs(column.numbers[~column.empty]).max())
    for low, high, unit in _EPOCH:
        if low <= least and most <= high and all(map(str.isdigit, column.distinct)):
            return f"may be times in {unit} since 1970; single precision keeps 7 digits, so subtract a start time"
    if _all_different(column) and len(str(int(most))) >= _ID_DIGITS:
        return "all cells are different whole numbers; if they are ids, leave the column out"
    return _placeholder(column)


def _placeholder(column: TableColumn) -> str:
    """Return which number may stand for a missing one: 0, -1 or nines far outside the range of all others."""
    held = np.unique(column.numbers[~column.empty])
    if len(held) <= _LEAST_OTHERS:
        return ""
    for one, others in ((held[0], held[1:]), (held[-1], held[:-1])):
        apart, low, high = float(abs(others - one).min()), float(others[0]), float(others[-1])
        if _PLACEHOLDERS.fullmatch(f"{one:.15g}") and apart > _APART * (high - low):
            cells = int((column.numbers[~column.empty] == one).sum())
            text = next(text for text, number in zip(column.texts, column.numbers, strict=True) if number == one)
            return (
                f"{text} ({cells} {'cell' if cells == 1 else 'cells'}) is far from the other numbers, {low:g} to "
                f"{high:g}; if it means missing, empty it, or add --missing {text} for the whole table"
            )
    return ""


def _all_different(column: TableColumn) -> bool:
    """Tell whether a column has a different whole number in each of many rows."""
    many = len(column.texts) >= _LEAST_ROWS and not column.empty.any()
    return many and len(column.distinct) == len(column.texts) and all(map(str.isdigit, column.distinct))
