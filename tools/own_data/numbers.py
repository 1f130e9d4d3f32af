"""Numbers with gaps: which rows count as complete, and by what they are standardised."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modalkit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_log = logging.getLogger(__name__)

_COARSE = 0.01
"""Warn if float32 rounding exceeds this fraction of a column's standard deviation."""


def whole_rows(
    name: str, values: npt.NDArray[np.float64], train: npt.NDArray[np.bool_], incomplete: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
    """Decide in which rows a modality is present if some rows have only some of its numbers, and log it.

    Args:
        name: the modality.
        values: `(rows, size)`; NaN where a number is missing.
        train: which rows are training rows, `(rows,)`.
        incomplete: ``mean``: fill gaps with the training rows' means; else the modality is absent in such rows.

    Returns:
        The values, with 0 for NaN; in which rows the modality is present, `(rows,)`; and which numbers are known in
        rows in which it is absent, `(rows, size)`, or None if there are none.
    """
    import numpy as np

    missing = np.isnan(values)
    some, whole = np.logical_not(missing.all(1)), np.logical_not(missing.any(1))
    partly = some & ~whole
    if partly.any():
        cells = int((~missing[partly]).sum())
        said = f"{name}: {int(partly.sum())} of {len(values)} rows have only some of its {values.shape[1]} columns; "
        if incomplete != "mean":
            said += (
                f"it counts as absent there: {cells} cells are not used in training, and imputing keeps them "
                f"(--incomplete split makes a modality of each column, --incomplete mean fills the gaps with means)"
            )
        else:
            said += f"the {int(missing[partly].sum())} gaps are filled with the training rows' means"
        _log.info(said)
    if incomplete == "mean":
        known = values[train & some]
        count = (~np.isnan(known)).sum(0)
        means = np.nansum(known, 0) / np.maximum(count, 1)
        return np.where(missing, means, values), some, None
    return np.where(missing, 0.0, values), whole, ~missing & partly[:, None] if partly.any() else None


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
        InputError: there is no such row.
    """
    import numpy as np

    if not used.any():
        raise InputError(
            f"modality '{name}': is present in no training row, so that nothing can be learned about it; leave it out, "
            f"or correct the splits"
        )
    known = values[used]
    loc, scale, largest = known.mean(0), known.std(0), np.abs(known).max(0)
    constant = scale <= np.maximum(1e-12 * largest, np.finfo(np.float32).tiny)
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
