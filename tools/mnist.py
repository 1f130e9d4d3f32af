"""Builds the dataset of MNIST's four IDX files: pictures of digits, each with its label."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from modalkit.errors import InputError
from modalkit.files import locked
from modalkit.plugin import Builder, Settings
from modalkit.progress import bar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 1
"""Raised whenever the same files would give other bytes."""
SHARD_ROWS = 10_000
VALID_ROWS = 10_000
"""How many of the training images, the last ones, validate."""


@dataclass(frozen=True)
class IdxFile:
    """One of the published files: its name, the shape that its header must state, and the MD5 of its raw bytes."""

    name: str
    shape: tuple[int, ...]
    md5: str


FILES = {
    "train_images": IdxFile("train-images-idx3-ubyte", (60_000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "train_labels": IdxFile("train-labels-idx1-ubyte", (60_000,), "a25bea736e30d166cdddb491f175f624"),
    "test_images": IdxFile("t10k-images-idx3-ubyte", (10_000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
    "test_labels": IdxFile("t10k-labels-idx1-ubyte", (10_000,), "27ae3e4e09519cfbb04c329615203637"),
}


class MnistOptions(Settings):
    """What `modalkit build-dataset mnist` can be told."""

    source: Path = Field(
        description="folder of the four IDX files, gzipped or not (also torchvision's, which has them in MNIST/raw)"
    )
    download: bool = Field(False, description="if they are not there, let torchvision download them into it")


def locate(source: Path) -> dict[str, Path]:
    """Find the four files in a folder.

    Raises:
        InputError: some of them are not there.
    """
    missing: dict[str, list[str]] = {}
    for folder in (source, source / "MNIST" / "raw", source / "raw"):
        found = {}
        for role, file in FILES.items():
            there = [path for path in (folder / file.name, folder / f"{file.name}.gz") if path.is_file()]
            if there:
                found[role] = there[0]
        if len(found) == len(FILES):
            return found
        missing[str(folder)] = [file.name for role, file in FILES.items() if role not in found]
    best = min(missing, key=lambda folder: len(missing[folder]))
    raise InputError(
        f"{best}: lacks MNIST's {', '.join(missing[best])} (or the same ending in .gz); give --download to let "
        f"torchvision.datasets.MNIST fetch them, or name the folder that holds them with --source"
    )


def _download(source: Path) -> None:
    """Let torchvision fetch the files into `source`/MNIST/raw."""
    from torchvision.datasets import MNIST

    try:
        with contextlib.redirect_stdout(sys.stderr):
            MNIST(source, download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is what torchvision raises when every mirror failed
        why = " ".join(str(error).split())
        raise InputError(
            f"{source}: MNIST could not be downloaded ({why}); check the network, or put the four IDX files there"
        ) from error


def read_idx(path: Path, file: IdxFile) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped or not.

    Args:
        path: the file.
        file: what it must be.

    Returns:
        uint8 of the file's shape.

    Raises:
        InputError: it is truncated, is no such file, or its bytes are not the published ones.
    """
    import numpy as np

    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read, or is truncated ({error}); get this file again") from error
    # Big-endian: two zero bytes, 8 for unsigned bytes, the number of dimensions, and four bytes for each of them.
    header = bytes([0, 0, 8, len(file.shape)]) + b"".join(n.to_bytes(4, "big") for n in file.shape)
    magic, dimensions = raw[:4], raw[4 : len(header)]
    if magic != header[:4]:
        raise InputError(
            f"{path}: is no IDX file of {len(file.shape)}-dimensional bytes: expected it to start with "
            f"{header[:4].hex()}, found {magic.hex() or 'nothing'}; get this file again"
        )
    if dimensions != header[4:]:
        found = [int.from_bytes(dimensions[i : i + 4], "big") for i in range(0, len(dimensions), 4)]
        raise InputError(f"{path}: is not MNIST's {file.name}: expected shape {list(file.shape)}, found {found}")
    size = len(header) + int(np.prod(file.shape))
    if len(raw) != size:
        what = "truncated" if len(raw) < size else "too long"
        raise InputError(f"{path}: is {what}: expected {size} bytes, found {len(raw)}; get this file again")
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 != file.md5:
        raise InputError(
            f"{path}: is not MNIST's {file.name}: expected MD5 {file.md5} of the raw bytes, found {md5}; it is "
            f"damaged, or of another dataset whose files have the same names (such as Fashion-MNIST)"
        )
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(file.shape)


def _load(found: dict[str, Path]) -> dict[str, Any]:
    """Return images, labels, split and keys of all 70,000 rows, the training files' first."""
    import numpy as np

    data = {role: read_idx(path, FILES[role]) for role, path in found.items()}
    train, test = len(data["train_labels"]), len(data["test_labels"])
    return {
        "image": np.concatenate([data["train_images"], data["test_images"]])[:, None],  # (rows, 1, 28, 28)
        "label": np.concatenate([data["train_labels"], data["test_labels"]]),
        "split": np.repeat(np.array([0, 1, 2], np.uint8), [train - VALID_ROWS, VALID_ROWS, test]),
        "keys": [f"train/{i:05d}" for i in range(train)] + [f"test/{i:05d}" for i in range(test)],
    }


def build(options: MnistOptions, out: Path) -> str:
    """Build the dataset `out`, or go on with it where it stopped.

    Raises:
        InputError: a file is missing or not MNIST's, the download failed, or `out` holds something else.
        RunError: the disk is full.
    """
    import numpy as np

    from modalkit.data import DatasetWriter, Rows, write_shard
    from modalkit.registry import schema

    try:
        found = locate(options.source)
    except InputError:
        if not options.download:
            raise
        _download(options.source)
        found = locate(options.source)
    rows = _load(found)
    schemas = {"image": schema("image", size=28, channels=1), "label": schema("label", classes=10)}
    total = len(rows["keys"])
    about = {"name": "mnist", "version": VERSION}
    with locked(out, "building"):
        for leftover in (out / "shards").glob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
        writer = DatasetWriter(out, schemas, about, -(-total // SHARD_ROWS))
        todo = writer.pending()
        with bar(total, "rows", unit="row", initial=total - SHARD_ROWS * len(todo)) as progress:
            for index in todo:
                part = slice(index * SHARD_ROWS, (index + 1) * SHARD_ROWS)
                keys = rows["keys"][part]
                values = {name: rows[name][part].astype(s.dtype) for name, s in schemas.items()}
                present = dict.fromkeys(schemas, np.ones(len(keys), bool))
                write_shard(out, index, schemas, Rows(values, present, rows["split"][part], keys))
                progress.update(len(keys))
        manifest = writer.finish()
    splits = ", ".join(f"{name} {n}" for name, n in manifest.splits.items())
    return f"{out}: {manifest.rows} digits ({splits})"


BUILDER = Builder(
    name="mnist",
    summary="handwritten digits and their labels, from MNIST's four files",
    options=MnistOptions,
    build=build,
)
