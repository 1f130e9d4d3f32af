"""Numbers with gaps: which rows count as complete."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_log = logging.getLogger(__name__)


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
