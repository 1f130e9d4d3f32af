"""Real numbers of any unit: by what they are standardised, and whether they need it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modalkit.errors import InputError
from modalkit.plugin import Outcome, Schema
from modalkit.registry import modality

if TYPE_CHECKING:
    from torch import Tensor

    from modalkit.data.reading import Dataset

_log = logging.getLogger(__name__)

_COARSE = 0.01
"""Warn if float32 rounding exceeds this fraction of a column's standard deviation."""
_FAR, _NARROW, _WIDE = 5.0, 0.1, 10.0
"""Numbers are far from standardised if a mean is further from 0, or a standard deviation smaller or larger."""
_READ = 10_000
_JITTER = 1e-12
"""Numbers that differ by less than this fraction of the largest, and are not whole, are one number computed twice."""
Numbers = npt.NDArray[Any]


def takes_standardization(schema: Schema) -> bool:
    """Tell whether a schema can standardise its numbers, as its kind declares, and does not say by what."""
    known = "standardize" in type(schema).model_fields and getattr(schema, "standardize", None) is None
    return known and modality(schema.kind).columns.standardized


def far_from_standard(values: Numbers) -> str | None:
    """Return what numbers look like if they are far from standardised, else None.

    They are if the mean of a column lies more than 5 from 0, or if its standard deviation is above 10, or below 0.1
    but not 0.

    Args:
        values: `(rows, size)`, finite.

    >>> far_from_standard(np.array([[0.0, 990.0], [1.0, 1010.0]]))
    'numbers with a mean of 1e+03 and a standard deviation of 10'
    >>> far_from_standard(np.array([[0.0], [1.0]])) is None
    True
    """
    if not values.size:
        return None
    loc, scale = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    off = np.maximum(np.abs(loc) / _FAR, scale / _WIDE)
    off = np.maximum(off, np.where(scale > 0, _NARROW / np.where(scale > 0, scale, 1), 0))
    worst = int(off.argmax())
    if off[worst] <= 1:
        return None
    return f"numbers with a mean of {loc[worst]:.3g} and a standard deviation of {scale[worst]:.3g}"


def too_alike(values: Numbers) -> npt.NDArray[np.bool_]:
    """Return which columns hold different numbers that float32, in which they are stored, cannot tell apart, `(size,)`.

    It cannot if rounding moves a number by more than half of the column's standard deviation.

    Args:
        values: `(rows, size)`, finite.

    >>> too_alike(np.array([[2.0**53, 1.7e9, 0.1], [2.0**53 + 2, 1.7e9 + 86400, 0.1]])).tolist()
    [True, False, False]
    """
    if not len(values) or (values.dtype.kind == "f" and values.dtype.itemsize <= 4):
        return np.zeros(values.shape[1:], bool)
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers too large for float32 have an error of their own
        error = np.abs(wide - wide.astype(np.float32)).max(0)
    constant = (wide == wide[0]).all(0) | (_jitters(wide) & (np.floor(wide) != wide).any(0))
    return np.asarray(~constant & np.isfinite(error) & (error > 0.5 * wide.std(0)), bool)


