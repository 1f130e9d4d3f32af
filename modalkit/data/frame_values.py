"""The columns of a table in memory as values of modalities, and values of modalities as cells of its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.data.frame_columns import FrameColumn
from modalkit.data.frames import Frame
from modalkit.errors import InputError
from modalkit.plugin import NO, YES, Cells, Schema
from modalkit.registry import modality

Array = npt.NDArray[Any]
_KEPT = 64  # a text of samples up to this size is read once


def modality_for(title: str) -> str:
    """Return the name of the modality that a column of this title makes.

    >>> modality_for("body mass (kg)"), modality_for("2nd"), modality_for("all")
    ('body_mass_kg', 'column_2nd', 'all_')
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")
    name = name if name[:1].isalpha() else f"column_{name}".rstrip("_")
    return "all_" if name == "all" else name


def columns_for(name: str, schema: Schema, frame: Frame) -> list[str]:
    """Return the columns of a table that hold a modality: those that its parts name, or the one that it is named after.

    Args:
        name: the modality.
        schema: its schema.
        frame: the table, which may lack all or some of them.

    Raises:
        InputError: two columns could be meant.
    """
    parts = list(schema.part_names)
    takes = modality(schema.kind).columns.cells
    if takes is not Cells.TEXTS and (len(parts) > 1 or any(part in frame.names for part in parts)):
        return parts
    if name in frame.names:
        return [name]
    found = [title for title in frame.names if modality_for(title) == name]
    if len(found) > 1:
        raise InputError(f"data: '{found[0]}' and '{found[1]}' could both be '{name}'; rename one of them")
    return found or [name]


@dataclass(frozen=True)
class Reader:
    """Reads a modality from a table, some rows at a time.

    Attributes:
        name: the modality.
        schema: its schema.
        columns: its columns; None in the place of one that the table lacks.
    """

    name: str
    schema: Schema
    columns: Sequence[FrameColumn | None]
    _read: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, schema: Schema, frame: Frame) -> Reader:
        """Return the reader of a modality; raise `InputError` if it has not as many columns as numbers."""
        titles = columns_for(name, schema, frame)
        several = modality(schema.kind).columns.cells is not Cells.TEXTS
        if several and len(titles) != prod(schema.event_shape):
            raise InputError(
                f"data: '{name}' has {prod(schema.event_shape)} numbers, and the table one column of that name; give "
                f"`names` with its columns in the recipe"
            )
        return cls(name, schema, [frame.column(title) if title in frame.names else None for title in titles])

    def __call__(self, rows: slice) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
        """Return stored values, which rows are present, and which numbers are known of the other rows.

        Args:
            rows: with a start and an end.

        Returns:
            `(rows, *event_shape)`, `(rows,)`, and `(rows, *event_shape)` or None if no row is known in part.

        Raises:
            InputError: a cell is not what the kind takes; the message names the column and the row.
        """
        takes = modality(self.schema.kind).columns
        if takes.cells is Cells.TEXTS:
            return (*self._texts(rows), None)
        read = [self._bits(c, rows) if takes.cells is Cells.BITS else self._numbers(c, rows) for c in self.columns]
        numbers = np.stack(read, 1)  # (rows, columns)
        there: npt.NDArray[np.bool_] = np.logical_not(np.isnan(numbers))
        present: npt.NDArray[np.bool_] = np.all(there, axis=1)
        known = there & ~present[:, None]
        shape = (len(numbers), *self.schema.event_shape)
        values = np.where(there, numbers, 0).astype(self.schema.dtype).reshape(shape)  # (rows, columns) -> stored
        return values, present, known.reshape(shape) if known.any() else None

    def _numbers(self, column: FrameColumn | None, rows: slice) -> npt.NDArray[np.float64]:
        if column is None:
            return np.full(rows.stop - rows.start, np.nan)
        numbers, required = column.numbers(rows), modality(self.schema.kind).columns.required
        if required is not None and (wrong := ~required.holds(numbers) & ~np.isnan(numbers)).any():
            row = int(wrong.argmax())
            raise InputError(f"{column.at(rows.start + row)}: {numbers[row]:g} is {required.otherwise}")
        return numbers

    def _bits(self, column: FrameColumn | None, rows: slice) -> npt.NDArray[np.float64]:
        if column is None or column.sort not in ("text",):
            numbers = self._numbers(column, rows)
            wrong = ~np.isin(numbers, (0, 1)) & ~np.isnan(numbers)
        else:
            codes, texts = column.words(rows)
            meaning = dict.fromkeys(YES, 1.0) | dict.fromkeys(NO, 0.0)
            numbers = np.array([*(meaning.get(text.casefold(), np.inf) for text in texts), np.nan])[codes]
            wrong = np.isinf(numbers)
        if column is not None and wrong.any():
            where = column.at(rows.start + int(wrong.argmax()))
            raise InputError(f"{where}: is not a bit (1 or 0, true or false, yes or no)")
        return numbers

    def _texts(self, rows: slice) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return samples that the kind reads from texts, and which rows have one."""
        column, count, schema = self.columns[0], rows.stop - rows.start, self.schema
        values = np.zeros((count, *schema.event_shape), schema.dtype)
        if column is None:
            return values, np.zeros(count, bool)
        codes, texts = column.words(rows)
        for code, text in enumerate(texts):
            at = np.flatnonzero(codes == code)
            if not len(at):
                continue
            if text in self._read:
                sample = self._read[text]
            else:
                try:
                    sample = schema.pack(modality(schema.kind).read(schema, text)[None])[0].numpy()
                except (InputError, ValueError) as error:
                    raise InputError(f"{column.at(rows.start + int(at[0]))}: {error}") from None
                if sample.size <= _KEPT:
                    self._read[text] = sample
            values[at] = sample
        return values, codes >= 0


def cells(column: FrameColumn, schema: Schema, values: Array) -> list[Any]:
    """Return numbers or texts as a column holds them: as numbers, booleans, its own words, or its categories.

    Args:
        column: of the table.
        schema: of the modality.
        values: of this column, `(filled,)` numbers; or texts.
    """
    if modality(schema.kind).columns.cells is Cells.TEXTS:
        return _in_words(column, [str(value) for value in values])
    if column.sort == "bool":
        return [bool(value) for value in values]
    numbers = [float(np.float64(str(np.float32(value)))) for value in values]
    whole = np.dtype(schema.dtype).kind in "iu"
    if column.sort != "text":
        return [int(number) for number in numbers] if whole else numbers
    if modality(schema.kind).columns.cells is Cells.BITS:
        held = {text.casefold(): text for text in column.words()[1]}
        words = [next((held[word] for word in sorted(side) if word in held), None) for side in (NO, YES)]
        no, yes = words[0] or "0", words[1] or "1"
        return _in_words(column, [yes if number else no for number in numbers])
    return [str(int(number)) if whole else repr(number) for number in numbers]


def _in_words(column: FrameColumn, texts: list[str]) -> list[Any]:
    """Return texts as the values that a column has for them, such as its categories."""
    from pyarrow import types

    if types.is_dictionary((array := column.array()).type):
        held: Mapping[str, Any] = {str(value).strip(): value for value in array.dictionary.to_pylist()}
        return [held.get(text, text) for text in texts]
    if column.sort == "number":
        return [float(text) for text in texts]
    return [text == "True" for text in texts] if column.sort == "bool" else list(texts)
