"""What the builders of a person's own data share: options, confirmation, splits, numbers with holes, and writing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema, Settings
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import Document, Place, flow, parse

from ..execution.shards import write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

_log = logging.getLogger(__name__)

_COARSE = 0.01
"""Of a column's standard deviation: larger steps of single precision are said."""
_FEW = 50
"""Fewer training rows are said."""


class OwnDataOptions(Settings):
    """What every builder of a person's own data can be told."""

    yes: bool = Field(False, description="build what is inferred without asking")
    train: float = Field(0.8, ge=0, le=1, description="part of the rows that train, where splits are drawn")
    valid: float = Field(0.1, ge=0, le=1, description="part that validates; the rest tests")
    seed: int = Field(0, ge=0, description="draws the splits")

    @model_validator(mode="after")
    def _parts(self) -> OwnDataOptions:
        if self.train + self.valid > 1 + 1e-9:
            raise ValueError(f"train and valid add up to {self.train + self.valid:g}, above 1")
        return self

    def splits(self, rows: int) -> Array:
        """Draw an index into `SPLITS` for each row."""
        from modalkit.data import assign_splits

        return assign_splits(
            rows, {"train": self.train, "valid": self.valid, "test": max(0.0, 1 - self.train - self.valid)}, self.seed
        )


@dataclass
class Made:
    """One modality's samples: its schema, and values and presence of every row.

    `known` says which numbers are known, `(rows, *event_shape)`, also where it is absent; None: none is.
    """

    schema: Schema
    values: Array
    present: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_] | None = None


