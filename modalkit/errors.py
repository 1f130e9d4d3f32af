"""Errors that the user can correct. The command line prints their message without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "InputError",
    "ModalkitError",
    "RunError",
    "StoppedError",
    "did_you_mean",
    "guard",
    "install",
    "is_out_of_memory",
    "unreadable",
]


class ModalkitError(Exception):
    """The work failed for a reason outside the code. The message says what to do."""

    exit_code = 1


class InputError(ModalkitError):
    """An input (recipe, data, plugin, option) cannot be used as it is."""

    exit_code = 2


class RunError(ModalkitError):
    """Work that had started cannot continue (NaN, full disk, out of memory). Finished work is kept."""

    exit_code = 1


class StoppedError(RunError):
    """Work was stopped by a signal. Finished work is kept.

    Args:
        message: how to resume.
        signal: the signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` if a known word is similar, else the empty string.

    >>> did_you_mean("imgae", ["image", "label"])
    " (did you mean 'image'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_names(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise `InputError` for the first name that is not a modality of a model, which has the `known` ones."""
    for name in names:
        if name not in known:
            raise InputError(f"no modality '{name}'{did_you_mean(name, known)}; this model has {', '.join(known)}")


def install(extra: str) -> str:
    """Return the command that installs an extra of modalkit, such as ``serve``, as text for a message."""
    return f"`pip install 'modalkit-vae[{extra}]'` (in a clone: `pip install -e '.[{extra}]'`)"


def unreadable(path: str, what: str, error: BaseException) -> InputError:
    """Return an `InputError` that says why a file cannot be read.

    Args:
        path: the file.
        what: what it should be, such as ``"a picture"``.
        error: what reading it raised.

    >>> str(unreadable("nowhere.png", "a picture", FileNotFoundError(2, "No such file")))
    'nowhere.png: there is no such file'
    """
    with suppress(OSError, ValueError):  # the text may be too long for a file name
        if not Path(path).exists():
            return InputError(f"{path}: there is no such file")
        if Path(path).is_dir():
            return InputError(f"{path}: is a folder, not {what}")
    return InputError(f"{path}: cannot be read as {what}: {getattr(error, 'strerror', None) or error}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the machine or the device ran out of memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


@contextmanager
def guard(part: str) -> Iterator[None]:
    """Turn any exception of a plugin into an `InputError` that names the part that failed.

    Args:
        part: the failing part, as the subject of the message, such as ``"modality 'x' (kind 'k'): its encoder"``.
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
