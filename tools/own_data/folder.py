"""Builds a dataset from a folder: each subfolder is a modality, and files with the same stem make one row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import Field

from modalkit.data.standardizing import standardization
from modalkit.errors import InputError
from modalkit.plugin import Builder, Proposal, Schema
from modalkit.registry import modality, schema
from modalkit.util.progress import bar

from ..execution.shards import write
from .entries import described, read_entries
from .kinds import Proposals
from .options import OwnDataOptions, confirm

if TYPE_CHECKING:
    import torch

    from modalkit.data import Array, Rows

_log = logging.getLogger(__name__)

_SHOWN = 5
VERSION = 2
"""Raised with every change after which the same files give other bytes."""

Files = Mapping[str, Path]
"""A modality's files by their stem."""
Read: TypeAlias = "Callable[[Schema, Path], torch.Tensor]"
"""Reads a file as one sample of a schema, unpacked, `(*event_shape)`."""


class FolderOptions(OwnDataOptions):
    """Options of `modalkit build-dataset folder`."""

    folder: Path = Field(description="a folder with a subfolder for each modality; files of one stem make a row")
    size: int = Field(64, ge=8, description="side of square pictures, in pixels")
    modalities: Path | None = Field(
        None,
        description="YAML with a kind and its fields for each subfolder, or a dataset that was built before; by "
        "default they are inferred and shown",
    )


@dataclass(frozen=True)
class Sort:
    """Files of one sort.

    Attributes:
        suffixes: of their names, in lower case.
        infer: `(files, options, proposals) ->` a recipe's entry of such a modality.
        read: reads one of them.
    """

    suffixes: tuple[str, ...]
    infer: Callable[[Files, FolderOptions, Proposals], dict[str, Any]]
    read: Read


class Sorts:
    """The sorts of files that can be used: those that installed kinds read, texts, and arrays."""

    def __init__(self) -> None:
        self.proposals = Proposals.installed()
        kinds = [_of_kind(kind, proposal) for kind, proposal in self.proposals.kinds if proposal.suffixes]
        self.known = [*kinds, Sort((".txt",), _infer_texts, _read_text), Sort((".npy",), _infer_arrays, _read_array)]

    def of(self, path: Path) -> Sort | None:
        """Return the sort of a file, or None if it cannot be used."""
        return next((sort for sort in self.known if path.suffix.lower() in sort.suffixes), None)

    def all_of(self, files: Files) -> Sort:
        """Return the sort of a modality's files; raise `InputError` if they are of several sorts."""
        first = next(iter(files.values()))
        found = self.of(first)
        for path in files.values():
            if found is None or self.of(path) is not found:
                raise InputError(f"{first.parent}: holds both {first.name} and {path.name}; give each sort a subfolder")
        assert found is not None
        return found


def build(options: FolderOptions, out: Path) -> str:
    """Build the dataset `out` from a folder, or resume building it.

    A file that cannot be read is set aside, and the entry is absent.

    Raises:
        InputError: the folder has no file to use, two files of a subfolder have the same stem, the user did not accept
            what was inferred, or `out` holds something else.
        RunError: the disk is full.
    """
    sorts = Sorts()
    found = _files(options.folder, sorts)
    if options.modalities is None:
        entries = {name: sorts.all_of(files).infer(files, options, sorts.proposals) for name, files in found.items()}
        stems = {stem for files in found.values() for stem in files}
        confirm(described(entries, f"{options.folder}: {len(stems)} rows"), options.yes, "--modalities")
    else:
        entries = read_entries(options.modalities, list(found))
        found = {name: found[name] for name in entries}
    keys = sorted({stem for files in found.values() for stem in files})
    split = options.splits(len(keys))
    readers = {name: sorts.all_of(files).read for name, files in found.items()}
    schemas = {n: _schema(n, entry, found[n], readers[n], keys, split) for n, entry in entries.items()}
    content = [[n, path.name, path.stat().st_size] for n, files in found.items() for path in files.values()]
    about = {
        "name": "folder",
        "version": VERSION,
        "files": {"count": len(content), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()},
        **options.model_dump(mode="json", include={"seed", "train", "valid"}),
    }

    def make(part: slice) -> Rows:
        return _rows(schemas, found, readers, keys, split, part)

    return write(out, about, schemas, len(keys), make, what="rows")


