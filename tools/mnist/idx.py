"""What the builders of MNIST's family share: the published IDX files, checked.

A family is four IDX files of the same names and shapes: pictures of 28 x 28 pixels in ten classes, 60,000 to train
and 10,000 to test. The gzip wrappers that go round differ, so it is the raw bytes that are checked.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Schema, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from modalkit.data import Rows

VALID_ROWS = 10_000
"""How many of the training images, the last ones, validate."""
CLASSES = 10
SIDE = 28
"""Of the square pictures, in pixels."""


@dataclass(frozen=True)
class IdxFile:
    """One of the four files: its name, and the shape that its header must state."""

    name: str
    shape: tuple[int, ...]


FILES = {
    "train_images": IdxFile("train-images-idx3-ubyte", (60_000, SIDE, SIDE)),
    "train_labels": IdxFile("train-labels-idx1-ubyte", (60_000,)),
    "test_images": IdxFile("t10k-images-idx3-ubyte", (10_000, SIDE, SIDE)),
    "test_labels": IdxFile("t10k-labels-idx1-ubyte", (10_000,)),
}


@dataclass(frozen=True)
class Family:
    """A published family of the four files.

    Attributes:
        name: as people write it.
        builder: the `modalkit build-dataset` command for its files, and its folder's name in MODALKIT_DATA.
        torchvision: its class in `torchvision.datasets`, which is also the folder that class makes.
        md5: of each file's raw bytes, by the keys of `FILES`.
    """

    name: str
    builder: str
    torchvision: str
    md5: Mapping[str, str]

    def folders(self, source: Path) -> tuple[Path, ...]:
        """Return where its files may lie below the folder that the user names."""
        return source, source / self.torchvision / "raw", source / "raw"


MNIST = Family(
    name="MNIST",
    builder="mnist",
    torchvision="MNIST",
    md5={
        "train_images": "6bbc9ace898e44ae57da46a324031adb",
        "train_labels": "a25bea736e30d166cdddb491f175f624",
        "test_images": "2646ac647ad5339dbf082846283269ea",
        "test_labels": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION_MNIST = Family(
    name="Fashion-MNIST",
    builder="fashion-mnist",
    torchvision="FashionMNIST",
    md5={
        "train_images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train_labels": "9018921c3c673c538a1fc5bad174d6f9",
        "test_images": "8181f5470baa50b63fa0f6fddb340f0a",
        "test_labels": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)
FAMILIES = (MNIST, FASHION_MNIST)


RAW = Path("data/raw")
"""Where files are looked for, and downloaded to, if nobody says where they are."""


class IdxOptions(Settings):
    """Where a family's files are."""

    source: Path | None = Field(
        None,
        description="folder of the four IDX files, gzipped or not (also torchvision's, which has them in a raw/ "
        "inside); by default the folder of that name in the one that MODALKIT_DATA names, else data/raw",
    )
    download: bool = Field(False, description="if they are not there, let torchvision download them into it")


def locate(family: Family, source: Path) -> dict[str, Path]:
    """Find a family's four files in a folder, by the keys of `FILES`.

    Raises:
        InputError: some of them are not there.
    """
    missing: dict[Path, list[str]] = {}
    for folder in family.folders(source):
        found = {}
        for role, file in FILES.items():
            there = [path for path in (folder / file.name, folder / f"{file.name}.gz") if path.is_file()]
            if there:
                found[role] = there[0]
        if len(found) == len(FILES):
            return found
        missing[folder] = [file.name for role, file in FILES.items() if role not in found]
    best = min(missing, key=lambda folder: len(missing[folder]))
    raise InputError(
        f"{best}: lacks {family.name}'s {', '.join(missing[best])} (or the same ending in .gz); give --download to let "
        f"torchvision.datasets.{family.torchvision} fetch them, or name the folder that holds them with --source"
    )


def _found(family: Family, options: IdxOptions) -> dict[str, Path]:
    """Find a family's files in the folder that the user names; otherwise in that of MODALKIT_DATA, otherwise in `RAW`.

    Raises:
        InputError: they are not there, and may not be or could not be downloaded.
    """
    named = os.environ.get("MODALKIT_DATA")
    if options.source is None and named and (Path(named) / family.builder).is_dir():
        with contextlib.suppress(InputError):
            return locate(family, Path(named) / family.builder)
    source = options.source or RAW
    try:
        return locate(family, source)
    except InputError:
        if not options.download:
            raise
    _download(family, source)
    return locate(family, source)


