"""Builds a dataset from a table: columns become modalities, and empty cells absent entries."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Builder

from .cells import Column, Table, read_table
from .common import Made, OwnDataOptions, confirm, standardization, whole_rows, write_made
from .filling import copy_of, fill, habits_of
from .grouping import NO, NUMERIC, SPLITS, YES, Group, Grouping, apart, infer, read_grouping, resolve, shown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

_log = logging.getLogger(__name__)

VERSION = 2
"""Raised whenever the same table would give other bytes."""


class TableOptions(OwnDataOptions):
    """What `modalkit build-dataset table` can be told."""

    file: Path = Field(description="the table: .csv, .tsv or .parquet, with a header")
    columns: Path | None = Field(
        None,
        description="YAML that says which columns make which modality, or a dataset built from a table with the same "
        "columns, whose categories and standardisation are kept; by default both are inferred and shown",
    )
    ids: str | None = Field(None, description="column whose cells name the rows")
    split: str | None = Field(None, description="column of train, valid and test; by default splits are drawn")
    incomplete: Literal["absent", "split", "mean"] = Field(
        "absent",
        description="rows with only some of a modality's columns: absent: it is absent there; split: each of its "
        "columns is a modality of its own; mean: gaps are filled with the training rows' means",
    )
    missing: str = Field(
        "", description="further words that mean an empty cell, separated by commas, beside NA, NaN, null and none"
    )


def build(options: TableOptions, out: Path) -> str:
    """Build the dataset `out` from a table, or go on with it where it stopped.

    Raises:
        InputError: the table or the grouping cannot be used, nobody accepted what was inferred, or `out` holds
            something else.
        RunError: the disk is full.
    """
    table = read_table(options.file, options.missing.split(",") if options.missing else ())
    known = options.columns is not None and options.columns.is_dir()
    if options.columns is None:
        grouping, left = infer(table, options.ids, options.split)
        grouping = resolve(grouping, table)
        confirm(shown(grouping, table, left), options.yes, "--columns")
    else:
        told = {key: name for key in ("ids", "split") if (name := getattr(options, key)) is not None}
        grouping = resolve(read_grouping(options.columns).model_copy(update=told), table, absent=known)
    if options.incomplete == "split":
        grouping = apart(grouping, [n for n, group in grouping.modalities.items() if _holes(table, group)])
    keys, split = _keys(table, grouping), _splits(table, grouping, options)
    train = split == 0
    if not known and train.sum() < 2:
        raise InputError(
            f"{options.file}: {int(train.sum())} training rows of {table.rows}; a model is learned from many (for new "
            f"rows of a model that is trained, give as --columns the dataset that it was trained on)"
        )
    made, resolved = {}, {}
    for name, group in grouping.modalities.items():
        made[name], found = _make(name, group, table, train, options.incomplete)
        resolved[name] = found.model_copy(update={"written": _written(found, table)})
    content = options.file.read_bytes()
    about = {
        "name": "table",
        "version": VERSION,
        "file": {"name": options.file.name, "sha256": hashlib.sha256(content).hexdigest()},
        **options.model_dump(mode="json", include={"seed", "train", "valid", "incomplete", "missing"}),
        "columns": grouping.model_copy(update={"modalities": resolved}).model_dump(mode="json"),
    }
    return write_made(out, about, made, split, keys, {copy_of(options.file.name): content})


def _written(group: Group, table: Table) -> tuple[int | tuple[str, str] | None, ...]:
    """Return how each column is written: as the table does, and where that does not tell, as the grouping says."""
    columns = [table.columns.get(name) or Column(name, [""] * table.rows) for name in group.columns]
    before = group.written or (None,) * len(columns)
    return tuple(
        max(here, known) if isinstance(here, int) and isinstance(known, int) else here if here is not None else known
        for here, known in zip(habits_of(group, columns), before, strict=True)
    )


def _holes(table: Table, group: Group) -> bool:
    """Tell whether some row has only some of a group's columns."""
    import numpy as np

    empty = np.array([table.columns[c].empty for c in group.columns if c in table.columns])  # (columns, rows)
    return len(empty) > 1 and bool((empty.any(0) & ~empty.all(0)).any())


def _keys(table: Table, grouping: Grouping) -> Sequence[str]:
    if grouping.ids not in table.columns:  # None, or left out of rows for a model that knows it
        return [str(row + 1) for row in range(table.rows)]
    column, seen = table.columns[grouping.ids], dict[str, int]()
    for row, key in enumerate(column.texts):
        if not key:
            raise InputError(
                f"{table.path}: {table.at(row)} has no '{column.name}'; give it one, or choose other --ids"
            )
        if key in seen:
            raise InputError(
                f"{table.path}: {table.at(seen[key])} and {table.at(row)} have the same '{column.name}', '{key}'; ids "
                f"name each row once: correct one, or choose other --ids"
            )
        seen[key] = row
    return column.texts


def _splits(table: Table, grouping: Grouping, options: TableOptions) -> Array:
    from modalkit.data import assign_splits

    if grouping.split not in table.columns:
        return options.splits(table.rows)
    column = table.columns[grouping.split]
    for row, text in enumerate(column.texts):
        if text.casefold() not in SPLITS:
            what = f"'{text}'" if text else "nothing"
            where = f"{table.path}: column '{column.name}', {table.at(row)}"
            raise InputError(f"{where}: {what} is no split; give train, valid or test")
    return assign_splits(table.rows, [SPLITS[text.casefold()] for text in column.texts], options.seed)


