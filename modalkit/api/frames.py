"""A table in memory as a dataset: what its columns are, and its rows a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit import registry
from modalkit.api.writing import write_rows
from modalkit.data import SPLITS, Array, assign_splits
from modalkit.data.frame_columns import FrameColumn
from modalkit.data.frame_values import Reader, columns_for, modality_for
from modalkit.data.frames import Frame
from modalkit.data.standardizing import standardization, with_standardize, with_whole
from modalkit.errors import InputError
from modalkit.plugin import Cells, Column, Schema

_log = logging.getLogger(__name__)

_SAMPLE = 10_000
"""Rows, evenly spread, from which it is inferred what columns are."""


@dataclass(frozen=True)
class Group:
    """A modality of a table: its kind, its columns, and the fields of its schema that are known."""

    kind: str
    columns: Sequence[str]
    fields: Mapping[str, Any]


def write_frame(
    frame: Frame,
    schemas: Mapping[str, Schema],
    out: Path,
    split: Sequence[str] | Mapping[str, float] | None,
    ids: tuple[str | None] | None = None,
) -> None:
    """Write a table as a dataset.

    Args:
        frame: the table.
        schemas: the recipe's modalities, each in the column of its name or in the columns that its ``names`` lists;
            without any, columns and kinds are inferred as `modalkit build-dataset table` does.
        out: the folder to make.
        split: see `modalkit.train`.
        ids: the column that names the rows, or None for the table's index; by default they are numbered.

    Raises:
        InputError: a column or cell cannot be used; the message names it.
    """
    groups, split = groups_of(frame, schemas, split, ids[0] if ids else None)
    places = assign_splits(frame.rows, split, 0)
    readers = readers_of(frame, groups, places)
    keys = [str(key) for key in frame.labels(*ids).to_pylist()] if ids else [str(row) for row in range(frame.rows)]
    write_rows(out, readers, places, keys, "frame")


def groups_of(
    frame: Frame,
    schemas: Mapping[str, Schema],
    split: Sequence[str] | Mapping[str, float] | None,
    ids: str | None,
    *,
    all_of_them: bool = False,
) -> tuple[dict[str, Group], Sequence[str] | Mapping[str, float] | None]:
    """Return a table's modalities, and the splits of its rows as far as they are known.

    Args:
        frame: the table.
        schemas: the recipe's modalities; without any they are inferred.
        split: what the user said.
        ids: the column that is no modality.
        all_of_them: whether a column that cannot be used is an error.
    """
    if schemas:
        return {name: _of_recipe(name, schema, frame) for name, schema in schemas.items()}, split
    groups, names, left = _inferred(frame, ids)
    if left and all_of_them:
        raise InputError(f"data: {'; '.join(f'column {name!r} cannot be used: {why}' for name, why in left.items())}")
    for name, reason in left.items():
        _log.info(f"column '{name}' is left out: {reason}")
    return groups, _splits_of(frame, names) if split is None and names is not None else split


def readers_of(frame: Frame, groups: Mapping[str, Group], places: Array) -> dict[str, Reader]:
    """Return what reads each modality of a table; `places` are the rows' splits, `(rows,)`."""
    train = places == SPLITS.index("train")
    return {name: _described(name, group, frame, train) for name, group in groups.items()}


def _inferred(frame: Frame, ids: str | None) -> tuple[dict[str, Group], str | None, dict[str, str]]:
    """Return what columns look like, the column that names the splits, if any, and why others are left out."""
    if frame.rows < 2:
        raise InputError("data: the table has one row, which is too few to learn from")
    known = {name: frame.column(name) for name in frame.names if name != ids}
    usable, left = dict[str, FrameColumn](), dict[str, str]()
    for name, column in known.items():
        if column.sort == "nothing":
            raise InputError(
                f"data: column '{name}' has no value in any row, so that nothing can be learned about it; leave it out"
            )
        if column.sort not in ("number", "bool", "text"):
            left[name] = f"its type, {column.sort}, cannot be used"
            continue
        if column.sort == "text":
            _refuse_mixed(column)
        usable[name] = column
    if not usable:
        raise InputError(f"data: no column can be used: {'; '.join(f'{name}: {why}' for name, why in left.items())}")
    rows = np.unique(np.linspace(0, frame.rows - 1, min(frame.rows, _SAMPLE)).astype(np.int64))
    texts = {name: _sampled(column, rows) for name, column in usable.items()}
    found, why = registry.get(registry.BUILDERS, "table").propose(texts)
    left |= why
    groups = {n: Group(str(g["kind"]), tuple(g["columns"]), {}) for n, g in found["modalities"].items()}
    _refuse_alike(name for group in groups.values() if len(group.columns) == 1 for name in group.columns)
    return groups, found.get("split"), left


