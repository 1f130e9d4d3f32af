"""Reading what scikit-learn's users pass as X: arrays and data frames, as columns of cells."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import validate_data

from modalkit.errors import InputError

NUMBER, BIT, CATEGORY = "number", "bit", "category"
"""Sorts of columns."""


class TableError(InputError, ValueError):
    """A table, a target or a parameter cannot be used as it is; a `ValueError`, as scikit-learn expects."""


@dataclass(frozen=True)
class Cells:
    """One column of a table.

    Attributes:
        label: its label in the table: a column's name, or its number.
        values: its cells, `(rows,)`.
        missing: which are missing, bool `(rows,)`.
        sort: `NUMBER`, `BIT` (booleans) or `CATEGORY`; empty if all cells are missing and could hold anything.
        categories: those that the table declares, in order; None if it declares none.
    """

    label: Hashable
    values: npt.NDArray[Any]
    missing: npt.NDArray[np.bool_]
    sort: str
    categories: tuple[Any, ...] | None = None

    def numbers(self) -> npt.NDArray[np.float64]:
        """Return the cells as numbers, `(rows,)`, NaN where missing."""
        found = np.full(len(self.values), np.nan)
        found[~self.missing] = self.values[~self.missing].astype(np.float64)
        return found


@dataclass(frozen=True)
class Table:
    """A table as it was passed.

    Attributes:
        columns: its columns, in order.
        frame: the pandas DataFrame, if it is one.
        array: the array, if it is none.
    """

    columns: list[Cells]
    frame: Any = None
    array: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.columns[0].values)

    def filled(self, values: Mapping[int, npt.NDArray[Any]]) -> Any:
        """Return a copy of the table with its missing cells replaced.

        Args:
            values: by place of a column one value for each of its missing cells.
        """
        if self.frame is None:
            assert self.array is not None
            out = self.array.copy()
            for place, new in values.items():
                out[self.columns[place].missing, place] = new
            return out
        frame = self.frame.copy()
        for place, new in values.items():
            frame.isetitem(place, _replaced(frame.iloc[:, place], self.columns[place].missing, new))
        return frame

    def joined(self, filled: Any, more: Mapping[str, npt.NDArray[np.bool_]]) -> Any:
        """Return a table with further columns of booleans; in an array of numbers they are 0 and 1."""
        if self.frame is None:
            added = [column[:, None].astype(filled.dtype) for column in more.values()]  # (rows,) -> (rows, 1)
            return np.concatenate([filled, *added], 1)
        return filled.assign(**more)


def read_table(estimator: Any, X: Any, *, reset: bool) -> Table:
    """Return X as columns, and let scikit-learn check the number and the names of its features.

    Args:
        estimator: whose ``n_features_in_`` and ``feature_names_in_`` are set or compared.
        X: an array or a list of rows, a pandas DataFrame, or another table with a ``to_pandas`` method.
        reset: whether X is what the estimator is fitted to.

    Raises:
        ValueError: X is no table, or has other features than the estimator was fitted to.
        TableError: a column cannot be used; the message names it.
    """
    if hasattr(X, "to_pandas"):
        X = X.to_pandas()
    least = 2 if reset else 1
    if not (hasattr(X, "columns") and hasattr(X, "iloc")):
        array = validate_data(
            estimator, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=least
        )
        return Table([_of_array(array, place) for place in range(array.shape[1])], array=array)
    _check_frame(X, least)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return Table([_of_series(label, X.iloc[:, place]) for place, label in enumerate(X.columns)], frame=X)


def _check_frame(frame: Any, least: int) -> None:
    """Raise `TableError` for a frame whose columns have no names of their own, or that has too few rows."""
    if frame.columns.nlevels > 1:
        raise TableError("X: its columns are a MultiIndex; give each column one name, such as '_'.join of its levels")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise TableError(f"X: there is more than one column '{twice}'; rename or drop one")
    if not frame.shape[1]:
        raise TableError(f"X: Found array with 0 feature(s) (shape={frame.shape}) while a minimum of 1 is required.")
    if len(frame) < least:
        raise TableError(f"X: Found array with {len(frame)} sample(s) while a minimum of {least} is required.")


def _of_array(array: npt.NDArray[Any], place: int) -> Cells:
    values = array[:, place]
    if values.dtype.kind in "iuf":
        return Cells(place, values, np.isnan(values) if values.dtype.kind == "f" else _none(values), NUMBER)
    if values.dtype.kind == "b":
        return Cells(place, values, _none(values), BIT)
    if values.dtype.kind == "U":
        return Cells(place, values, _none(values), CATEGORY)
    return _of_objects(place, values, f"column {place}")


def _of_series(label: Hashable, series: Any) -> Cells:
    """Return a frame's column by its type; columns of objects by what they hold."""
    import pandas as pd

    where, dtype = f"column '{label}'", series.dtype
    missing = series.isna().to_numpy(bool)
    if isinstance(dtype, pd.CategoricalDtype):
        declared = tuple(dtype.categories.tolist())
        return Cells(label, series.astype(object).to_numpy(), missing, CATEGORY, declared)
    if pd.api.types.is_bool_dtype(dtype):
        return Cells(label, series.astype(object).to_numpy(), missing, BIT)
    if pd.api.types.is_numeric_dtype(dtype) and dtype.kind in "iuf":
        values = series.astype(object).to_numpy() if missing.any() and dtype.kind != "f" else series.to_numpy()
        return _finite(Cells(label, values, missing, NUMBER), where)
    if pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
        return _of_objects(label, series.astype(object).to_numpy(), where)
    raise TableError(f"{where}: holds {dtype}, which cannot be used; convert it to numbers or texts, or drop it")


