"""Reading files from object storage and other places that fsspec supports. Local paths do not import fsspec."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from modalkit.errors import InputError


def is_url(path: Path | str) -> TypeGuard[str]:
    """Return whether a path is a URL and not a path of the file system.

    >>> is_url("s3://bucket/faces"), is_url("data/faces")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def location(path: Path | str) -> Path | str:
    """Return a URL as a string without a slash at its end, and anything else as a `Path`."""
    return path.rstrip("/") if is_url(path) else Path(path)


def refuse_url(path: Path | str, what: str) -> None:
    """Raise `InputError` if a folder is a URL, also if the URL has been converted to a `Path`."""
    text = str(path)
    if is_url(text) or (len(scheme := text.partition(":/")[0]) > 1 and scheme.isalnum() and ":/" in text):
        raise InputError(f"{what} {text}: must be a folder; write there, and copy it to object storage afterwards")


def read(url: str) -> bytes:
    """Return a file's content.

    Raises:
        InputError: there is no such file, no access or no connection, or the protocol's package is not installed.
    """
    with _explained(url):
        import fsspec.core

        files, path = fsspec.core.url_to_fs(url)
        content: bytes = files.cat_file(path)
    return content


def download(url: str, target: Path, progress: Callable[[int], object]) -> None:
    """Copy a file to `target`, calling `progress` with the bytes of each part.

    Raises:
        InputError: as `read`.
    """
    with _explained(url):
        import fsspec.core
        from fsspec.callbacks import Callback

        class Progress(Callback):  # type: ignore[misc]  # fsspec has no types
            def relative_update(self, inc: int = 1) -> None:
                progress(inc)

        files, path = fsspec.core.url_to_fs(url)
        files.get_file(path, str(target), callback=Progress())


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn the errors of a protocol's package into an `InputError` that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url}: there is no such file") from error
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or "PACKAGE"
        raise InputError(f"{url}: needs a package that is not installed: {error}; `pip install {missing}`") from error
    except Exception as error:  # each protocol's package has errors of its own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise  # the local disk is full
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
        if denied or "redential" in said:
            raise InputError(
                f"{url}: access is refused; set the credentials that its protocol's package needs ({said})"
            ) from error
        raise InputError(f"{url}: cannot be read ({said})") from error
