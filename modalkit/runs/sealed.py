"""Weights that carry their own digest: a safetensors file whose header holds the SHA-256 of the file.

The digest is that of the whole file with zeros in the place of the digest. A file and its digest are thus written at
once, and cannot be separated.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from modalkit.errors import InputError

KEY = "sha256"
"""The key of the digest in the header."""
EMPTY = "0" * 64
"""What `seal` replaces by the digest."""

_SEALED = re.compile(rb'"(.{6})":"([^"]{64})"', re.DOTALL)
_HEX = re.compile(rb"[0-9a-f]{64}")
_CHUNK = 1 << 20


def seal(path: Path) -> None:
    """Put the digest of a safetensors file into its header, where `EMPTY` stands under `KEY`.

    Other entries of the header's metadata are sorted, so that equal weights make equal files.
    """
    header = _header(path)
    text = header[8:].decode()
    start = text.index("{", 1)
    about, end = json.JSONDecoder().raw_decode(text, start)
    in_order = json.dumps(dict(sorted(about.items())), separators=(",", ":"), ensure_ascii=False)
    if len(in_order) == end - start:  # it is, unless safetensors writes JSON in another way one day
        header = header[:8] + (text[:start] + in_order + text[end:]).encode()
    place = header.index(f'"{KEY}":"{EMPTY}"'.encode()) + len(f'"{KEY}":"')
    with path.open("r+b") as file:
        file.write(header)
    digest = _digest(path, header, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest)


def check(path: Path) -> None:
    """Compare a safetensors file with the digest in its header. Files of earlier versions have none.

    This finds damage. It does not tell who wrote the file, because whoever changes it can change the digest too.

    Raises:
        InputError: they differ.
    """
    try:
        header = _header(path)
        found = _SEALED.search(header)
        # Damage may also hit the key, or make the digest something else than hexadecimal digits.
        if not found or not (found[1] == KEY.encode() or _HEX.fullmatch(found[2])):
            return
        if found[1] == KEY.encode() and _digest(path, header, found.start(2)) == found[2]:
            return
    except OSError:  # who reads the tensors says what is wrong
        return
    raise InputError(
        f"{path}: these weights are damaged (they differ from the digest in the file); copy the file again from where "
        f"it is whole, or train again"
    )


def _header(path: Path) -> bytes:
    """Return a file's length of the header and the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        return file.read(8 + length) if length <= path.stat().st_size else b""


def _digest(path: Path, header: bytes, place: int) -> bytes:
    """Return the SHA-256 of a file, with zeros at a place of its header, as hexadecimal digits."""
    sha = hashlib.sha256(header[:place] + EMPTY.encode() + header[place + len(EMPTY) :])
    with path.open("rb") as file:
        file.seek(len(header))
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest().encode()
