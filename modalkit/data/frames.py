"""Tables in memory (pandas, polars, Arrow), read column by column, and the same tables with some cells filled.

Every column is read through Arrow, which knows the types of all of them and mostly takes no copy. pandas and polars are
used only by the tables that are given; they are never imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.errors import InputError

Array = npt.NDArray[Any]
Filled = Mapping[str, tuple[Array, Sequence[Any]]]
"""What cells of a table become: by column the rows, int64 `(filled,)`, and as many numbers, booleans or texts."""


class Frame:
    """A table in memory.

    Args:
        table: of pandas, polars or Arrow; it is never changed.

    Attributes:
        names: of the columns, as texts.
        rows: how many there are.

    Raises:
        InputError: it has no rows, columns of one name, or headers of several levels.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        self.names: list[str] = [str(name) for name in self._labels()]
        self.rows: int = len(table)
        self._columns: dict[str, FrameColumn] = {}
        if twice := [name for place, name in enumerate(self.names) if name in self.names[:place]]:
            raise InputError(f"data: two columns are called '{twice[0]}'; rename one of them")
        if not self.names:
            raise InputError("data: the table has no columns")
        if not self.rows:
            raise InputError(f"data: the table has no rows; it has the columns {', '.join(self.names[:9])}")

    def _labels(self) -> list[Any]:
        """Return the columns' names as the table has them."""
        return list(self.table.column_names)

    def _arrow(self, place: int, rows: slice | Array) -> Any:
        """Return cells of a column as an Arrow array, missing values as nulls."""
        import pyarrow as arrow

        column = self.table.column(place)
        return column[rows] if isinstance(rows, slice) else column.take(arrow.array(rows))

    def row(self, row: int) -> str:
        """Name a row as the user finds it."""
        return f"row {row}"

    def column(self, name: str) -> FrameColumn:
        """Return a column.

        Raises:
            InputError: its values are of several types.
        """
        if name not in self._columns:
            place = self.names.index(name)
            self._columns[name] = FrameColumn(name, self, place, _sort(self.read(place, slice(0, self.rows))))
        return self._columns[name]

    def read(self, place: int, rows: slice | Array) -> Any:
        """Return cells of a column as one Arrow array.

        Args:
            place: of the column.
            rows: which cells, as a slice or as int64 indices.

        Raises:
            InputError: its values are of several types.
        """
        import pyarrow as arrow

        try:
            column = self._arrow(place, rows)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
            raise InputError(self._mixed(place, " ".join(str(error).split()))) from None
        return column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column

    def _mixed(self, place: int, said: str) -> str:
        return f"data: column '{self.names[place]}' cannot be used: {said}"

    def filled(self, cells: Filled) -> Any:
        """Return the table with some cells filled; everything else, types and order of the columns included, stays."""
        import pyarrow as arrow

        table = self.table
        for name, (rows, values) in cells.items():
            place = self.names.index(name)
            field, old = table.schema.field(place), table.column(place)
            if arrow.types.is_null(old.type):  # a column without any value takes the type of what fills it
                old = old.cast(arrow.array(values[:1]).type)
                field = field.with_type(old.type)
            new: list[Any] = [None] * self.rows
            for row, value in zip(rows.tolist(), values, strict=True):
                new[row] = value
            given = np.zeros(self.rows, bool)
            given[rows] = True
            plain = old.type.value_type if arrow.types.is_dictionary(old.type) else old.type
            both = arrow.compute.if_else(arrow.array(given), _array(new, plain), old.combine_chunks().cast(plain))
            table = table.set_column(place, field, both.cast(old.type) if both.type != old.type else both)
        return table


def _array(values: Sequence[Any], kind: Any) -> Any:
    """Return Python values as an Arrow array of a type."""
    import pyarrow as arrow

    if arrow.types.is_decimal(kind) or arrow.types.is_float16(kind):
        return arrow.array(values, arrow.float64()).cast(kind, safe=False)
    if arrow.types.is_integer(kind):
        values = [None if value is None else round(value) for value in values]
    return arrow.array(values, kind)


class _Pandas(Frame):
    """A `pandas.DataFrame`."""

    def _labels(self) -> list[Any]:
        if self.table.columns.nlevels > 1:
            first = tuple(self.table.columns[0])
            raise InputError(
                f"data: the columns have names of {self.table.columns.nlevels} levels, such as {first!r}; give each a "
                f"name of one, such as frame.columns = ['_'.join(map(str, name)) for name in frame.columns]"
            )
        return list(self.table.columns)

    def _arrow(self, place: int, rows: slice | Array) -> Any:
        import pyarrow as arrow

        return arrow.array(self.table.iloc[rows, place], from_pandas=True)

    def row(self, row: int) -> str:
        return f"row {self.table.index[row]!r}"

    def _mixed(self, place: int, said: str) -> str:
        values, seen = self.table.iloc[:, place], dict[str, int]()
        missing = values.isna().to_numpy()
        for row, value in enumerate(values):
            if not missing[row]:
                seen.setdefault(type(value).__name__, row)
            if len(seen) > 1:
                (one, first), (other, second) = seen.items()
                return (
                    f"data: column '{self.names[place]}' holds values of several types: {one} in {self.row(first)} "
                    f"and {other} in {self.row(second)}; convert it to one type, such as frame["
                    f"{self.table.columns[place]!r}].astype(str)"
                )
        return super()._mixed(place, said)

    def filled(self, cells: Filled) -> Any:
        made = self.table.copy()
        for name, (rows, values) in cells.items():
            place = self.names.index(name)
            column = made.iloc[:, place].copy()
            if isinstance(values[0], str) and getattr(column.dtype, "kind", "") in "biufc":
                column = column.astype(object)  # a column of numbers without any value, whose model has texts
            if hasattr(column, "cat"):
                column = column.cat.add_categories(sorted(set(values) - set(column.cat.categories)))
            whole = getattr(column.dtype, "kind", "") in "iu" and not isinstance(column.dtype, np.dtype)
            given: Any = [round(value) for value in values] if whole else list(values)
            column.iloc[rows] = np.array(given, column.dtype) if _is_number(column.dtype) else given
            made.isetitem(place, column)
        return made


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


