"""Builds a dataset from a NumPy archive: each array becomes a modality; rows of NaN and masked rows are absent."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalkit.data.standardizing import standardization
from modalkit.errors import InputError
from modalkit.plugin import Builder
from modalkit.registry import modality, schema

from .entries import described, read_entries
from .kinds import Proposals
from .numbers import whole_rows
from .options import SPLITS, OwnDataOptions, confirm
from .samples import Samples, write_samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Array

VERSION = 2
"""Raised with every change after which the same arrays give other bytes."""
_PRESENT = "_present"


class ArraysOptions(OwnDataOptions):
    """Options of `modalkit build-dataset arrays`."""

    file: Path = Field(
        description="an .npz file: arrays with rows first, NAME_present (bool) for those with absent rows, and "
        "optionally `ids` and `split`"
    )
    modalities: Path | None = Field(
        None, description="YAML with a kind and its fields for each array; by default they are inferred and shown"
    )
    incomplete: Literal["absent", "mean"] = Field(
        "absent",
        description="rows of which some numbers are NaN: absent: they are absent; mean: the training rows' means "
        "fill the gaps",
    )


@dataclass
class Archive:
    """An .npz file: the arrays of modalities, rows first, and what says more about the rows.

    Attributes:
        path: the file.
        arrays: by modality.
        masks: by modality in which rows it is present, if the file says so.
        ids: names of the rows, if there are any.
        split: the rows' splits in words, if there are any.
    """

    path: Path
    arrays: dict[str, Array]
    masks: dict[str, Array] = field(default_factory=dict)
    ids: Array | None = None
    split: Array | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.arrays.values())))

    @classmethod
    def read(cls, path: Path) -> Archive:
        """Read a file; raise `InputError` if it is not an archive of arrays with the same number of rows."""
        arrays = _read(path)
        ids, split = arrays.pop("ids", None), arrays.pop("split", None)
        masks = {n.removesuffix(_PRESENT): arrays.pop(n) for n in list(arrays) if n.endswith(_PRESENT)}
        if unknown := sorted(set(masks) - set(arrays)):
            raise InputError(f"{path}: '{unknown[0]}{_PRESENT}' belongs to no array '{unknown[0]}'")
        if not arrays:
            raise InputError(f"{path}: holds no array of a modality")
        made = cls(path, arrays, masks, ids, split)
        if not made.rows:
            raise InputError(f"{path}: '{next(iter(arrays))}' has no rows")
        everything = {**arrays, **{f"{n}{_PRESENT}": m for n, m in masks.items()}}
        everything |= {n: a for n, a in (("ids", ids), ("split", split)) if a is not None}
        for name, array in everything.items():
            if len(array) != made.rows:
                raise InputError(
                    f"{path}: '{name}' has {len(array)} rows, '{next(iter(arrays))}' {made.rows}; rows come first, and "
                    f"each array has the same"
                )
        return made

    def keys(self) -> list[str]:
        """Return the rows' names, by default their numbers from 1; raise `InputError` if two are the same."""
        if self.ids is None:
            return [str(row + 1) for row in range(self.rows)]
        keys = [str(key) for key in self.ids]
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise InputError(f"{self.path}: ids: '{twice}' is there twice; ids must be unique")
        return keys

    def present(self, name: str) -> npt.NDArray[np.bool_]:
        """Return in which rows the file says that a modality is present, `(rows,)`; in all by default."""
        import numpy as np

        present = np.ones(self.rows, bool) if name not in self.masks else self.masks[name]
        if present.shape != (self.rows,) or present.dtype != bool:
            raise InputError(f"{self.path}: '{name}{_PRESENT}' should be {self.rows} booleans, one for each row")
        return present


def build(options: ArraysOptions, out: Path) -> str:
    """Build the dataset `out` from arrays, or resume building it.

    Raises:
        InputError: the file or an array cannot be used, the user did not accept what was inferred, or `out` holds
            something else.
        RunError: the disk is full.
    """
    archive = Archive.read(options.file)
    if options.modalities is None:
        proposals = Proposals.installed()
        entries = {name: _infer(options.file, name, array, proposals) for name, array in archive.arrays.items()}
        confirm(described(entries, f"{options.file}: {archive.rows} rows"), options.yes, "--modalities")
    else:
        entries = read_entries(options.modalities, list(archive.arrays))
    split = options.splits(archive.rows) if archive.split is None else _splits(options.file, archive.split)
    keys = archive.keys()
    samples = {}
    for name, entry in entries.items():
        present = archive.present(name)
        try:
            samples[name] = _make(name, entry, archive.arrays[name], present, split == 0, options.incomplete)
        except InputError as error:
            raise InputError(f"{options.file}: {error}") from None
    about = {
        "name": "arrays",
        "version": VERSION,
        "file": {"name": options.file.name, "sha256": hashlib.sha256(options.file.read_bytes()).hexdigest()},
        **options.model_dump(mode="json", include={"seed", "train", "valid", "incomplete"}),
    }
    return write_samples(out, about, samples, split, keys)


