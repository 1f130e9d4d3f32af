"""What users give as the values of a modality, as plain arrays; their own objects never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modalkit.errors import InputError

Array = npt.NDArray[Any]
Plain = Array | list[Any]
"""An array, which may be a masked one, or a list of texts, pictures or whatever a kind reads, None where absent."""


def columns_of(values: Any) -> Mapping[str, Any]:
    """Return a mapping from names to values; of a table its columns.

    Raises:
        InputError: a table has two columns of one name.
    """
    if isinstance(values, Mapping) or not hasattr(values, "columns"):
        found: Mapping[str, Any] = values
        return found
    names = list(values.columns)
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"values: two columns are called '{twice[0]}'; rename one of them")
    return {name: values[name] for name in names}


def plain_values(name: str, values: Any) -> Plain:
    """Return the values of a modality as an array, or as a list if they are no numbers.

    Args:
        name: the modality.
        values: an array, tensor or list; or columns of a pandas, polars or Arrow table, whose missing values become
            masked.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(values, Tensor):
        array: Array = values.detach().cpu().numpy()
        return array
    if isinstance(values, (list, tuple)):
        return list(values)
    if not isinstance(values, np.ndarray):
        return _of_column(name, values)
    return values.tolist() if values.dtype.kind in "OU" and values.ndim == 1 else values


def rows_masked(name: str, values: Plain) -> npt.NDArray[np.bool_]:
    """Return which rows have no value, bool `(rows,)`: the masked ones of a masked array, and None in a list.

    Raises:
        InputError: a row is masked in part.
    """
    if isinstance(values, list):
        return np.array([value is None for value in values], bool)
    if not isinstance(values, np.ma.MaskedArray):
        return np.zeros(len(values), bool)
    mask = np.ma.getmaskarray(values).reshape(len(values), -1)  # (rows, *event_shape) -> (rows, values of a sample)
    partly = mask.any(1) & ~mask.all(1)
    if partly.any():
        raise InputError(
            f"modality '{name}': row {int(partly.argmax())} is masked in part; mask all of its values, or none"
        )
    return np.asarray(mask.all(1))


def _of_column(name: str, values: Any) -> Plain:
    """Return the values of columns of a table, or of anything else that NumPy can read."""
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.ndim == 0:
        raise InputError(f"modality '{name}': a {type(values).__name__}; give an array or a list with all rows")
    missing = _missing(values, array)
    if array.dtype.kind not in "OU":
        return np.ma.MaskedArray(array, missing) if missing.any() else array
    held = array[~missing]
    if all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in held.flat):
        numbers = np.zeros(array.shape, np.array(held.tolist()).dtype if len(held) else np.float64)
        numbers[~missing] = held
        return np.ma.MaskedArray(numbers, missing) if missing.any() else numbers
    if array.ndim > 1:
        raise InputError(f"modality '{name}': columns of texts and numbers; give one column, or only numbers")
    return [None if gone else value for value, gone in zip(array.tolist(), missing, strict=True)]


def _missing(values: Any, array: Array) -> npt.NDArray[np.bool_]:
    """Return which cells of columns are missing, of the shape of `array`."""
    for test in ("isna", "is_null"):  # pandas; polars and Arrow
        if hasattr(values, test):
            return np.asarray(getattr(values, test)(), dtype=bool)
    if array.dtype.kind == "f":
        return np.isnan(array)
    if array.dtype.kind == "O":
        return np.array([value is None for value in array.flat], bool).reshape(array.shape)
    return np.zeros(array.shape, bool)