class _Polars(Frame):
    """A `polars.DataFrame`."""

    def _labels(self) -> list[Any]:
        return list(self.table.columns)

    def _arrow(self, place: int, rows: slice | Array) -> Any:
        return self.table.to_series(place)[rows].to_arrow()

    def filled(self, cells: Filled) -> Any:
        made = sys.modules["polars"].from_arrow(Frame(self.table.to_arrow()).filled(cells))
        return self.table.with_columns([made.get_column(name).cast(self.table.schema[name]) for name in cells])


def as_frame(table: Any) -> Frame | None:
    """Return a table in memory as a `Frame`; None if it is no table.

    Args:
        table: anything.
    """
    kinds = {("pandas", "DataFrame"): _Pandas, ("polars", "DataFrame"): _Polars, ("pyarrow", "Table"): Frame}
    for parent in type(table).__mro__:
        module, name = parent.__module__.partition(".")[0], parent.__name__
        if found := kinds.get((module, name)):
            return found(table)
    return None


def _sort(array: Any) -> str:
    """Return what the cells of a column are; see `FrameColumn.sort`."""
    from pyarrow import types

    kind = array.type
    if types.is_null(kind) or int(array.is_null(nan_is_null=types.is_floating(kind)).sum().as_py() or 0) == len(array):
        return "nothing"
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return "text" if texts or types.is_dictionary(kind) else str(kind)


@dataclass(frozen=True)
class FrameColumn:
    """One column of a table; its cells are read anew at each call, so that no copy of the table is kept.

    Attributes:
        name: its name.
        frame: the table.
        place: its place in the table.
        sort: what its cells are: ``number``, ``bool``, ``text``, ``nothing``, or the name of a type that is none of
            these. A dictionary (a categorical column) is ``text``, whatever its categories are.
    """

    name: str
    frame: Frame
    place: int
    sort: str

    def array(self, rows: slice | Array | None = None) -> Any:
        """Return cells as an Arrow array; all by default."""
        return self.frame.read(self.place, slice(0, self.frame.rows) if rows is None else rows)

    def missing(self, rows: slice | None = None) -> npt.NDArray[np.bool_]:
        """Return which cells are missing, `(rows,)`: nulls, and NaN in a column of numbers."""
        from pyarrow import types

        part = self.array(rows)
        gone = part.is_null(nan_is_null=types.is_floating(part.type))
        return np.array(gone.to_numpy(zero_copy_only=False), bool)

    def numbers(self, rows: slice) -> npt.NDArray[np.float64]:
        """Return cells of numbers or booleans, or of texts that are numbers, NaN where missing, `(rows,)`.

        Args:
            rows: with a start and an end.

        Raises:
            InputError: a number is infinite, or a text is none.
        """
        import pyarrow as arrow

        if self.sort == "text":
            codes, texts = self.words(rows)
            numbers = [_number(text) for text in texts]
            if None in numbers:
                wrong = numbers.index(None)
                where = self.at(rows.start + int((codes == wrong).argmax()))
                raise InputError(f"{where}: '{texts[wrong]}' is not a number; correct it, or make it missing")
            values = np.array([*numbers, np.nan], np.float64)[codes]
        else:
            part = self.array(rows)
            part = part.cast(arrow.uint8()) if arrow.types.is_boolean(part.type) else part
            values = part.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        if (infinite := np.isinf(values)).any():
            where = self.at(rows.start + int(infinite.argmax()))
            raise InputError(f"{where}: is infinite; correct it, or make it missing")
        return np.asarray(values, np.float64)

    def words(self, rows: slice | Array | None = None) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return cells as texts: for each an index, `(rows,)`, -1 where it is missing or blank, and the texts."""
        from pyarrow import types

        part = self.array(rows)
        if types.is_null(part.type):
            return np.full(len(part), -1), []
        coded = part if types.is_dictionary(part.type) else part.dictionary_encode()
        codes = coded.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False)
        place: dict[str, int] = {}
        into = [place.setdefault(t, len(place)) if t else -1 for t in map(_text, coded.dictionary.to_pylist())]
        return np.array([*into, -1], np.int64)[codes], list(place)

    def at(self, row: int) -> str:
        """Name a cell for a message."""
        return f"data: column '{self.name}', {self.frame.row(row)}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: Any) -> str:
    """Return a value as a text, a whole float as a whole number; "" for a missing one."""
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return "" if value is None else str(value).strip()
