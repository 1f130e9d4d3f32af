"""One column of a table in memory: what its cells are, and the cells as numbers or texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modalkit.errors import InputError

if TYPE_CHECKING:
    from modalkit.data.frames import Frame

Array = npt.NDArray[Any]


def sort_of(array: Any) -> str:
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