def _of_objects(label: Hashable, values: npt.NDArray[Any], where: str) -> Cells:
    """Return a column of Python objects: booleans, numbers or texts, and nothing else.

    Raises:
        TableError: it holds anything else, or a mixture.
    """
    import pandas as pd

    missing = np.array([value is None or value is pd.NA or _is_nan(value) for value in values], bool)
    sorts: dict[str, Any] = {}
    for value in values[~missing]:
        sorts.setdefault(_sort(value), value)
    if "" in sorts:
        value = sorts[""]
        raise TableError(
            f"{where}: argument must be a string or a real number; a {type(value).__name__} cannot be used"
        )
    if len(sorts) > 1:
        examples = " and ".join(f"a {sort} ({value!r})" for sort, value in sorts.items())
        raise TableError(f"{where}: holds {examples}; convert its cells to one type")
    cells = Cells(label, values, missing, next(iter(sorts), ""))
    return _finite(cells, where) if cells.sort == NUMBER else cells


def _replaced(series: Any, missing: npt.NDArray[np.bool_], new: npt.NDArray[Any]) -> Any:
    """Return a frame's column with other values in its missing cells, in its own type."""
    import pandas as pd

    out, dtype = series.copy(), series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        if unknown := [value for value in dict.fromkeys(new) if value not in dtype.categories]:
            out = out.cat.add_categories(unknown)
    elif pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
        numbers = new.astype(np.float64)
        whole = dtype.kind in "iu"
        new = np.rint(numbers).astype(np.int64) if whole else numbers.astype(getattr(dtype, "numpy_dtype", dtype))
    out.iloc[np.flatnonzero(missing)] = new
    return out


def _sort(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return BIT
    if isinstance(value, numbers.Real):
        return NUMBER
    return CATEGORY if isinstance(value, str) else ""


def _is_nan(value: Any) -> bool:
    return isinstance(value, numbers.Real) and bool(value != value)


def _none(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.zeros(len(values), bool)


def _finite(cells: Cells, where: str) -> Cells:
    infinite = np.isinf(cells.numbers())
    if infinite.any():
        raise TableError(f"{where}: row {int(infinite.argmax())} holds infinity; give a finite number, or NaN")
    return cells


def rows_of(table: Any, rows: Sequence[int] | npt.NDArray[Any]) -> Any:
    """Return some rows of an array, a list or a DataFrame."""
    if hasattr(table, "iloc"):
        return table.iloc[rows]
    return np.asarray(table)[rows]
