"""Several tables in files joined by the ids of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modalkit.errors import InputError

from .cells import Table, TableColumn, Words, read_table
from .forms import Decimal


def read_tables(
    paths: Sequence[Path],
    ids: str | None,
    missing: Iterable[str] = (),
    decimal: Decimal = "auto",
    words: Words = "usual",
) -> Table:
    """Read one table, or several that are joined: the result has a row for each id that any of them has.

    In a row, the cells of a table that does not have its id are empty. Ids come in the order in which they are first
    seen.

    Args:
        paths: of the files.
        ids: the column that holds the ids, in all files; one file needs none.
        missing: see `read_table`.
        decimal: see `read_table`.
        words: see `read_table`.

    Raises:
        InputError: a file cannot be read, there is no such column, an id is empty or twice in a file, or two files have
            a column of the same name.
    """
    missing = list(missing)
    tables = [read_table(path, missing, decimal, words) for path in paths]
    if len(tables) == 1:
        return tables[0]
    if ids is None:
        common = set.intersection(*(set(table.columns) for table in tables))
        near = f"; all of them have {', '.join(sorted(common))}" if common else ""
        raise InputError(f"{_named(paths)}: name the column of ids by which they are joined: --ids COLUMN{near}")
    rows = [_rows(table, ids) for table in tables]
    _refuse_common_columns(tables, ids)
    _check_shared(tables, rows)
    order = list(dict.fromkeys(one for own in rows for one in own))
    columns = {ids: TableColumn(ids, order, "", order)}
    for table, own in zip(tables, rows, strict=True):
        places = [own.get(one, -1) for one in order]
        columns |= {name: _placed(column, places) for name, column in table.columns.items() if name != ids}
    return Table(Path(_named(paths)), len(order), columns, separator=tables[0].separator, ids=order)


def check_ids(table: Table, column: TableColumn, remedy: str) -> dict[str, int]:
    """Return the row of each id; raise `InputError` if one is empty or twice in the table.

    Args:
        table: with the column.
        column: holds the ids.
        remedy: what else the user can do, for the message.
    """
    seen: dict[str, int] = {}
    for row, key in enumerate(column.texts):
        if not key:
            raise InputError(f"{table.path}: {table.at(row)} has no '{column.name}'; give it one{remedy}")
        if key in seen:
            raise InputError(
                f"{table.path}: {table.at(seen[key])} and {table.at(row)} have the same '{column.name}', '{key}'; ids "
                f"must be unique: correct one{remedy}"
            )
        seen[key] = row
    return seen


def _named(paths: Sequence[Path]) -> str:
    return " + ".join(map(str, paths))


def _rows(table: Table, ids: str) -> Mapping[str, int]:
    if ids not in table.columns:
        raise InputError(
            f"{table.path}: --ids: there is no column '{ids}'; it has {', '.join(list(table.columns)[:9])}"
        )
    return check_ids(table, table.columns[ids], "")


def _refuse_common_columns(tables: Sequence[Table], ids: str) -> None:
    """Raise `InputError` if two files have a column of one name, other than that of the ids."""
    taken: dict[str, int] = {}
    for place, table in enumerate(tables):
        for name in table.columns:
            if name != ids and (other := taken.setdefault(name, place)) != place:
                raise InputError(
                    f"{table.path}: column '{name}' is in {tables[other].path} too; rename one, or leave one out"
                )


def _check_shared(tables: Sequence[Table], rows: Sequence[Mapping[str, int]]) -> None:
    """Raise `InputError` if a file shares no id with any other."""
    for place, own in enumerate(rows):
        others = {one for other, found in enumerate(rows) if other != place for one in found}
        if not others & own.keys():
            raise InputError(
                f"{tables[place].path}: has no id in common with the others, such as '{next(iter(own))}' and "
                f"'{min(others)}'; write ids in the same way in all files"
            )


def _placed(column: TableColumn, places: Sequence[int]) -> TableColumn:
    """Return a column with its cells elsewhere, and an empty cell for each place -1."""
    texts, written = ([cells[at] if at >= 0 else "" for at in places] for cells in (column.texts, column.written))
    return replace(column, texts=texts, written=written)