def confirm(inferred: str, accepted: bool, option: str) -> None:
    """Show what was inferred, and go on only if a person accepts it.

    Args:
        inferred: as YAML, as the builder takes it.
        accepted: whether that was said already.
        option: the option that takes the YAML when it has been edited.

    Raises:
        InputError: not accepted, or nobody is there to ask; says how to go on.
    """
    how = f"add --yes to build what is shown; or save that to a file, edit it, and add {option} FILE"
    if accepted:
        _log.info(inferred.rstrip())
        return
    print(inferred, end="", flush=True)  # to standard output, so that it can be saved as it is
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"nothing is built yet, for nobody is there to ask whether the above is right: {how}")
    print("Build it so? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"nothing was built; {how}")


def whole_rows(
    name: str, values: npt.NDArray[np.float64], train: npt.NDArray[np.bool_], incomplete: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
    """Decide what becomes of rows that have only some of a modality's numbers, and say so.

    Args:
        name: the modality.
        values: `(rows, size)`; NaN where a number is missing.
        train: which rows train, `(rows,)`.
        incomplete: ``mean``: the training rows' means stand in; else the whole modality is absent there.

    Returns:
        The values, zeros for NaN; in which rows the modality is present, `(rows,)`; and which numbers are known where
        it is not, `(rows, size)`, or None.
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
                f"it counts as absent there: {cells} cells teach nothing, and imputing keeps them (--incomplete split "
                f"makes a modality of each column, --incomplete mean fills the gaps with means)"
            )
        else:
            said += f"the {int(missing[partly].sum())} gaps are filled with the training rows' means"
        _log.warning(said)
    if incomplete == "mean":
        known = values[train & some]
        count = (~np.isnan(known)).sum(0)
        means = np.nansum(known, 0) / np.maximum(count, 1)
        return np.where(missing, means, values), some, None
    return np.where(missing, 0.0, values), whole, ~missing & partly[:, None] if partly.any() else None


def standardization(
    name: str, values: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], columns: Sequence[str]
) -> dict[str, list[float]]:
    """Return `loc` and `scale` of a vector: means and standard deviations of its numbers over some rows.

    A column that is constant there has scale 1, and is said; so is one whose values differ by less than what single
    precision, in which they are stored, can tell apart.

    Args:
        name: the modality.
        values: `(rows, size)`.
        used: in which rows it is present and trains, `(rows,)`.
        columns: their names.

    Raises:
        InputError: there is no such row.
    """
    import numpy as np

    if not used.any():
        raise InputError(
            f"modality '{name}': is present in no training row, so that nothing says what it looks like; leave it out, "
            f"or correct the splits"
        )
    known = values[used]
    loc, scale, largest = known.mean(0), known.std(0), np.abs(known).max(0)
    constant = scale <= np.maximum(1e-12 * largest, np.finfo(np.float32).tiny)
    with np.errstate(over="ignore"):  # beside the largest number there is no other
        step = np.spacing(largest.astype(np.float32)).astype(np.float64)
    coarse = ~constant & (step > _COARSE * scale)
    for which, what in (
        (constant, "constant in the training rows, which teaches nothing: leave out"),
        (coarse, "large beside the spread, of which single precision loses digits: subtract a constant first"),
    ):
        if which.any():
            some = [column for column, bad in zip(columns, which, strict=True) if bad]
            who = "" if some == [name] else f"{', '.join(some[:5])}{' …' if len(some) > 5 else ''}: "
            _log.warning(f"{name}: {who}{what}")
    return {"loc": loc.tolist(), "scale": np.where(constant, 1.0, scale).tolist()}


def write_made(
    out: Path,
    about: Mapping[str, Any],
    made: Mapping[str, Made],
    split: Array,
    keys: Sequence[str],
    beside: Mapping[str, bytes] | None = None,
) -> str:
    """Check every value, then write the dataset; nothing is written if one does not fit.

    `beside` has the content of further files by name; see `write`.

    Raises:
        InputError: a value does not fit, or `out` holds something else.
    """
    import numpy as np

    from modalkit.data import Rows, check_values

    schemas = {name: one.schema for name, one in made.items()}
    values, present = {n: one.values for n, one in made.items()}, {n: one.present for n, one in made.items()}
    known = {n: one.known for n, one in made.items() if one.known is not None}
    rows = Rows(values, present, split, list(keys), known=known)
    check_values(schemas, rows)
    if nothing := int((~np.any([one.present for one in made.values()], axis=0)).sum()):
        _log.warning(f"{nothing} rows have no modality at all; they are kept, and training skips them")
    if 0 < (train := int((split == 0).sum())) < _FEW:  # of new rows for a model that is trained, none trains
        tests = int((split == 2).sum())
        of = f", and scores on {tests} test row{'' if tests == 1 else 's'} mean nothing" if tests else ""
        _log.warning(f"{train} training rows teach little{of}: gather more, {_FEW} at the least")
    return write(out, about, schemas, len(keys), rows.part, what="rows", beside=beside)


def described(entries: Mapping[str, Mapping[str, Any]], of: str) -> str:
    """Return modalities as YAML, as `read_entries` reads it."""
    lines = [f"# Inferred from {of}"]
    lines += [f"{name}: {flow(dict(entry))}" for name, entry in entries.items()]
    return "\n".join(lines) + "\n"


def read_entries(path: Path, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read a kind and its keys for each modality from YAML, or from a dataset that was built before.

    Args:
        path: a YAML file, or a dataset's folder.
        known: what there is to make modalities of.

    Raises:
        InputError: it cannot be read, or names something that is not there; names the line.
    """
    if path.is_dir():
        derived = {"event_shape", "dtype"}
        facts = {name: m.facts for name, m in read_manifest(path).modalities.items()}
        return {n: {k: v for k, v in f.items() if k not in derived} for n, f in facts.items() if n in known}
    document = read_yaml(path)
    value = document.value if isinstance(document.value, dict) else {}
    for name, entry in value.items():
        if name not in known:
            document.blame((name,), f"is not there{did_you_mean(name, known) or f'; there is {listed(known)}'}")
        elif not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            document.blame((name,), "should be a mapping with a kind, such as {kind: vector, size: 3}")
        else:
            try:
                modality_name(name)
            except ValueError as error:
                document.blame((name,), str(error))
    if document.problems or not value:
        raise InputError("\n".join(map(str, document.problems)) or f"{path}: names no modality")
    return value


def read_yaml(path: Path) -> Document:
    """Read a YAML file; raise `InputError` if that cannot be done."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"), Place(str(path), 1))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def listed(names: Sequence[str]) -> str:
    """Return names with commas, the first of them where they are many."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
