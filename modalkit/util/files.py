"""Writing files so that a kill at any moment leaves either the old content or the new, never a part."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modalkit.errors import InputError, RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Args:
        path: where the content must end up; its folder is made if needed.
        write: writes the whole content to the path it is given.

    Raises:
        RunError: the disk is full or cannot be written; what was at `path` is untouched.
    """
    # Drawn, since a process of another machine that writes here may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:  # not only OSError: safetensors and torch.save raise their own for a full disk
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = getattr(error, "errno", None) in _FULL or "os error 28" in str(error) or "os error 27" in str(error)
        if full or "file write failed" in str(error):
            raise RunError(
                f"{path}: cannot write, the disk is full; free some space and run the same command again "
                f"(what was finished is kept)"
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RunError(f"{path}: cannot write: {error}") from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented and ending in a newline."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing but a lock and what a killed process left unfinished."""
    return not any(path.name != ".lock" and not _is_leftover(path) for path in folder.iterdir())


def remove_leftovers(*folders: Path) -> None:
    """Delete what a killed process left unfinished in folders that this process holds."""
    for folder in folders:
        for path in folder.glob(".*.tmp") if folder.is_dir() else ():
            path.unlink(missing_ok=True)


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder for one process; the operating system lets go of it when that process ends, however.

    Raises:
        InputError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make this folder: {error.strerror}") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: another process is {doing} here; wait for it or choose another folder") from None
    try:
        yield
    finally:
        lock.release()
