"""Builds a dataset from a folder: each subfolder is a modality, and files of one stem make one row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Builder, Schema
from modalkit.util.progress import bar

from ..execution.shards import write
from .common import OwnDataOptions, confirm, described, read_entries, standardization

if TYPE_CHECKING:
    import torch

    from modalkit.data import Array, Rows

_log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same files would give other bytes."""
SHARD_ROWS = 1000
_MOST_CLASSES = 50
_LONGEST = 64
_LONGEST_SOUND = 10.0
"""Characters of the longest text that is inferred to be tokens."""

Files = Mapping[str, Path]
"""A modality's files by their stem."""


class FolderOptions(OwnDataOptions):
    """What `modalkit build-dataset folder` can be told."""

    folder: Path = Field(description="a folder with a subfolder for each modality, whose files are aligned by stem")
    size: int = Field(64, ge=8, description="side of square pictures, in pixels")
    modalities: Path | None = Field(
        None,
        description="YAML with a kind and its keys for each subfolder, or a dataset that was built before; by default "
        "they are inferred and shown",
    )


@dataclass(frozen=True)
class Suffix:
    """What files of one suffix are.

    Attributes:
        infer: `(files, options) ->` the recipe's entry of such a modality.
        read: `(schema, path) ->` one sample, unpacked, `(*event_shape)`.
    """

    infer: Callable[[Files, FolderOptions], dict[str, Any]]
    read: Callable[[Schema, Path], torch.Tensor]


def build(options: FolderOptions, out: Path) -> str:
    """Build the dataset `out` from a folder, or go on with it where it stopped.

    A file that cannot be read is set aside, and absent.

    Raises:
        InputError: the folder has nothing to use, two files of one stem lie in a subfolder, nobody accepted what was
            inferred, or `out` holds something else.
        RunError: the disk is full.
    """
    found = _files(options.folder)
    if options.modalities is None:
        entries = {name: _suffix(files).infer(files, options) for name, files in found.items()}
        stems = {stem for files in found.values() for stem in files}
        confirm(described(entries, f"{options.folder}: {len(stems)} rows"), options.yes, "--modalities")
    else:
        entries = read_entries(options.modalities, list(found))
        found = {name: found[name] for name in entries}
    keys = sorted({stem for files in found.values() for stem in files})
    split = options.splits(len(keys))
    schemas = {name: _schema(name, entry, found[name], keys, split) for name, entry in entries.items()}
    content = [[n, path.name, path.stat().st_size] for n, files in found.items() for path in files.values()]
    about = {
        "name": "folder",
        "version": VERSION,
        "files": {"count": len(content), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()},
        **options.model_dump(mode="json", include={"seed", "train", "valid"}),
    }
    return write(out, about, schemas, len(keys), lambda part: _rows(schemas, found, keys, split, part), what="rows")


def _files(folder: Path) -> dict[str, Files]:
    """Return the files of each subfolder by stem, in the order of their names."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder")
    found: dict[str, Files] = {}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files: dict[str, Path] = {}
        for path in sorted(inside.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
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
        raise InputError(
            f"{folder}: no subfolder has a file that can be used ({' '.join(SUFFIXES)}); make a subfolder for each "
            f"modality, such as {folder / 'photo'} and {folder / 'caption'}, with files of the same stem for a row"
        )
    return found


def _suffix(files: Files) -> Suffix:
    """Return what a modality's files are; raise `InputError` if they are of several sorts."""
    first = next(iter(files.values()))
    for path in files.values():
        if SUFFIXES[path.suffix.lower()] is not SUFFIXES[first.suffix.lower()]:
            raise InputError(f"{first.parent}: holds both {first.name} and {path.name}; give each sort a subfolder")
    return SUFFIXES[first.suffix.lower()]


def _schema(name: str, entry: Mapping[str, Any], files: Files, keys: Sequence[str], split: Array) -> Schema:
    """Return a modality's schema, its numbers standardised by those of the training rows."""
    import numpy as np

    from modalkit.registry import schema

    made = schema(**entry)
    if made.kind != "vector" or "standardize" in entry:
        return made
    read, train = _suffix(files).read, [key for key, s in zip(keys, split, strict=True) if s == 0 and key in files]
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
    schemas: Mapping[str, Schema], found: Mapping[str, Files], keys: Sequence[str], split: Array, part: slice
) -> Rows:
    import numpy as np

    from modalkit.data import Rows

    stems, aside = keys[part], []
    values = {name: np.zeros((len(stems), *s.event_shape), s.dtype) for name, s in schemas.items()}
    present = {name: np.zeros(len(stems), bool) for name in schemas}
    for name, files in found.items():
        read, schema = _suffix(files).read, schemas[name]
        # Numbers are stored as they are: standardising them and back would round them.
        plain = schema.model_copy(update={"standardize": None}) if hasattr(schema, "standardize") else schema
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


