"""Reads CelebA's annotation files, as its authors publish them (.txt) or as others copy them (.csv)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from modalkit.errors import InputError

_log = logging.getLogger(__name__)

ATTRIBUTES = (
    *("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses", "Gray_Hair"),
    *("Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Mustache", "Pale_Skin", "Receding_Hairline", "Smiling"),
    *("Straight_Hair", "Wavy_Hair", "Wearing_Hat"),
)
"""The 18 attributes of the paper, out of CelebA's 40."""

_SUFFIXES = (".txt", ".csv")
_LITTLE = 0.5
"""A file that lists less than this share of the photos is warned about."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Annotations:
    """What the annotation files say, by the photo's key; None where a file is not there or lists none of the photos.

    Attributes:
        attributes: the 18 `ATTRIBUTES`, 0 or 1.
        partition: 0 train, 1 valid, 2 test.
        identity: number of the person.
    """

    attributes: dict[str, tuple[int, ...]] | None
    partition: dict[str, int] | None
    identity: dict[str, int] | None


class Names:
    """The photos that an annotation file may list.

    A file may list ``000001.jpg`` where the photo is kept as ``000001.png``. So a name that is no photo's stands for
    the only photo with its stem.

    Args:
        keys: the photos' keys.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = frozenset(keys)
        count = Counter(map(_stem, self.keys))
        self._by_stem = {_stem(key): key for key in self.keys if count[_stem(key)] == 1}

    def of(self, name: str) -> str | None:
        """Return the key of the photo that a file lists by this name, or None."""
        return name if name in self.keys else self._by_stem.get(_stem(name))


def read_annotations(folders: Sequence[Path], keys: Collection[str]) -> Annotations:
    """Read those of CelebA's annotation files that lie in one of `folders`.

    Args:
        folders: where they may lie.
        keys: the photos that matter; other lines are checked but not kept.

    Raises:
        InputError: a line is malformed; names file and line.
    """
    photos = Names(keys)

    def find(name: str) -> Path | None:
        paths = (folder / f"{name}{suffix}" for folder in folders for suffix in _SUFFIXES)
        return next((path for path in paths if path.is_file()), None)

    attributes, partition = find("list_attr_celeba"), find("list_eval_partition")
    identity = find("identity_CelebA")
    return Annotations(
        _matched(attributes, _attributes(attributes), photos) if attributes else None,
        _matched(partition, _numbers(partition, below=3), photos) if partition else None,
        _matched(identity, _numbers(identity), photos) if identity else None,
    )


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def _matched(path: Path, lines: Iterator[tuple[int, str, Value]], photos: Names) -> dict[str, Value] | None:
    """Return by photo what a file lists, and say if it lists few of the photos; None if it lists none of them."""
    table: dict[str, Value] = {}
    seen: set[str] = set()
    listed = 0
    for number, name, value in lines:
        listed += 1
        if (key := photos.of(name)) is None:
            continue
        if name in seen:
            raise InputError(f"{path}:{number}: {name} is listed twice")
        seen.add(name)
        if name == key or key not in table:  # the photo's own name goes before a name with its stem
            table[key] = value
    there = len(photos.keys)
    if len(table) < there:
        say = _log.warning if len(table) < _LITTLE * there else _log.info
        few = f"{len(table):,} of these {there:,} photos" if table else f"none of these {there:,} photos"
        say(f"{path}: lists {listed:,} images, {few}{'' if table else ', so it is not used'}")
    return table or None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not blank."""
    split: Callable[[str], list[str]] = str.split
    if path.suffix == ".csv":
        split = _cells
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, split(line)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(",")]


def _attributes(path: Path) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Yield line, name and attributes of each photo that a file lists."""
    lines = _lines(path)
    number, header = next(lines, (1, []))
    if path.suffix == ".csv":
        header = header[1:]  # the column of names
    else:
        if len(header) != 1 or not header[0].isdecimal():
            raise InputError(f"{path}:{number}: the first line must be the number of images")
        number, header = next(lines, (number + 1, []))
    if missing := [name for name in ATTRIBUTES if name not in header]:
        raise InputError(f"{path}:{number}: the header has no {', '.join(missing)}")
    columns = [header.index(name) + 1 for name in ATTRIBUTES]
    for number, fields in lines:
        if len(fields) != len(header) + 1 or fields[1:].count("1") + fields[1:].count("-1") != len(header):
            raise InputError(f"{path}:{number}: expected a file name and {len(header)} values, each 1 or -1")
        yield number, fields[0], tuple(int(fields[column] == "1") for column in columns)


def _numbers(path: Path, below: int | None = None) -> Iterator[tuple[int, str, int]]:
    """Yield line, name and number of each photo that a file lists."""
    what = "a whole number" if below is None else f"a number from 0 to {below - 1}"
    for place, (number, fields) in enumerate(_lines(path)):
        if place == 0 and path.suffix == ".csv" and len(fields) == 2 and not fields[1].isdecimal():
            continue  # its header
        if len(fields) != 2 or not fields[1].isdecimal() or (below is not None and int(fields[1]) >= below):
            raise InputError(f"{path}:{number}: expected a file name and {what}")
        yield number, fields[0], int(fields[1])