def _jitters(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which columns of `(rows, size)` differ by no more than errors of rounding do, `(size,)`."""
    tiny = np.finfo(np.float32).tiny
    return np.asarray(values.std(0) <= np.maximum(_JITTER * np.abs(values).max(0), tiny))


def check_told_apart(values: Numbers, columns: Sequence[str]) -> None:
    """Raise `InputError` for columns whose numbers differ by less than float32 keeps; see `too_alike`.

    Args:
        values: `(rows, size)`, finite.
        columns: names of the numbers.
    """
    lost = too_alike(values)
    if lost.any():
        place = int(lost.argmax())
        low, high = (f"{float(end(values[:, place])):.17g}" for end in (np.min, np.max))
        raise InputError(f"'{columns[place]}' has numbers from {low} to {high}, {TOO_ALIKE}")


TOO_ALIKE = (
    "which single precision, with its 7 digits, stores as one number; subtract a constant first, such as the least, or "
    "leave them out if they are ids"
)


def standardized(name: str, schema: Schema, values: Numbers, always: bool | None) -> Schema:
    """Return the schema with the `standardize` that follows from its numbers, if its kind declares that it has one.

    Args:
        name: the modality.
        schema: as the user gave it; one that says by what it standardises is returned as it is.
        values: its stored samples in the training rows that have it, `(rows, *event_shape)`.
        always: whether to standardise; None: only numbers that are `far_from_standard`.
    """
    if always is False or not len(values) or not takes_standardization(schema):
        return schema
    flat = values.reshape(len(values), -1).astype(np.float64)  # (rows, *event_shape) -> (rows, size)
    looks = far_from_standard(flat)
    if looks is None and not always:
        return schema
    numbers = schema.part_names or [f"number {place + 1}" for place in range(flat.shape[1])]
    found = standardization(name, flat, np.ones(len(flat), bool), numbers)
    if looks is not None and always is None:
        _log.info(f"{name}: has {looks}, so networks see standardised numbers; what is stored keeps its unit")
    return with_standardize(schema, found)


def unusual(dataset: Dataset, schemas: Mapping[str, Schema], rows: Tensor) -> str:
    """Describe the real-valued modalities whose numbers, as networks see them, are far from standardised.

    Args:
        dataset: where the rows are.
        schemas: the modalities, as the networks see them.
        rows: the training rows, int64 `(rows,)`; only the first 10,000 are read.

    Returns:
        A sentence that says what to do, or the empty string.
    """
    found, fields = list[str](), False
    for name, schema in schemas.items():
        if modality(schema.kind).outcome is not Outcome.REAL or schema.dtype != "float32":
            continue
        flat = schema.unpack(_present(dataset, name, rows)).flatten(1).double()  # (rows, size)
        if looks := far_from_standard(flat.numpy()):
            found.append(f"'{name}' has {looks}")
            fields = fields or takes_standardization(schema)
    if not found:
        return ""
    how = "give `standardize` with loc and scale in the recipe, or " if fields else ""
    return (
        f"Numbers that are far from standardised cause this: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}; "
        f"{how}subtract the mean and divide by the standard deviation when the dataset is made."
    )


def missing_standardization(dataset: Dataset, name: str, schema: Schema, rows: Tensor) -> dict[str, list[float]] | None:
    """Return the `standardize` that a recipe should have for a modality whose dataset has none; None if it needs none.

    Args:
        dataset: where the rows are.
        name: the modality.
        schema: as the dataset describes it.
        rows: the training rows, int64 `(rows,)`; only the first 10,000 are read.
    """
    if not takes_standardization(schema):
        return None
    flat = _present(dataset, name, rows).flatten(1).double().numpy()  # (rows, size)
    if far_from_standard(flat) is None:
        return None
    numbers = schema.part_names or [f"number {place + 1}" for place in range(flat.shape[1])]
    return standardization(name, flat, np.ones(len(flat), bool), numbers)


def _present(dataset: Dataset, name: str, rows: Tensor) -> Tensor:
    """Return the stored samples of a modality in the first of some rows, where it is present."""
    rows = rows[:_READ]
    return dataset.values(name, rows[dataset.present[rows, list(dataset.names).index(name)]])


def with_whole(schema: Schema, columns: Iterable[Numbers]) -> Schema:
    """Return a schema whose field `whole` is true if all of its numbers are whole and none is negative.

    Args:
        schema: of the modality; it is returned as it is if it has no such field, or states it.
        columns: the numbers, `(rows,)` each, NaN where they are missing; a column without numbers is not whole.
    """
    if "whole" not in type(schema).model_fields or getattr(schema, "whole", None) is not None:
        return schema
    for numbers in columns:
        known = numbers[~np.isnan(numbers)]
        if not known.size or not ((known >= 0) & (np.floor(known) == known)).all():
            return schema
    return type(schema).model_validate(schema.model_dump(include=schema.model_fields_set) | {"whole": True})


def with_standardize(schema: Schema, found: Mapping[str, Sequence[float]]) -> Schema:
    """Return a schema with `loc` and `scale` as its `standardize`."""
    given = schema.model_dump(include=schema.model_fields_set)
    return type(schema).model_validate(given | {"standardize": dict(found)})


def standardization(
    name: str, values: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], columns: Sequence[str]
) -> dict[str, list[float]]:
    """Return `loc` and `scale`: means and standard deviations of a modality's numbers over some rows.

    A column that is constant in these rows gets scale 1. A warning names such columns, and those whose values differ
    by little more than the rounding of float32, in which they are stored.

    Args:
        name: the modality.
        values: `(rows, size)`.
        used: the training rows in which it is present, `(rows,)`.
        columns: names of the numbers.

    Raises:
        InputError: there is no such row, or a column's numbers differ by less than float32 keeps.
    """
    if not used.any():
        raise InputError(
            f"modality '{name}': is present in no training row, so that nothing can be learned about it; leave it out, "
            f"or correct the splits"
        )
    known = values[used]
    try:
        check_told_apart(known, columns)
    except InputError as error:
        raise InputError(f"modality '{name}': {error}") from None
    return standardization_of(name, known.mean(0), known.std(0), np.abs(known).max(0), columns)


def standardization_of(
    name: str, loc: Numbers, scale: Numbers, largest: Numbers, columns: Sequence[str]
) -> dict[str, list[float]]:
    """Return `loc` and `scale` by the moments of a modality's numbers; see `standardization`.

    Args:
        name: the modality.
        loc: means, `(size,)`.
        scale: standard deviations, `(size,)`.
        largest: magnitudes of the largest numbers, `(size,)`.
        columns: names of the numbers.
    """
    constant = scale <= np.maximum(_JITTER * largest, np.finfo(np.float32).tiny)
    with np.errstate(over="ignore"):  # no number follows the largest one
        step = np.spacing(largest.astype(np.float32)).astype(np.float64)
    coarse = ~constant & (step > _COARSE * scale)
    for which, what in (
        (constant, "constant in the training rows, so that nothing can be learned from it: leave it out"),
        (coarse, "large compared with its spread, so that float32 loses digits: subtract a constant first"),
    ):
        if which.any():
            some = [column for column, bad in zip(columns, which, strict=True) if bad]
            who = "" if some == [name] else f"{', '.join(some[:5])}{' …' if len(some) > 5 else ''}: "
            _log.info(f"{name}: {who}{what}")
    return {"loc": loc.tolist(), "scale": np.where(constant, 1.0, scale).tolist()}
