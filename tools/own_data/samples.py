"""All samples of a modality in memory, and the dataset that several modalities make."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalkit.plugin import Schema

from ..execution.shards import write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

_log = logging.getLogger(__name__)

_FEW = 50
"""Warn of fewer training rows."""


@dataclass
class Samples:
    """One modality's samples in all rows.

    Attributes:
        schema: the modality's.
        values: as they are stored, `(rows, *event_shape)`.
        present: in which rows it is present, `(rows,)`.
        known: which numbers are known, `(rows, *event_shape)`, in rows in which it is absent; None if there are none.
    """

    schema: Schema
    values: Array
    present: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_] | None = None


def write_samples(
    out: Path,
    about: Mapping[str, Any],
    samples: Mapping[str, Samples],
    split: Array,
    keys: Sequence[str],
    beside: Mapping[str, bytes] | None = None,
) -> str:
    """Check every value, then write the dataset. If a value does not fit, nothing is written.

    Args:
        out: its folder.
        about: the builder and its settings, for the manifest.
        samples: by modality.
        split: an index of train, valid or test for each row, `(rows,)`.
        keys: the rows' names.
        beside: the content of further files by name; see `write`.

    Raises:
        InputError: a value does not fit its schema, or `out` holds something else.
    """
    import numpy as np

    from modalkit.data import Rows, check_values

    schemas = {name: one.schema for name, one in samples.items()}
    values, present = {n: one.values for n, one in samples.items()}, {n: one.present for n, one in samples.items()}
    known = {n: one.known for n, one in samples.items() if one.known is not None}
    rows = Rows(values, present, split, list(keys), known=known)
    check_values(schemas, rows)
    if empty := int((~np.any([one.present for one in samples.values()], axis=0)).sum()):
        _log.info(f"{empty} rows have no modality at all; they are kept, and training skips them")
    if 0 < (train := int((split == 0).sum())) < _FEW:  # new rows for a trained model have no training rows
        tests = int((split == 2).sum())
        of = f", and scores on {tests} test row{'' if tests == 1 else 's'} mean nothing" if tests else ""
        _log.info(f"{train} training rows are too few to learn much{of}: gather {_FEW} or more")
    return write(out, about, schemas, len(keys), rows.part, what="rows", beside=beside)
