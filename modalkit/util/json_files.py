"""Reading JSON that may be damaged, or come from a stranger: every fault is named, in bounded time and memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modalkit.errors import InputError
from modalkit.util.files import refusal

MAX_DEPTH = 64
"""Deepest nesting of objects and lists."""
MAX_BYTES = 256 << 20
"""Largest file that is read."""
_MAX_NUMBER = 1 << 64
_SHOWN = 200


def read_json(path: Path, remedy: str = "delete it, or move it away", *, finite: bool = False) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        remedy: what the user can do about a damaged file.
        finite: whether NaN and infinities are refused.

    Raises:
        InputError: the file cannot be read, or `parse_json` refuses its content.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: cannot be read ({size} bytes are too many for this file); {remedy}")
        content = path.read_bytes()
    except OSError as error:
        why = refusal(path) or error.strerror or str(error)
        raise InputError(f"{path}: cannot be read ({why})") from None
    return parse_json(content, str(path), remedy, finite=finite)


def parse_json(
    content: bytes | str, file: str, remedy: str = "delete it, or move it away", *, finite: bool = False
) -> Any:
    """Return what JSON stands for, without anything that later code could stumble over.

    Args:
        content: the JSON, in UTF-8 if it is bytes.
        file: its name in error messages.
        remedy: what the user can do about a damaged file.
        finite: whether NaN and infinities are refused.

    Raises:
        InputError: it is not JSON, not UTF-8, nested more than 64 levels deep, or holds a key twice, a number of more
            than 64 bits, or half of a surrogate pair.

    >>> parse_json('{"rows": 3}', "a.json")
    {'rows': 3}
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_object)
        _check(value, finite)
    except RecursionError:
        raise InputError(f"{file}: cannot be read (nested too deeply); {remedy}") from None
    except ValueError as error:
        raise InputError(f"{file}: cannot be read ({clipped_error(error)}); {remedy}") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError if a key is there twice, of which the last would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _check(value: Any, finite: bool) -> None:
    """Raise ValueError for nesting, numbers and texts that are refused. It uses no recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                for key in one:
                    _check_text(key)
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str):
                _check_text(one)
            elif isinstance(one, float):
                if finite and not math.isfinite(one):
                    raise ValueError(f"holds {one}, which is no finite number")
            elif isinstance(one, int) and abs(one) >= _MAX_NUMBER:
                raise ValueError("holds a whole number of more than 64 bits")
        level = inner


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"holds half of a surrogate pair: {text[:50]!a}") from None


def clipped_error(error: BaseException) -> str:
    """Return an error's message on one line, cut to 200 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]} …"


def first_problem(error: ValidationError) -> str:
    """Return the first problem that validation found, as ``field: what is wrong``.

    >>> from pydantic import TypeAdapter
    >>> try:
    ...     TypeAdapter(dict[str, int]).validate_python({"rows": "many"}, strict=True)
    ... except ValidationError as error:
    ...     first_problem(error)
    'rows: Input should be a valid integer'
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part)[:80] for part in first["loc"])
    return ": ".join(filter(None, (field, first["msg"].removeprefix("Value error, "))))
