"""Errors that a person can act on; the command line prints their message, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class ModalkitError(Exception):
    """Something failed for a reason outside the code; the message says what to do about it."""

    exit_code = 1


class InputError(ModalkitError):
    """What was given (recipe, data, plugin, option) cannot be used as it is."""

    exit_code = 2


class RunError(ModalkitError):
    """Work that had started cannot go on (NaN, disk full, out of memory); what was finished is kept."""

    exit_code = 1


class StoppedError(RunError):
    """Work was stopped by a signal; what was finished is kept.

    Args:
        message: what to do to go on.
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a near miss, else the empty string.

    >>> did_you_mean("imgae", ["image", "label"])
    " (did you mean 'image'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def install(extra: str) -> str:
    """Return in words how to install an optional part of modalkit."""
    return f"`pip install 'modalkit-vae[{extra}]'` (in a clone: `pip install -e '.[{extra}]'`)"


def unreadable(path: str, what: str, error: BaseException) -> InputError:
    """Return the error of a file that cannot be read, in plain words.

    >>> str(unreadable("nowhere.png", "a picture", FileNotFoundError(2, "No such file")))
    'nowhere.png: there is no such file'
    """
    with suppress(OSError, ValueError):  # a name may be too long for one
        if not Path(path).exists():
            return InputError(f"{path}: there is no such file")
        if Path(path).is_dir():
            return InputError(f"{path}: is a folder, not {what}")
    return InputError(f"{path}: cannot be read as {what}: {getattr(error, 'strerror', None) or error}")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that the machine or the device ran out of memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


@contextmanager
def guard(part: str) -> Iterator[None]:
    """Turn whatever a plugin raises into an `InputError` that names the part of it which failed.

    Args:
        part: the subject of the message, such as ``"modality 'x' (kind 'k'): its encoder"``.
    """
    try:
        yield
    except ModalkitError:
        raise
    except Exception as error:  # a plugin may raise anything
        if is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())
        said = said if len(said) <= 300 else f"{said[:300]} …"
        raise InputError(f"{part} failed: {type(error).__name__}: {said}") from error
