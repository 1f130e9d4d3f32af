"""Writing files atomically: a kill at any moment leaves either the old content or the new, never a part of it."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modalkit.errors import InputError, RunError
from modalkit.util.temporary import is_being_written, remove, temporary_beside

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            write(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(mode)  # as of any new file: safetensors makes its files private
            temporary.replace(path)
        _log.debug(f"wrote {path}")
    except Exception as error:  # not only OSError: safetensors raises its own for a full disk
        full = getattr(error, "errno", None) in _FULL or "os error 28" in str(error) or "os error 27" in str(error)
        if full or "file write failed" in str(error):
            raise RunError(
                f"{path}: cannot write, the disk is full; free some space and run the same command again "
                f"(finished work is kept)"
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RunError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error
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


def refusal(path: Path) -> str | None:
    """Return why the system does not let this user read a file, or None if it does or if there is no such file."""
    try:
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or str(error)


def is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing but a lock and unfinished files of a killed process."""
    return not any(path.name != ".lock" and not _is_leftover(path) for path in folder.iterdir())


def remove_leftovers(*folders: Path) -> None:
    """Delete unfinished files of killed processes, in folders that this process has locked.

    A file that another process is writing stays: not every command locks the folder, such as a report of a run.
    """
    for folder in folders:
        for path in folder.glob(".*.tmp") if folder.is_dir() else ():
            if not is_being_written(path):
                remove(path)


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
        RunError: the folder cannot be made, or this user cannot write there.
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
    except OSError as error:
        raise RunError(f"{folder}: cannot write in this folder ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()
