"""Reads face photos as people have them, CelebA's zip or a folder of photos, and gives each a split."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from modalkit.errors import InputError, RunError

from .annotations import Annotations

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_OTHERS = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jfif", ".ppm", ".pgm"})
"""Of pictures that are not read here; they are counted."""
ZIP, FOLDER = "img_align_celeba.zip", "img_align_celeba"

_log = logging.getLogger(__name__)

Rule = Literal["official", "identity", "random"]


@dataclass(frozen=True)
class Photo:
    """One photo of a source.

    Attributes:
        key: its path below the deepest folder that holds all photos, such as ``000001.jpg``.
        member: its name in the zip, or its path below the folder.
        size: bytes; -1 where that cannot be told.
    """

    key: str
    member: str
    size: int


@dataclass(frozen=True)
class Source:
    """Photos sorted by key, in a zip or a folder, and the folders where annotation files may lie."""

    container: Path
    photos: tuple[Photo, ...]
    beside: tuple[Path, ...]


def open_source(path: Path) -> Source:
    """Find the photos of a zip, of a folder that holds CelebA's zip or folder, or of any folder.

    Raises:
        InputError: nothing there, a damaged zip, or no photos.
    """
    path = path.absolute()
    if path.is_dir():
        inside = [p for p in (path / ZIP, path / FOLDER) if p.exists()]
        container = inside[0] if inside else path
    elif path.exists():
        container = path
    else:
        raise InputError(f"{path}: there is no such zip or folder")
    files = list(_in_zip(container) if container.is_file() else _in_folder(container))
    found = [(member, size) for member, size in files if PurePosixPath(member).suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{container}: holds no photos ({', '.join(sorted(SUFFIXES))})")
    if others := sorted(member for member, _ in files if PurePosixPath(member).suffix.lower() in _OTHERS):
        _log.warning(
            f"{container}: {len(others):,} pictures are not used, such as {others[0]}; photos end in "
            f"{', '.join(sorted(SUFFIXES))}, so convert them to one of these"
        )
    within = posixpath.commonpath([_rooted(member).parent for member, _ in found])
    photos = [Photo(_text(str(_rooted(m).relative_to(within))), m, size) for m, size in found]
    official = container.is_file() or container.name == FOLDER
    beside = (container, container.parent) if official else (container,)
    return Source(container, tuple(sorted(photos, key=lambda photo: photo.key)), beside)


def _rooted(member: str) -> PurePosixPath:
    """Return a member's path below the container; a zip may write it with slashes in front."""
    return PurePosixPath("/", member.lstrip("/"))


def _text(name: str) -> str:
    """Return a file name with the bytes that are not UTF-8 written out, so that it can be stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_picture(member: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in member.parts)
    return member.suffix.lower() in SUFFIXES | _OTHERS and not hidden


def _in_zip(container: Path) -> Iterator[tuple[str, int]]:
    members = _open_zip(container, container.stat().st_mtime_ns).infolist()
    sizes = {info.filename: info.file_size for info in members if not info.is_dir()}  # a zip may repeat a name
    yield from ((name, size) for name, size in sizes.items() if _is_picture(PurePosixPath(name)))


def _in_folder(container: Path) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for folder, below, files in os.walk(container, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links that lead around in a circle
            below.clear()
            continue
        seen.add(real)
        for file in files:
            path = Path(folder, file)
            member = PurePosixPath(path.relative_to(container).as_posix())
            if _is_picture(member):
                try:
                    yield str(member), path.stat().st_size
                except OSError:  # a broken link: reading it will say so, and set it aside
                    yield str(member), -1


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: this folder cannot be read: {error.strerror}; mend that, or move it away")


@lru_cache(maxsize=1)
def _open_zip(container: Path, changed: int) -> zipfile.ZipFile:
    """Open a zip, once a process as long as it is not changed: reading 200,000 names takes seconds."""
    try:
        return zipfile.ZipFile(container)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{container}: not a complete zip file ({error}); download it again, or give a folder of photos"
        ) from None


def read_photo(container: Path, photo: Photo) -> bytes:
    """Return the content of a photo's file.

    Raises:
        OSError: it cannot be read, or its part of the zip is damaged.
        RunError: the whole source is gone, such as an unmounted disk.
    """
    if not container.exists():
        raise RunError(f"{container}: is gone; bring it back and run the same command again (finished tasks are kept)")
    if container.is_dir():
        return (container / photo.member).read_bytes()
    try:
        return _open_zip(container, container.stat().st_mtime_ns).read(photo.member)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, RuntimeError, ValueError) as error:
        raise OSError(f"damaged in the zip: {error}") from error


def assign_splits(
    rule: Literal["auto", "official", "identity", "random"], keys: Sequence[str], notes: Annotations, seed: int
) -> tuple[Rule, list[int]]:
    """Give each photo a split.

    ``auto`` takes the official split where it lists every photo and leaves none of the three empty, else goes by
    identity where that is known of every photo, so that nobody is in two splits, else by file name.

    Args:
        rule: how.
        keys: the photos used.
        notes: the annotations.
        seed: of the splits that are drawn.

    Returns:
        The rule that was used, and 0 train, 1 valid or 2 test for each key.

    Raises:
        InputError: an annotation that was asked for does not cover every photo.
    """
    for name, table in (("official", notes.partition), ("identity", notes.identity)):
        missing = next((key for key in keys if table is None or key not in table), None)
        if rule == name and missing is not None:
            where = "its annotation file is not there" if table is None else f"it does not list {missing}"
            raise InputError(f"splits: '{name}' cannot be used: {where}; use auto or random")
        if rule not in ("auto", name) or table is None or missing is not None:
            continue
        if name == "identity":
            return "identity", _draw([str(table[key]) for key in keys], seed)
        if rule == name or {table[key] for key in keys} == {0, 1, 2}:
            return "official", [table[key] for key in keys]
    return "random", _draw(list(keys), seed)


def _draw(groups: Sequence[str], seed: int) -> list[int]:
    """Split 80/10/10 by a hash of each one's group, which stays what it is when photos are added.

    Where that leaves a split empty, as it can with few groups, the last two of them become validation and test.
    """
    place = {g: int.from_bytes(hashlib.sha256(f"{seed}:{g}".encode()).digest()[:8], "big") / 2**64 for g in groups}
    split = {group: int(at >= 0.8) + int(at >= 0.9) for group, at in place.items()}
    if len(set(split.values())) < 3 <= len(place):
        ranked = sorted(place, key=lambda group: place[group])
        split |= {ranked[0]: 0, ranked[-2]: 1, ranked[-1]: 2}
    elif len(place) < 3:
        split = dict.fromkeys(place, 0)
    return [split[group] for group in groups]
