"""The record of the code and the URLs that this user has allowed, in the user's own configuration folder.

A recipe, a run or an export cannot write there. An entry is a digest of the code's content and of how the recipe uses
it, so code that changes is asked for again; or it is a digest of the URL of a dataset.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from modalkit.errors import InputError, RunError
from modalkit.util.files import write_json

_log = logging.getLogger(__name__)


def config_folder() -> Path:
    """Return the configuration folder: ``MODALKIT_CONFIG``, or ``modalkit`` in the user's own.

    The user's own is ``XDG_CONFIG_HOME`` or ``~/.config``, and on Windows ``APPDATA``.
    """
    if own := os.environ.get("MODALKIT_CONFIG"):
        return Path(own)
    where = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(where or Path.home() / ".config") / "modalkit"


def record() -> Path:
    """Return the file of the record."""
    return config_folder() / "trusted.json"


def has(digest: str) -> bool:
    """Tell whether the user has allowed what has this digest.

    Raises:
        InputError: the record is damaged.
    """
    return digest in _read()


def knows(recipe: Path) -> bool:
    """Tell whether the user has allowed any content of this recipe's file."""
    return any(entry.get("recipe") == str(recipe.resolve()) for entry in _read().values())


def add(digest: str, recipe: Path, contents: Mapping[str, str]) -> None:
    """Record what the user has allowed.

    Args:
        digest: of the code and its use.
        recipe: the file that names the code.
        contents: by the code's name, the SHA-256 of its file; both are for readers of the record only.
    """
    _add(digest, {"recipe": str(recipe.resolve()), "code": dict(contents)})


def add_url(digest: str, url: str) -> None:
    """Record that the user trained from a URL.

    Args:
        digest: of the URL.
        url: its host is kept for readers of the record, and nothing else, because a URL can hold a password.
    """
    _add(digest, {"host": urlsplit(url).hostname or ""})


def _add(digest: str, entry: Mapping[str, Any]) -> None:
    try:
        config_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(config_folder() / ".lock", timeout=10):
            entries = _read()
            if digest not in entries:
                write_json(record(), {**entries, digest: dict(entry)})
    except (OSError, RunError) as error:  # a lock that is not free in time is an OSError too
        _log.warning(f"{record()}: cannot be written ({error}), so --trust is needed again next time")


def digest(parts: Sequence[Any]) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content(file: Path | None, reference: str) -> str:
    """Return the SHA-256 of the file that code is in, or an empty text if there is no file.

    Args:
        file: the file, if it is known.
        reference: otherwise ``package.module:Name``; nothing is imported to find it.
    """
    try:
        file = file or _source(reference.rpartition(":")[0])
        return hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    except (OSError, ValueError):
        return ""


def _source(module: str) -> Path | None:
    """Return the file of a module, without running the packages that it is in."""
    folders, found, parts = None, None, module.split(".")
    for count in range(1, len(parts) + 1):
        found = PathFinder.find_spec(".".join(parts[:count]), folders)
        if found is None:
            return None
        folders = found.submodule_search_locations
    return Path(found.origin) if found and found.has_location and found.origin else None


def _read() -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(record().read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{record()}: cannot be read ({error}); delete it, and give --trust again") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{record()}: is damaged; delete it, and give --trust again")
    return entries
