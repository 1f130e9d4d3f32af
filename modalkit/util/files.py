"""Writing files atomically: a kill at any moment leaves either the old content or the new, never a part of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modalkit.errors import InputError, RunError

_log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Args:
        path: the file to write; its folder is made if necessary.
        write: writes the whole content to the path that it is called with.

    Raises:
        RunError: the disk is full or cannot be written. The earlier content of `path` is unchanged.
    """
    # A random name, since a process on another machine that writes here may have the same process number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _log.debug(f"wrote {path}")
    except Exception as error:  # not only OSError: safetensors and torch.save raise their own for a full disk
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = getattr(error, "errno", None) in _FULL or "os error 28" in str(error) or "os error 27" in str(error)
        if full or "file write failed" in str(error):
            raise RunError(
                f"{path}: cannot write, the disk is full; free some space and run the same command again "
                f"(finished work is kept)"
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
    """Tell whether a folder holds nothing but a lock and unfinished files of a killed process."""
    return not any(path.name != ".lock" and not _is_leftover(path) for path in folder.iterdir())


def remove_leftovers(*folders: Path) -> None:
    """Delete unfinished files of a killed process, in folders that this process has locked."""
    for folder in folders:
        for path in folder.glob(".*.tmp") if folder.is_dir() else ():
            path.unlink(missing_ok=True)


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Lock a folder for this process. The operating system frees the lock when the process ends, even if killed.

    Args:
        folder: made if necessary.
        doing: a verb for the message to another process, such as ``"training"``.

    Raises:
        InputError: another process has locked it.
        RunError: the folder cannot be made.
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
