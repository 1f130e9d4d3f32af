"""Builds a dataset from a NumPy archive: each array becomes a modality, and rows of NaN absent entries."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Builder

from .common import Made, OwnDataOptions, confirm, described, read_entries, standardization, whole_rows, write_made
from .grouping import SPLITS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

_log = logging.getLogger(__name__)

VERSION = 2
"""Raised whenever the same arrays would give other bytes."""
_MOST_CLASSES = 50
_PRESENT = "_present"


class ArraysOptions(OwnDataOptions):
    """What `modalkit build-dataset arrays` can be told."""

    file: Path = Field(
        description="an .npz file: arrays with rows first, NAME_present (bool) for those with holes, and if you like "
        "`ids` and `split`"
    )
    modalities: Path | None = Field(
        None, description="YAML with a kind and its keys for each array; by default it is inferred and shown"
    )
    incomplete: Literal["absent", "mean"] = Field(
        "absent", description="rows of which some numbers are NaN: absent, or with the training rows' means in the gaps"
    )


def build(options: ArraysOptions, out: Path) -> str:
    """Build the dataset `out` from arrays, or go on with it where it stopped.

    Raises:
        InputError: the file or an array cannot be used, nobody accepted what was inferred, or `out` holds something
            else.
        RunError: the disk is full.
    """
    import numpy as np

    arrays = _read(options.file)
    ids, splits = arrays.pop("ids", None), arrays.pop("split", None)
    masks = {n.removesuffix(_PRESENT): arrays.pop(n) for n in list(arrays) if n.endswith(_PRESENT)}
    if unknown := sorted(set(masks) - set(arrays)):
        raise InputError(f"{options.file}: '{unknown[0]}{_PRESENT}' belongs to no array '{unknown[0]}'")
    if not arrays:
        raise InputError(f"{options.file}: holds no array of a modality")
    everything = {**arrays, **{f"{n}{_PRESENT}": m for n, m in masks.items()}}
    everything |= {n: a for n, a in (("ids", ids), ("split", splits)) if a is not None}
    rows = len(next(iter(arrays.values())))
    for name, array in everything.items():
        if len(array) != rows:
            raise InputError(
                f"{options.file}: '{name}' has {len(array)} rows, '{next(iter(arrays))}' {rows}; rows come first, and "
                f"each array has the same"
            )
    if options.modalities is None:
        entries = {name: _infer(options.file, name, array) for name, array in arrays.items()}
        confirm(described(entries, f"{options.file}: {rows} rows"), options.yes, "--modalities")
    else:
        entries = read_entries(options.modalities, list(arrays))
    split = options.splits(rows) if splits is None else _splits(options.file, splits)
    keys = [str(row + 1) for row in range(rows)] if ids is None else [str(key) for key in ids]
    if len(set(keys)) < rows:
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise InputError(f"{options.file}: ids: '{twice}' is there twice; ids name each row once")
    made = {}
    for name, entry in entries.items():
        present = np.ones(rows, bool) if name not in masks else masks[name]
        if present.shape != (rows,) or present.dtype != bool:
            raise InputError(f"{options.file}: '{name}{_PRESENT}' should be {rows} booleans, a row each")
        try:
            made[name] = _make(name, entry, arrays[name], present, split == 0, options.incomplete)
        except InputError as error:
            raise InputError(f"{options.file}: {error}") from None
    about = {
        "name": "arrays",
        "version": VERSION,
        "file": {"name": options.file.name, "sha256": hashlib.sha256(options.file.read_bytes()).hexdigest()},
        **options.model_dump(mode="json", include={"seed", "train", "valid", "incomplete"}),
    }
    return write_made(out, about, made, split, keys)


def _read(path: Path) -> dict[str, Array]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.ndarray):
                raise InputError(f"{path}: is one array; put arrays into an archive: np.savez(FILE, NAME=ARRAY, …)")
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no .npz archive of plain arrays: {error}") from None
    for name, array in found.items():
        if array.ndim == 0:
            raise InputError(f"{path}: '{name}' is a single value; rows come first")
        if array.dtype.kind not in "biufU":
            raise InputError(f"{path}: '{name}' has type {array.dtype}; give numbers, booleans or texts")
    return found


def _infer(path: Path, name: str, array: Array) -> dict[str, Any]:
    """Return a recipe's entry for what an array looks like."""
    import numpy as np

    kind, width = array.dtype.kind, array.shape[1:]
    if array.ndim > 2:
        if array.dtype == np.uint8 and array.ndim in (3, 4):
            channels, *size = (1, *width) if array.ndim == 3 else width
            return {"kind": "image", "size": size, "channels": channels}
        raise InputError(
            f"{path}: '{name}' has shape {array.shape}; pictures are uint8 (rows, channels, height, width), other "
            f"arrays (rows, numbers): reshape it, or say its kind with --modalities"
        )
    if kind == "b":
        return {"kind": "bit"} if not width else {"kind": "attributes", "names": [str(i + 1) for i in range(*width)]}
    if kind == "U":
        return {"kind": "label", "names": sorted({str(text) for text in array.flat} - {""})}
    if kind in "iu" and not width:
        distinct = np.unique(array)
        if 1 < len(distinct) <= _MOST_CLASSES and np.array_equal(distinct, np.arange(len(distinct))):
            return {"kind": "label", "classes": len(distinct)}
    counts = kind in "iu" and array.min(initial=0) >= 0
    return {"kind": "counts" if counts else "vector", "size": width[0] if width else 1}


