"""Tables in memory (pandas, polars, Arrow), read column by column, and the same tables with some cells filled.

Every column is read through Arrow, which knows the types of all of them and mostly takes no copy. pandas and polars are
used only by the tables that are given; they are never imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.data.frame_columns import FrameColumn, sort_of
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
            self._columns[name] = FrameColumn(name, self, place, sort_of(self.read(place, slice(0, self.rows))))
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

    def labels(self, name: str | None) -> Any:
        """Return what tells the rows apart, as one Arrow array: a column, or the table's index.

        Args:
            name: of the column or the index; None: the index.

        Raises:
            InputError: there is no such column and no index, or its values are of several types.
        """
        if name is None:
            raise InputError("data: has no index with ids; name the column that holds them, such as id='patient'")
        if name not in self.names:
            raise InputError(f"data: has no column '{name}' with ids; it has {', '.join(self.names[:9])}")
        return self.read(self.names.index(name), slice(0, self.rows))

    def placed(self, rows: Array, labels: Any, name: str | None) -> Any:
        """Return the table with its rows elsewhere, and with the rows' labels as first column or as index.

        Args:
            rows: for each row of the result one of the table, int64 `(rows,)`; -1 for a row of missing cells.
            labels: of the result's rows, an Arrow array.
            name: of the labels, see `labels`; a column of this name is left out.
        """
        import pyarrow as arrow

        columns = [place for place, title in enumerate(self.names) if title != name]
        moved = self.table.select(columns).take(arrow.array(rows, mask=rows < 0))
        return moved.add_column(0, name, labels)

    def beside(self, tables: Sequence[Any]) -> Any:
        """Return a table that `placed` made, with the other columns of further ones."""
        first, *others = tables
        for other in others:
            for place in range(1, other.num_columns):
                first = first.append_column(other.schema.field(place), other.column(place))
        return first

    def _mixed(self, place: int, said: str) -> str:
        return f"data: column '{self.names[place]}' cannot be used: {said}"

    def _takes_another_type(self, name: str, kind: Any, value: Any) -> bool:
        """Tell whether a column without any value has a type, an Arrow type, that cannot hold a value."""
        from pyarrow import types

        unfit = types.is_null(kind) or (isinstance(value, str) and types.is_primitive(kind))
        return unfit and self.column(name).sort == "nothing"

    def _types(self, place: int, values: Sequence[Any]) -> str:
        """Say of which two types the values of a column are, None where missing; "" if all are of one."""
        seen: dict[str, int] = {}
        for row, value in enumerate(values):
            if value is not None:
                seen.setdefault(type(value).__name__, row)
            if len(seen) > 1:
                (one, first), (other, second) = seen.items()
                where = f"{one} in {self.row(first)} and {other} in {self.row(second)}"
                return f"data: column '{self.names[place]}' holds values of several types: {where}"
        return ""

    def filled(self, cells: Filled) -> Any:
        """Return the table with some cells filled; everything else, types and order of the columns included, stays."""
        import pyarrow as arrow

        table = self.table
        for name, (rows, values) in cells.items():
            place = self.names.index(name)
            field, old = table.schema.field(place), table.column(place)
            plain = old.type.value_type if arrow.types.is_dictionary(old.type) else old.type
            if self._takes_another_type(name, plain, values[0]):
                plain = arrow.array(values[:1]).type
                field, old = field.with_type(plain), arrow.chunked_array([arrow.nulls(self.rows, plain)])
            new: list[Any] = [None] * self.rows
            for row, value in zip(rows.tolist(), values, strict=True):
                new[row] = value
            given = np.zeros(self.rows, bool)
            given[rows] = True
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

    def labels(self, name: str | None) -> Any:
        import pyarrow as arrow

        if name is not None and name in self.names:
            return super().labels(name)
        index = self.table.index
        if index.nlevels > 1:
            raise InputError(f"data: has an index of {index.nlevels} levels; ids are one column, named by id='patient'")
        if name is not None and name != index.name:
            raise InputError(f"data: has no column or index '{name}' with ids; it has {', '.join(self.names[:9])}")
        if type(index).__name__ == "RangeIndex" and index.name is None:
            raise InputError(
                "data: has no ids, because its index counts the rows; name the column that holds them, such as "
                "id='patient', or make it the index with frame.set_index('patient')"
            )
        try:
            return arrow.array(index, from_pandas=True)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise InputError(f"data: the index holds ids of several types: {error}") from None

    def placed(self, rows: Array, labels: Any, name: str | None) -> Any:
        place = self.names.index(name) if name is not None and name in self.names else None
        columns = [at for at in range(len(self.names)) if at != place]
        title = self.table.index.name if place is None else self.table.columns[place]
        made = self.table.iloc[:, columns].reset_index(drop=True)
        if (rows < 0).any():  # whole numbers and booleans stay what they are: a missing one would make them floats
            made = made.astype({one: nullable for one in made if (nullable := _nullable(made[one].dtype))})
        made = made.reindex(rows)  # no row is called -1
        return made.set_axis(labels.to_pandas(), axis=0).rename_axis(title)

    def beside(self, tables: Sequence[Any]) -> Any:
        return sys.modules["pandas"].concat(list(tables), axis=1)

    def _mixed(self, place: int, said: str) -> str:
        values = self.table.iloc[:, place]
        missing = values.isna().to_numpy()
        if found := self._types(place, [None if gone else value for value, gone in zip(values, missing, strict=True)]):
            return f"{found}; convert it to one type, such as frame[{self.table.columns[place]!r}].astype(str)"
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


def _nullable(dtype: Any) -> str:
    """Return the pandas type of the same values, missing ones included, for whole numbers and booleans; else ""."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biu":
        return ""
    return "boolean" if dtype.kind == "b" else f"{'Int' if dtype.kind == 'i' else 'UInt'}{8 * dtype.itemsize}"


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