def _files(folder: Path, sorts: Sorts) -> dict[str, Files]:
    """Return the files of each subfolder by stem, sorted by name; log which others are not used."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder")
    found: dict[str, Files] = {}
    left = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files: dict[str, Path] = {}
        for path in sorted(inside.iterdir()):
            if path.name.startswith("."):
                continue
            if sorts.of(path) is None or not path.is_file():
                left.append(path)
                continue
            if path.stem in files:
                raise InputError(
                    f"{inside}: {files[path.stem].name} and {path.name} have the same stem, and a row has one file of "
                    f"each modality; move one of them"
                )
            files[path.stem] = path
        if files:
            found[inside.name] = files
    if not found:
        suffixes = " ".join(suffix for sort in sorts.known for suffix in sort.suffixes)
        raise InputError(
            f"{folder}: no subfolder has a file that can be used ({suffixes}); make a subfolder for each "
            f"modality, such as {folder / 'photo'} and {folder / 'caption'}, with files of the same stem for a row"
        )
    if left:
        some = ", ".join(str(path.relative_to(folder)) for path in left[:_SHOWN])
        _log.warning(
            f"not used: {some}{f' and {len(left) - _SHOWN} more' if len(left) > _SHOWN else ''}; a modality is a "
            f"subfolder with files ending in {' '.join(suffix for sort in sorts.known for suffix in sort.suffixes)}"
        )
    return found


def _schema(name: str, entry: Mapping[str, Any], files: Files, read: Read, keys: Sequence[str], split: Array) -> Schema:
    """Return a modality's schema; numbers are standardised by means and scales of the training rows."""
    import numpy as np

    made = schema(**entry)
    if not modality(made.kind).columns.standardized or "standardize" in entry:
        return made
    train = [key for key, s in zip(keys, split, strict=True) if s == 0 and key in files]
    known = []
    with bar(len(train), name, unit="file", leave=False) as progress:
        for key in train:
            with contextlib.suppress(InputError):  # set aside when rows are written
                known.append(read(made, files[key]).numpy().astype(np.float64))
            progress.update()
    size = made.event_shape[0]
    values = np.stack(known) if known else np.zeros((0, size))
    numbers = [f"number {i + 1}" for i in range(size)]
    return schema(**entry, standardize=standardization(name, values, np.ones(len(values), bool), numbers))


def _rows(
    schemas: Mapping[str, Schema],
    found: Mapping[str, Files],
    readers: Mapping[str, Read],
    keys: Sequence[str],
    split: Array,
    part: slice,
) -> Rows:
    """Return the rows of a shard."""
    import numpy as np

    from modalkit.data import Rows

    stems, aside = keys[part], []
    values = {name: np.zeros((len(stems), *s.event_shape), s.dtype) for name, s in schemas.items()}
    present = {name: np.zeros(len(stems), bool) for name in schemas}
    for name, files in found.items():
        read, made = readers[name], schemas[name]
        # Numbers are stored in their own unit: standardising them and back would round them.
        plain = made.model_copy(update={"standardize": None}) if modality(made.kind).columns.standardized else made
        for row, stem in enumerate(stems):
            if stem not in files:
                continue
            try:
                stored = plain.pack(read(plain, files[stem])[None])
                if not bool(plain.valid(stored).all()):
                    raise InputError("holds NaN, an infinite value, or one out of range")
            except (InputError, ValueError) as error:
                aside.append((f"{name}/{files[stem].name}", str(error)))
                continue
            values[name][row], present[name][row] = stored[0].numpy(), True
    return Rows(values, present, split[part], list(stems), aside)


def _of_kind(kind: str, proposal: Proposal) -> Sort:
    """Return the sort of files that a kind's `read` takes."""

    def infer(files: Files, options: FolderOptions, proposals: Proposals) -> dict[str, Any]:
        return {"kind": kind, **proposal.files([str(path) for path in files.values()], options.size)}

    return Sort(proposal.suffixes, infer, _read_file)


def _read_file(schema: Schema, path: Path) -> torch.Tensor:
    return modality(schema.kind).read(schema, str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text in UTF-8: {error}") from None


def _texts(files: Files) -> Iterator[str]:
    for path in files.values():
        try:
            yield _text(path)
        except InputError:
            continue  # set aside when rows are written


def _infer_texts(files: Files, options: FolderOptions, proposals: Proposals) -> dict[str, Any]:
    texts = list(_texts(files))
    if (entry := proposals.for_texts(texts)) is None:
        raise InputError(
            f"{next(iter(files.values())).parent}: no kind is inferred for texts of up to "
            f"{max(map(len, texts), default=0)} characters: each file should hold a short string, one of a few labels, "
            f"or as many numbers as every other; or give the kind with --modalities"
        )
    return entry


def _read_text(schema: Schema, path: Path) -> torch.Tensor:
    return modality(schema.kind).read(schema, _text(path))


def _load(path: Path) -> Array:
    import numpy as np

    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as an array: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError("is not an array of numbers")
    return array


def _infer_arrays(files: Files, options: FolderOptions, proposals: Proposals) -> dict[str, Any]:
    for path in files.values():
        try:
            array = _load(path)
        except InputError:
            continue
        row = array.reshape(1, -1).astype("float64")  # (*shape) -> (1, numbers)
        if (entry := proposals.for_array(row)) is not None:
            if array.ndim > 1:
                _log.info(f"{path.parent.name}: {_as_numbers(array.shape)}")
            return entry
    raise InputError(f"{next(iter(files.values())).parent}: no kind is inferred for its arrays; see --modalities")


def _as_numbers(shape: tuple[int, ...]) -> str:
    """Say that the numbers of an array of several axes are taken without their order, and what keeps it."""
    series = f"{{kind: series, channels: {shape[0]}, length: {shape[-1]}}}"
    said = f"arrays of shape {shape} are taken as numbers without an order"
    return f"{said}; for channels and steps in time, give {series}" if len(shape) == 2 else said


def _read_array(schema: Schema, path: Path) -> torch.Tensor:
    import torch

    array = _load(path)
    shape = schema.event_shape
    if array.size != torch.Size(shape).numel():
        raise InputError(f"has shape {array.shape}, not {shape}")
    value = torch.from_numpy(array.astype("float32" if schema.dtype == "float32" else array.dtype).reshape(shape))
    return schema.unpack(value)


BUILDER = Builder(
    name="folder",
    summary="your own folder: a subfolder for each modality, files aligned by stem; pictures, sounds, texts, arrays",
    options=FolderOptions,
    build=build,
    argument="folder",
)