def _image(files: Files, options: FolderOptions) -> dict[str, Any]:
    from PIL import Image

    channels = 1
    for path in files.values():
        try:
            with Image.open(path) as picture:
                if picture.mode not in ("1", "L", "LA", "I", "I;16", "F"):
                    channels = 3
                    break
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # set aside when rows are written
    return {"kind": "image", "size": options.size, "channels": channels}


def _sound(files: Files, options: FolderOptions) -> dict[str, Any]:
    """Sounds are clips as long as the median file, up to 10 s, of 16,000 samples a second or the files' fewer."""
    import soundfile

    lengths, rates = [], [16_000]
    for path in files.values():
        try:
            found = soundfile.info(str(path))
        except (OSError, soundfile.SoundFileError):
            continue  # set aside when rows are written
        lengths.append(found.duration)
        rates.append(found.samplerate)
    if not lengths:
        raise InputError(f"{next(iter(files.values())).parent}: not one of its sounds can be read")
    return {"kind": "audio", "sample_rate": min(rates), "seconds": round(min(median(lengths), _LONGEST_SOUND), 2)}


def _read_file(schema: Schema, path: Path) -> torch.Tensor:
    from modalkit.registry import modality

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


def _infer_text(files: Files, options: FolderOptions) -> dict[str, Any]:
    """Texts are numbers if all are, else labels if few differ, else strings of characters."""
    texts = list(_texts(files))
    folder = next(iter(files.values())).parent
    sizes = {_numbers(text) for text in texts}
    if None not in sizes and len(sizes) == 1:
        return {"kind": "vector", "size": sizes.pop()}
    distinct = sorted(set(texts))
    if 2 <= len(distinct) <= min(_MOST_CLASSES, max(2, len(texts) // 2)) and "" not in distinct:
        return {"kind": "label", "names": distinct}
    longest = max(map(len, texts), default=0)
    if not longest or longest > _LONGEST:
        raise InputError(
            f"{folder}: texts of up to {longest} characters; strings of at most {_LONGEST}, a few different labels, or "
            f"as many numbers in each file are what can be inferred; say its kind with --modalities"
        )
    return {"kind": "tokens", "alphabet": "".join(sorted(set().union(*texts))), "max_length": longest}


def _numbers(text: str) -> int | None:
    """Return how many numbers a text consists of, or None if it does not."""
    words = text.replace(",", " ").split()
    try:
        return len([float(word) for word in words]) or None
    except ValueError:
        return None


def _read_text(schema: Schema, path: Path) -> torch.Tensor:
    from modalkit.registry import modality

    return modality(schema.kind).read(schema, _text(path))


def _load(path: Path) -> Array:
    import numpy as np

    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as an array: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError("is no array of numbers")
    return array


def _infer_array(files: Files, options: FolderOptions) -> dict[str, Any]:
    for path in files.values():
        try:
            return {"kind": "vector", "size": _load(path).size}
        except InputError:
            continue
    raise InputError(f"{next(iter(files.values())).parent}: not one of its arrays can be read")


def _read_array(schema: Schema, path: Path) -> torch.Tensor:
    import torch

    array = _load(path)
    shape = schema.event_shape
    if array.size != torch.Size(shape).numel():
        raise InputError(f"has shape {array.shape}, {shape} is asked for")
    value = torch.from_numpy(array.astype("float32" if schema.dtype == "float32" else array.dtype).reshape(shape))
    return schema.unpack(value)


_IMAGE, _SOUND = Suffix(_image, _read_file), Suffix(_sound, _read_file)
_TEXT, _ARRAY = Suffix(_infer_text, _read_text), Suffix(_infer_array, _read_array)
SUFFIXES = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"), _IMAGE),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3"), _SOUND),
    ".txt": _TEXT,
    ".npy": _ARRAY,
}
"""What each suffix is; a new sort of file is one line here."""

BUILDER = Builder(
    name="folder",
    summary="your own folder: a subfolder a modality, files aligned by stem; pictures, sounds, texts, arrays",
    options=FolderOptions,
    build=build,
    argument="folder",
)