def _make(
    name: str, entry: Mapping[str, Any], array: Array, present: npt.NDArray[np.bool_], train: Array, incomplete: str
) -> Made:
    import numpy as np
    import torch

    from modalkit.registry import modality, schema

    entry = dict(entry)
    if array.dtype.kind == "U":
        made = schema(**entry)
        present = present & (array != "")
        values = np.zeros((len(array), *made.event_shape), made.dtype)
        for row in np.flatnonzero(present):
            try:
                values[row] = made.pack(modality(made.kind).read(made, str(array[row]))[None])[0].numpy()
            except (InputError, ValueError) as error:
                raise InputError(f"'{name}', row {row + 1} (counted from 1): {error}") from None
        return Made(made, values, present)
    known = None
    if array.dtype.kind == "f":
        if np.isinf(array[present]).any():
            wrong = np.isinf(array).reshape(len(array), -1).any(1) & present
            raise InputError(
                f"'{name}', row {int(wrong.argmax()) + 1} (counted from 1): is infinite; make it NaN if it is missing"
            )
        flat = np.where(present[:, None], array.reshape(len(array), -1).astype(np.float64), np.nan)
        filled, present, known = whole_rows(name, flat, train, incomplete)
        array = filled.reshape(array.shape)
    if entry["kind"] == "vector" and "standardize" not in entry:
        flat = array.reshape(len(array), -1).astype(np.float64)
        numbers = [f"number {i + 1}" for i in range(flat.shape[1])]
        entry["standardize"] = standardization(name, flat, train & present, numbers)
    made = schema(**entry)
    if (array.ndim == 1 and made.event_shape == (1,)) or (array.ndim == 3 and len(made.event_shape) == 3):
        array = array[:, None]
    if array.shape[1:] != made.event_shape:
        raise InputError(f"'{name}': a row has shape {array.shape[1:]}, kind '{made.kind}' asks for {made.event_shape}")
    known = None if known is None else known.reshape(array.shape)
    if np.dtype(made.dtype).kind != "f" and array.dtype.kind == "f":
        try:
            return Made(made, made.pack(torch.from_numpy(array)).numpy(), present, known)
        except ValueError as error:
            raise InputError(f"'{name}': {error}") from None
    return Made(made, array.astype(made.dtype), present, known)


def _splits(path: Path, splits: Array) -> Array:
    from modalkit.data import assign_splits

    words = [str(word).casefold() for word in splits]
    for row, word in enumerate(words):
        if word not in SPLITS:
            raise InputError(
                f"{path}: split, row {row + 1} (counted from 1): '{word}' is no split; give train, valid or test"
            )
    return assign_splits(len(words), [SPLITS[word] for word in words], 0)


BUILDER = Builder(
    name="arrays",
    summary="your own arrays, an .npz file; NaN rows and NAME_present masks are absent entries",
    options=ArraysOptions,
    build=build,
    argument="file",
)
