"""Makes the samples of one modality from a table's columns, as its kind takes them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from modalkit.data.standardizing import standardization, with_whole
from modalkit.errors import InputError
from modalkit.plugin import NO, YES, Cells, Modality, Required
from modalkit.registry import modality, schema

from .cells import Table, TableColumn
from .grouping import Group
from .kinds import together
from .numbers import whole_rows
from .samples import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

_log = logging.getLogger(__name__)


def make(name: str, group: Group, table: Table, train: npt.NDArray[np.bool_], incomplete: str) -> tuple[Samples, Group]:
    """Make a modality of some columns.

    Args:
        name: the modality.
        group: its columns, its kind, and fields of its schema.
        table: the table.
        train: which rows are training rows, `(rows,)`.
        incomplete: what becomes of rows with only some of the columns; see `whole_rows`.

    Returns:
        The samples, and the group with the fields that follow from its cells, such as categories.

    Raises:
        InputError: the kind does not take so many columns, or a cell is wrong; the message names its line.
    """
    try:
        kind = modality(str(group.kind))
        takes, columns = kind.columns, [table.column(column) for column in group.columns]
        if len(columns) > 1 and not takes.several:
            both = together(kind.kind)
            raise InputError(
                f"modality '{name}': kind '{kind.kind}' is one column, not {len(columns)}; make a modality of each"
                + (f", or give `kind: {both}`" if both else "")
            )
        found = takes.from_cells(columns, group.own)
        if found and kind.outcome.is_one_of_several:
            _report_unseen(name, columns[0], train)
        group = group.model_copy(update=found)
        fields = takes.from_names(group.columns) | group.own
        if takes.cells is Cells.NUMBERS:
            columns = [column.plain for column in columns]
        if takes.cells is Cells.TEXTS:
            return _from_texts(kind, fields, table, columns[0]), group
        return _from_values(name, kind, fields, table, columns, train, incomplete), group
    except InputError as error:
        raise InputError(f"{table.path}: {error}") from None


def _report_unseen(name: str, column: TableColumn, train: npt.NDArray[np.bool_]) -> None:
    """Log the categories that no training row has."""
    for unseen in sorted(set(column.distinct) - {column.texts[row] for row in train.nonzero()[0].tolist()}):
        _log.info(f"{name}: '{unseen}' is in no training row, so that it is never predicted")


def _from_values(
    name: str,
    kind: Modality[Any],
    fields: dict[str, Any],
    table: Table,
    columns: list[TableColumn],
    train: npt.NDArray[np.bool_],
    incomplete: str,
) -> Samples:
    """Return a modality with a number or bit of each column."""
    import numpy as np

    bits = kind.columns.cells is Cells.BITS
    read = [_bits(table, one) if bits else _numbers(kind.columns.required, table, one) for one in columns]
    values, present, known = whole_rows(name, np.stack(read, 1), train, incomplete)  # (rows, columns)
    if kind.columns.standardized and "standardize" not in fields:
        names = [column.name for column in columns]
        fields = fields | {"standardize": standardization(name, values, train & present, names)}
    made = with_whole(schema(kind.kind, **fields), read)
    if np.dtype(made.dtype).kind != "f":
        values = np.round(values)  # means that fill gaps are not whole
    stored = values.astype(made.dtype)
    return Samples(made, stored if made.event_shape else stored[:, 0], present, known)


def _numbers(required: Required | None, table: Table, column: TableColumn) -> npt.NDArray[np.float64]:
    """Return a column's numbers, `(rows,)`, NaN where it is empty; raise `InputError` for one that is not allowed."""
    import numpy as np

    numbers = column.numbers
    _refuse(table, column, np.isnan(numbers) & ~column.empty, "not a number")
    _refuse(table, column, np.isinf(numbers), "infinite")
    _refuse(table, column, np.abs(numbers) > np.finfo(np.float32).max, "larger than single precision holds, 3.4e38")
    if required is not None:
        _refuse(table, column, ~required.holds(numbers) & ~column.empty, required.otherwise)
    return numbers


def _bits(table: Table, column: TableColumn) -> npt.NDArray[np.float64]:
    """Return a column's words for no and yes as 0 and 1, `(rows,)`, NaN where it is empty."""
    import numpy as np

    meaning = dict.fromkeys(YES, 1.0) | dict.fromkeys(NO, 0.0) | {"": np.nan}
    wrong = np.array([text.casefold() not in meaning for text in column.texts])
    _refuse(table, column, wrong, "not a bit (1 or 0, true or false, yes or no)")
    return np.array([meaning[text.casefold()] for text in column.texts])


def _from_texts(kind: Modality[Any], fields: dict[str, Any], table: Table, column: TableColumn) -> Samples:
    """Return a modality whose samples its kind reads from one column's cells: classes, strings, paths."""
    import numpy as np

    made, present = schema(kind.kind, **fields), ~column.empty
    read: dict[str, Array] = {}
    values = np.zeros((len(present), *made.event_shape), made.dtype)
    for row in np.flatnonzero(present).tolist():
        text = column.texts[row]
        if text not in read:
            try:
                read[text] = made.pack(kind.read(made, text)[None])[0].numpy()
            except (InputError, ValueError) as error:
                where = f"column '{column.name}', {table.at(row)}"
                raise InputError(f"{where}: {error}; correct the cell, or empty it (--missing {text!r})") from None
        values[row] = read[text]
    return Samples(made, values, present)


def _refuse(table: Table, column: TableColumn, wrong: npt.NDArray[np.bool_], what: str) -> None:
    """Raise `InputError` for a column's first wrong cell."""
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"column '{column.name}', {table.at(row)}: '{column.texts[row]}' is {what}; correct the cell, or empty it"
        )