class _Polars(Frame):
    """A `polars.DataFrame`."""

    def _labels(self) -> list[Any]:
        return list(self.table.columns)

    def _arrow(self, place: int, rows: slice | Array) -> Any:
        column = self.table.to_series(place)
        if str(column.dtype) == "Object":
            found = self._types(place, column.to_list()) or f"data: column '{self.names[place]}' holds Python objects"
            raise InputError(f"{found}; make it a column of one type of polars, or leave it out")
        return column[rows].to_arrow()

    def placed(self, rows: Array, labels: Any, name: str | None) -> Any:
        polars = sys.modules["polars"]
        chosen = polars.Series([row if row >= 0 else None for row in rows.tolist()], dtype=polars.Int64)
        moved = self.table.select(polars.all().exclude(name).gather(chosen))
        return moved.insert_column(0, polars.Series(name, labels))

    def beside(self, tables: Sequence[Any]) -> Any:
        first, *others = tables
        return first.hstack([column for other in others for column in other.get_columns()[1:]])

    def filled(self, cells: Filled) -> Any:
        if not cells:
            return self.table.clone()
        made = sys.modules["polars"].from_arrow(Frame(self.table.select(list(cells)).to_arrow()).filled(cells))
        return self.table.with_columns(
            made[name]  # a column without any value takes the type of what fills it, if its own cannot hold that
            if self._takes_another_type(name, self.read(self.names.index(name), slice(0, 0)).type, values[0])
            else made[name].cast(self.table.schema[name])
            for name, (_, values) in cells.items()
        )


def frame_of(table: Any) -> Frame | None:
    """Return one table in memory as a `Frame`; None if it is no table.

    Args:
        table: anything.
    """
    kinds = {("pandas", "DataFrame"): _Pandas, ("polars", "DataFrame"): _Polars, ("pyarrow", "Table"): Frame}
    refused = {
        ("polars", "LazyFrame"): "call its collect() first",
        ("pyarrow", "RecordBatch"): "give pyarrow.Table.from_batches([batch])",
        ("pyarrow", "RecordBatchReader"): "call its read_all() first",
    }
    for parent in type(table).__mro__:
        module, name = parent.__module__.partition(".")[0], parent.__name__
        if remedy := refused.get((module, name)):
            raise InputError(f"data: is a {name}; {remedy}")
        if found := kinds.get((module, name)):
            return found(table)
    return None
