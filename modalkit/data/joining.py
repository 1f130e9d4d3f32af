"""Several tables in memory joined by the ids of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modalkit.data.frames import Frame, frame_of
from modalkit.errors import InputError


def as_frame(data: Any) -> Frame | None:
    """Return a table in memory, or a mapping of tables joined by their indices; None if `data` is neither.

    Args:
        data: anything.

    Raises:
        InputError: the tables cannot be used or joined.
    """
    return frame_of(join(data)) if are_tables(data) else frame_of(data)


def are_tables(data: Any) -> bool:
    """Tell whether data is a mapping from names to tables."""
    return isinstance(data, Mapping) and bool(data) and all(is_table(one) for one in data.values())


def join(tables: Mapping[str, Any], id: str | None = None) -> Any:
    """Join tables by the ids of their rows: the result has a row for each id that any of them has.

    A row lacks all cells of a table that does not have its id. Ids come in the order in which they are first seen.
    Whole numbers and booleans of pandas become nullable ones where rows lack them.

    Args:
        tables: by name, all of pandas, polars or Arrow; no two may have a column of the same name. They never change.
        id: the column, or of pandas the index, that holds the ids. None: the index.

    Returns:
        A table of the same library, with the ids as its index (pandas) or as its first column.

    Raises:
        InputError: an id is missing or twice in a table, tables share no id or have a column of the same name; the
            message names the table, the ids and the rows.

    Example:
        >>> import modalkit, pyarrow
        >>> blood = pyarrow.table({"patient": ["a", "b"], "iron": [12, 15]})
        >>> scans = pyarrow.table({"patient": ["b", "c"], "volume": [3.5, 4.0]})
        >>> joined = modalkit.join({"blood": blood, "scans": scans}, id="patient")
        >>> joined.to_pydict()
        {'patient': ['a', 'b', 'c'], 'iron': [12, 15, None], 'volume': [None, 3.5, 4.0]}
    """
    if not isinstance(tables, Mapping) or not tables:
        raise InputError("join: give a mapping from names to tables, such as {'blood': frame, 'scans': other}")
    frames = {str(name): _opened(str(name), table) for name, table in tables.items()}
    first = next(iter(frames.values()))
    if other := next((name for name, frame in frames.items() if type(frame) is not type(first)), None):
        raise InputError(f"data: the tables '{next(iter(frames))}' and '{other}' are of two libraries; convert one")
    labels = {name: _labels(name, frame, id) for name, frame in frames.items()}
    _refuse_common_columns(frames, id)
    rows = {name: _rows(name, found) for name, found in labels.items()}
    _check_shared(rows)
    order = list(dict.fromkeys(one for own in rows.values() for one in own))
    ids = _array(order, list(labels.values()))
    placed = [
        frame.placed(np.array([rows[name].get(one, -1) for one in order], np.int64), ids, id)
        for name, frame in frames.items()
    ]
    return first.beside(placed)


def is_table(value: Any) -> bool:
    """Tell whether a value is a table of pandas, polars or Arrow, even one that cannot be used."""
    try:
        return frame_of(value) is not None
    except InputError:  # a table that cannot be used
        return True


def _opened(name: str, table: Any) -> Frame:
    try:
        frame = frame_of(table)
    except InputError as error:
        raise _of_table(name, error) from None
    if frame is None:
        raise InputError(f"data: '{name}' is a {type(table).__name__}, not a table of pandas, polars or Arrow")
    return frame


def _of_table(name: str, error: InputError) -> InputError:
    """Return the error of one table with its name in the message."""
    return InputError(str(error).replace("data: ", f"data: table '{name}': ", 1))


def _refuse_common_columns(frames: Mapping[str, Frame], id: str | None) -> None:
    """Raise `InputError` if two tables have a column of one name, other than that of the ids."""
    taken: dict[str, str] = {}
    for name, frame in frames.items():
        for title in frame.names:
            if title != id and (other := taken.setdefault(title, name)) != name:
                raise InputError(
                    f"data: the tables '{other}' and '{name}' both have a column '{title}'; rename one, leave one out, "
                    f"or if it holds the ids give id='{title}'"
                )


def _labels(name: str, frame: Frame, id: str | None) -> Any:
    """Return the ids of a table, an Arrow array without missing ones."""
    from pyarrow import types

    try:
        found = frame.labels(id)
    except InputError as error:
        raise _of_table(name, error) from None
    gone = np.flatnonzero(found.is_null(nan_is_null=types.is_floating(found.type)).to_numpy(zero_copy_only=False))
    if len(gone):
        raise InputError(
            f"data: table '{name}': row {gone[0]}, counted from 0, has no id; give it one, or drop the row"
        )
    return found.dictionary_decode() if types.is_dictionary(found.type) else found


def _rows(name: str, labels: Any) -> dict[Any, int]:
    """Return the row of each id of a table."""
    rows: dict[Any, int] = {}
    for row, one in enumerate(labels.to_pylist()):
        if (before := rows.setdefault(one, row)) != row:
            raise InputError(
                f"data: table '{name}': the id {one!r} is in the rows {before} and {row}, counted from 0; ids are "
                f"unique within a table: correct one, or drop a row"
            )
    return rows


def _check_shared(rows: Mapping[str, Mapping[Any, int]]) -> None:
    """Raise `InputError` if a table shares no id with any other."""
    for name, own in rows.items():
        others = {one for other, found in rows.items() if other != name for one in found}
        if others and not others & own.keys():
            raise InputError(
                f"data: table '{name}' has no id in common with the others, such as {next(iter(own))!r} and "
                f"{next(iter(others))!r}; write ids in the same way, with the same type, in all tables"
            )


def _array(ids: list[Any], labels: list[Any]) -> Any:
    """Return ids as an Arrow array of the type that the tables have them in."""
    import pyarrow as arrow

    kinds = {one.type for one in labels}
    return arrow.array(ids, kinds.pop() if len(kinds) == 1 else None)
