"""Unfinished files: their names say which process writes them, so that those of killed processes can be deleted."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_OWNED = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.tmp", re.DOTALL)
_OLD = 7 * 24 * 3600.0
"""Seconds after which an unfinished file of another machine counts as given up."""

_writing: set[Path] = set()
_looked_at: set[Path] = set()


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield the path of an unfinished file or folder beside `path`; it is deleted at the end if it is still there.

    A process that writes into a folder for the first time deletes what killed processes left there.

    Args:
        path: what the file will be renamed to; its folder exists.
    """
    folder = path.parent.absolute()
    if folder not in _looked_at:
        _looked_at.add(folder)
        remove_given_up(folder)
    # The random part tells threads apart.
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    _writing.add(temporary.absolute())
    try:
        yield temporary
    finally:
        remove(temporary)
        _writing.discard(temporary.absolute())


def remove_given_up(folder: Path) -> None:
    """Delete the unfinished files in a folder whose process has ended; files of other programs stay."""
    with suppress(OSError):
        for path in folder.glob(".*.tmp"):
            if is_given_up(path):
                remove(path)


def is_given_up(path: Path) -> bool:
    """Tell whether a path is an unfinished file of this program whose process has ended.

    Of a process on another machine this is not known. Its file counts as given up after seven days without a change.
    """
    if (owner := _OWNED.fullmatch(path.name)) is None:
        return False
    machine, process = owner[1], int(owner[2])
    if machine != _machine():
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > _OLD
        return False
    return path.absolute() not in _writing if process == os.getpid() else not _is_running(process)


def is_being_written(path: Path) -> bool:
    """Tell whether a process of this machine that still runs is writing an unfinished file."""
    owner = _OWNED.fullmatch(path.name)
    return owner is not None and owner[1] == _machine() and not is_given_up(path)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Return what tells this machine, or container, from others: numbers of processes have a meaning only within it."""
    processes = ""
    with suppress(OSError):
        processes = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{socket.gethostname()} {processes}".encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere, signal 0 would end the process
        return True
    with suppress(OSError):
        # A process that has ended keeps its number until its parent asks for its status, which some parents never do.
        # The state follows the name, which is in brackets and may hold any character.
        if Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in ("Z", "X"):
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # a process of another user
        return True
    return True