def _infer(path: Path, name: str, array: Array, proposals: Proposals) -> dict[str, Any]:
    """Return a recipe's entry for what an array looks like."""
    if (entry := proposals.for_array(array)) is None:
        raise InputError(
            f"{path}: '{name}' has shape {array.shape}; pictures are uint8 (rows, channels, height, width), other "
            f"arrays (rows, numbers): reshape it, or give its kind with --modalities, such as series for (rows, "
            f"channels, steps)"
        )
    return entry


def _make(
    name: str, entry: Mapping[str, Any], array: Array, present: npt.NDArray[np.bool_], train: Array, incomplete: str
) -> Samples:
    """Return a modality of an array `(rows, ...)`."""
    import numpy as np
    import torch

    if array.dtype.kind == "U":
        return _from_texts(name, entry, array, present)
    array, present, known = _without_gaps(name, array, present, train, incomplete)
    fields, takes = dict(entry), modality(entry["kind"]).columns
    if takes.standardized and "standardize" not in fields:
        flat = array.reshape(len(array), -1).astype(np.float64)
        numbers = [f"number {i + 1}" for i in range(flat.shape[1])]
        fields["standardize"] = standardization(name, flat, train & present, numbers)
    made = schema(**fields)
    if (array.ndim == 1 and made.event_shape == (1,)) or (array.ndim == 3 and len(made.event_shape) == 3):
        array = array[:, None]
    if array.shape[1:] != made.event_shape:
        raise InputError(f"'{name}': a row has shape {array.shape[1:]}, kind '{made.kind}' needs {made.event_shape}")
    known = None if known is None else known.reshape(array.shape)
    if np.dtype(made.dtype).kind != "f" and array.dtype.kind == "f":
        try:
            return Samples(made, made.pack(torch.from_numpy(array)).numpy(), present, known)
        except ValueError as error:
            raise InputError(f"'{name}': {error}") from None
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and an error names its row
        return Samples(made, array.astype(made.dtype), present, known)


def _from_texts(name: str, entry: Mapping[str, Any], array: Array, present: npt.NDArray[np.bool_]) -> Samples:
    """Return a modality whose samples its kind reads from an array of texts; an empty text is an absent entry."""
    import numpy as np

    made = schema(**entry)
    present = present & (array != "")
    values = np.zeros((len(array), *made.event_shape), made.dtype)
    for row in np.flatnonzero(present):
        try:
            values[row] = made.pack(modality(made.kind).read(made, str(array[row]))[None])[0].numpy()
        except (InputError, ValueError) as error:
            raise InputError(f"'{name}', row {row + 1} (counted from 1): {error}") from None
    return Samples(made, values, present)


def _without_gaps(
    name: str, array: Array, present: npt.NDArray[np.bool_], train: Array, incomplete: str
) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
    """Return an array without NaN, where it is present, and which of its numbers are known, as `whole_rows` does."""
    import numpy as np

    if array.dtype.kind != "f":
        return array, present, None
    if np.isinf(array[present]).any():
        wrong = np.isinf(array).reshape(len(array), -1).any(1) & present
        raise InputError(
            f"'{name}', row {int(wrong.argmax()) + 1} (counted from 1): is infinite; make it NaN if it is missing"
        )
    flat = np.where(present[:, None], array.reshape(len(array), -1).astype(np.float64), np.nan)
    filled, present, known = whole_rows(name, flat, train, incomplete)
    return filled.reshape(array.shape), present, known


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Return one array of an archive. Its header is read first, so that no memory is taken for what is not there.

    Raises:
        ValueError: it is no array, or its header claims another size than it has.
    """
    import numpy as np

    with archive.open(member) as file:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version in read_header:  # no other version has plain arrays
            shape, _, dtype = read_header[version](file)
            if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != member.file_size - file.tell():
                raise ValueError(f"{member.filename} claims the shape {shape}, which does not fit its size")
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz file; raise `InputError` for values that are not numbers, booleans or texts."""
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise InputError(f"{path}: is one array; put arrays into an archive: np.savez(FILE, NAME=ARRAY, …)")
        with zipfile.ZipFile(path) as archive:
            found = {
                member.filename.removesuffix(".npy"): _array(archive, member)
                for member in archive.infolist()
                if not member.is_dir()
            }
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in reading it
        said = str(error) or type(error).__name__
        raise InputError(f"{path}: is not an .npz archive of plain arrays: {said}") from None
    for name, array in found.items():
        if array.ndim == 0:
            raise InputError(f"{path}: '{name}' is a single value; rows come first")
        if array.dtype.kind not in "biufU":
            raise InputError(f"{path}: '{name}' has type {array.dtype}; give numbers, booleans or texts")
    return found


def _splits(path: Path, splits: Array) -> Array:
    from modalkit.data import assign_splits

    words = [str(word).casefold() for word in splits]
    for row, word in enumerate(words):
        if word not in SPLITS:
            raise InputError(
                f"{path}: split, row {row + 1} (counted from 1): '{word}' is not a split; give train, valid or test"
            )
    return assign_splits(len(words), [SPLITS[word] for word in words], 0)


BUILDER = Builder(
    name="arrays",
    summary="your own arrays, an .npz file; NaN rows and NAME_present masks are absent entries",
    options=ArraysOptions,
    build=build,
    argument="file",
)