def _make(name: str, group: Group, table: Table, train: npt.NDArray[np.bool_], incomplete: str) -> tuple[Made, Group]:
    """Return a modality of some columns, and the group with what was found in them."""
    columns = [table.columns.get(column) or Column(column, [""] * table.rows) for column in group.columns]
    try:
        if group.kind in NUMERIC:
            return _numbers(name, group, table, columns, train, incomplete), group
        if group.kind in ("bit", "attributes"):
            return _bits(name, group, table, columns, train, incomplete), group
        if len(columns) > 1:
            raise InputError(
                f"modality '{name}': kind '{group.kind}' is one column, not {len(columns)}; make a modality of each"
            )
        if group.kind == "label" and not {"names", "classes"} & group.own.keys():
            group = group.model_copy(update={"names": _categories(name, columns[0], train)})
        return _words(group, table, columns[0]), group
    except InputError as error:
        raise InputError(f"{table.path}: {error}") from None


def _numbers(
    name: str, group: Group, table: Table, columns: Sequence[Column], train: npt.NDArray[np.bool_], incomplete: str
) -> Made:
    import numpy as np

    from modalkit.registry import schema

    for column in columns:
        numbers = column.numbers
        _refuse(table, column, np.isnan(numbers) & ~column.empty, "no number")
        _refuse(table, column, np.isinf(numbers), "infinite")
        if group.kind == "counts":
            _refuse(
                table, column, (numbers < 0) | (numbers % 1 > 0), "no whole number from 0 (`kind: vector` takes it)"
            )
    values, present, known = whole_rows(name, np.stack([c.numbers for c in columns], 1), train, incomplete)
    entry: dict[str, Any] = {"size": len(columns), "names": list(group.columns)} | group.own
    if group.kind == "counts":
        values = np.round(values)  # gaps may have been filled with means
    elif "standardize" not in entry:
        entry["standardize"] = standardization(name, values, train & present, group.columns)
    made = schema(str(group.kind), **entry)
    return Made(made, values.astype(made.dtype), present, known)


def _bits(
    name: str, group: Group, table: Table, columns: Sequence[Column], train: npt.NDArray[np.bool_], incomplete: str
) -> Made:
    import numpy as np

    from modalkit.registry import schema

    meaning = dict.fromkeys(YES, 1.0) | dict.fromkeys(NO, 0.0) | {"": np.nan}
    for column in columns:
        wrong = np.array([text.casefold() not in meaning for text in column.texts])
        _refuse(table, column, wrong, "no bit (1 or 0, true or false, yes or no)")
    cells = np.array([[meaning[text.casefold()] for text in column.texts] for column in columns]).T  # (rows, columns)
    values, present, known = whole_rows(name, cells, train, incomplete)
    bits = np.round(values).astype(np.uint8)
    if group.kind == "attributes":
        return Made(schema("attributes", **({"names": list(group.columns)} | group.own)), bits, present, known)
    if len(columns) > 1:
        raise InputError(f"modality '{name}': a bit is one column, not {len(columns)}; say `kind: attributes`")
    return Made(schema("bit", **group.own), bits[:, 0], present)


def _categories(name: str, column: Column, train: npt.NDArray[np.bool_]) -> list[str]:
    """Return a column's categories, saying which no training row has."""
    for unseen in sorted(set(column.distinct) - {column.texts[row] for row in train.nonzero()[0].tolist()}):
        _log.warning(f"{name}: '{unseen}' is in no training row, so that it can never be predicted")
    if len(column.distinct) < 2:
        raise InputError(f"column '{column.name}': holds {len(column.distinct)} category; leave it out")
    return column.distinct


def _words(group: Group, table: Table, column: Column) -> Made:
    """Return a modality whose cells its kind reads, as a person writes them: classes, strings, paths."""
    import numpy as np

    from modalkit.registry import modality, schema

    made, present = schema(str(group.kind), **group.own), ~column.empty
    reader = modality(made.kind).read
    read: dict[str, Array] = {}
    values = np.zeros((len(present), *made.event_shape), made.dtype)
    for row in np.flatnonzero(present).tolist():
        text = column.texts[row]
        if text not in read:
            try:
                read[text] = made.pack(reader(made, text)[None])[0].numpy()
            except (InputError, ValueError) as error:
                where = f"column '{column.name}', {table.at(row)}"
                raise InputError(f"{where}: {error}; correct the cell, or empty it (--missing {text!r})") from None
        values[row] = read[text]
    return Made(made, values, present)


def _refuse(table: Table, column: Column, wrong: npt.NDArray[np.bool_], what: str) -> None:
    """Raise `InputError` for a column's first wrong cell."""
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"column '{column.name}', {table.at(row)}: '{column.texts[row]}' is {what}; correct the cell, or empty it"
        )


BUILDER = Builder(
    name="table",
    summary="your own table, CSV or Parquet, with empty cells; columns grouped into modalities",
    options=TableOptions,
    build=build,
    argument="file",
    fill=fill,
)