def _download(family: Family, source: Path) -> None:
    """Let torchvision fetch the files into its own folder in `source`."""
    from torchvision import datasets

    try:
        with contextlib.redirect_stdout(sys.stderr):
            getattr(datasets, family.torchvision)(source, download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is what torchvision raises when every mirror failed
        why = " ".join(str(error).split())
        raise InputError(
            f"{source}: {family.name} could not be downloaded ({why}); check the network, or put the four IDX files "
            f"there"
        ) from error


def read_idx(path: Path, family: Family, role: str) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped or not.

    Args:
        path: the file.
        family: whose it must be.
        role: which of the four it must be, a key of `FILES`.

    Returns:
        uint8 of the file's shape; labels lie in 0 to 9.

    Raises:
        InputError: it is truncated, is no such file, has a label out of range, or its bytes are not the published ones.
    """
    import numpy as np

    shape = FILES[role].shape
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(4 + 4 * len(shape) + prod(shape) + 1)  # a byte more than it must have, however large it is
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read, or is truncated ({error}); get this file again") from error
    start = _check_header(path, raw, family, FILES[role])
    values = np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
    if len(shape) == 1:  # before the checksum, which could not say which row
        _check_labels(path, values)
    _check_md5(path, raw, family, role)
    return values


def _check_header(path: Path, raw: bytes, family: Family, file: IdxFile) -> int:
    """Check what a file says of itself, and its size; return where its values begin."""
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
        raise InputError(
            f"{path}: is not {family.name}'s {file.name}: expected shape {list(file.shape)}, found {found}"
        )
    size = len(header) + prod(file.shape)
    if len(raw) != size:
        what = f"truncated: expected {size} bytes, found {len(raw)}"
        if len(raw) > size:
            what = f"too long: expected {size} bytes, found more"
        raise InputError(f"{path}: is {what}; get this file again")
    return len(header)


def _check_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Raise `InputError` for the first label that is no class."""
    wrong = (labels >= CLASSES).nonzero()[0]
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{path}: row {row}: label {int(labels[row])} is not in 0 to {CLASSES - 1}; the file is damaged, or of "
            f"another dataset; get it again"
        )


def _check_md5(path: Path, raw: bytes, family: Family, role: str) -> None:
    """Raise `InputError` if these are not the published bytes, and say whose they are where that is known."""
    md5, name = hashlib.md5(raw, usedforsecurity=False).hexdigest(), FILES[role].name
    if md5 == family.md5[role]:
        return
    others = [other for other in FAMILIES if other is not family]
    whose = next((other for other in others if md5 == other.md5[role]), None)
    if whose:
        raise InputError(
            f"{path}: is not {family.name}'s {name}, but {whose.name}'s; give the other files, or build this dataset "
            f"with `modalkit build-dataset {whose.builder}`"
        )
    raise InputError(
        f"{path}: is not {family.name}'s {name}: expected MD5 {family.md5[role]} of the raw bytes, found {md5}; it is "
        f"damaged, or of another dataset whose files have the same names (such as "
        f"{', '.join(other.name for other in others)})"
    )


def schemas() -> dict[str, Schema]:
    """Return the schemas of a picture and its label."""
    from modalkit.registry import schema

    return {"image": schema("image", size=SIDE, channels=1), "label": schema("label", classes=CLASSES)}


def load(family: Family, options: IdxOptions) -> Rows:
    """Read a family's 70,000 rows, as the files have them: 50,000 to train, 10,000 to validate, 10,000 to test.

    Returns:
        `image`, uint8 `(70000, 1, 28, 28)`, and `label`, int64 `(70000,)` in 0 to 9.

    Raises:
        InputError: a file is missing or not the family's, or the download failed.
    """
    import numpy as np

    from modalkit.data import Rows

    found = _found(family, options)
    data = {role: read_idx(path, family, role) for role, path in found.items()}
    train, test = len(data["train_labels"]), len(data["test_labels"])
    values = {
        "image": np.concatenate([data["train_images"], data["test_images"]])[:, None],
        "label": np.concatenate([data["train_labels"], data["test_labels"]]).astype(np.int64),
    }
    return Rows(
        values,
        {name: np.ones(train + test, bool) for name in values},
        np.repeat(np.array([0, 1, 2], np.uint8), [train - VALID_ROWS, VALID_ROWS, test]),
        [f"train/{i:05d}" for i in range(train)] + [f"test/{i:05d}" for i in range(test)],
    )