def _sampled(column: FrameColumn, rows: npt.NDArray[np.int64]) -> list[str]:
    """Return some cells as texts, "" where they are missing."""
    codes, texts = column.words(rows)
    return [texts[code] if code >= 0 else "" for code in codes.tolist()]


def _refuse_mixed(column: FrameColumn) -> None:
    """Raise `InputError` if most cells of a column of texts are numbers, and some are not."""
    codes, texts = column.words()
    words = Column(column.name, texts)
    numbers = ~np.isnan(words.numbers)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    if 0 < int(counts[~numbers].sum()) < int(counts[numbers].sum()):
        wrong = int(np.flatnonzero(~numbers & (counts > 0))[0])
        raise InputError(
            f"{column.at(int((codes == wrong).argmax()))}: '{texts[wrong]}' is no number, and "
            f"{int(counts[numbers].sum())} cells are; correct it, or make it missing"
        )


def _refuse_alike(titles: Iterable[str]) -> None:
    """Raise `InputError` if two columns make modalities of one name."""
    taken: dict[str, str] = {}
    for title in titles:
        if (other := taken.setdefault(modality_for(title), title)) != title:
            raise InputError(
                f"data: the columns '{other}' and '{title}' both make a modality '{modality_for(title)}'; rename one"
            )


def _splits_of(frame: Frame, name: str) -> list[str]:
    codes, texts = frame.column(name).words()
    if (codes < 0).any():
        raise InputError(f"{frame.column(name).at(int((codes < 0).argmax()))}: has no split; give one to every row")
    return [texts[code].casefold() for code in codes.tolist()]


def _of_recipe(name: str, schema: Schema, frame: Frame) -> Group:
    """Return a modality of a recipe with its columns; raise `InputError` for one that the table lacks."""
    columns = columns_for(name, schema, frame)
    for column in columns:
        if column not in frame.names:
            raise InputError(
                f"data: the table has no column '{column}' for the modality '{name}'; it has {', '.join(frame.names)}"
            )
        if (sort := frame.column(column).sort) not in ("number", "bool", "text"):
            what = "has no value in any row" if sort == "nothing" else f"has the type {sort}, which cannot be used"
            raise InputError(f"data: column '{column}' {what}; leave '{name}' out of the recipe, or correct it")
    return Group(schema.kind, columns, schema.model_dump(include=schema.model_fields_set - {"kind"}))


def _described(name: str, group: Group, frame: Frame, train: npt.NDArray[np.bool_]) -> Reader:
    """Return the reader of a modality, whose schema has all that follows from its cells.

    Args:
        name: the modality.
        group: its columns.
        frame: the table.
        train: which rows are training rows, `(rows,)`.
    """
    takes, columns = registry.modality(group.kind).columns, [frame.column(title) for title in group.columns]
    fields = takes.from_names(tuple(group.columns)) if takes.cells is not Cells.TEXTS else {}
    if takes.cells is Cells.TEXTS:
        fields |= takes.from_cells([Column(column.name, sorted(column.words()[1])) for column in columns], group.fields)
    given = registry.schema(group.kind, **(fields | dict(group.fields)))
    reader = Reader(name, given, columns)
    if takes.standardized and "standardize" not in group.fields:
        found = _standardization(name, reader, frame, train)
        reader = Reader(name, with_standardize(given, found), columns)
    if takes.cells is Cells.NUMBERS:
        numbers = (column.numbers(slice(0, frame.rows)) for column in columns)
        reader = Reader(name, with_whole(reader.schema, numbers), columns)
    return reader


def _standardization(name: str, reader: Reader, frame: Frame, train: npt.NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return means and standard deviations of a modality's columns over the training rows, a column at a time."""
    used: Array = train.copy()
    whole = slice(0, frame.rows)
    if len(reader.columns) > 1:  # a row counts if it has all columns
        for column in reader.columns:
            used &= ~column.missing() if column is not None else False
    found: dict[str, list[float]] = {"loc": [], "scale": []}
    for column in reader.columns:
        assert column is not None
        numbers = column.numbers(whole)
        there = used & ~np.isnan(numbers)
        one = standardization(name, numbers[:, None], there, [column.name])
        for key, values in found.items():
            values.extend(one[key])
    return found
