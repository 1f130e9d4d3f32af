"""Damage of files, chosen by a random generator: of bytes, of JSON, of text, and of tensors by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from typing import Any

import numpy as np

NUMBERS = (0, -1, 1, 255, 2**31, 2**32 - 1, 2**63 - 1, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, -1e-320)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "x", " ", "\0", "\ud800", "a" * 5000, "é漢", "../../etc/passwd", "1e999", "nan", "-1", "{}", "\n", "%s")
WORDS = (*map(str, NUMBERS[:-4]), ".inf", ".nan", "~", "[]", "{}", "[[[[", "{a: {b: {", "&a *a", "<<: *a", "!!python/x")
WORDS += ("- ", ": ", "'", '"', "\t", "|", ">", "null", "true", "0x7fffffffffffffff", "é", "\u2028", ",,,", ";", "1,5")


def of_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return bytes with one to four places changed."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, size = chance.randrange(len(made) + 1), chance.choice((1, 2, 4, 8, 16, 64))
        if chance.random() < 0.3:  # headers stand first
            at = min(at, chance.randrange(64))
        match chance.randrange(8):
            case 0 | 1 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 2:
                made[at : at + size] = chance.randbytes(size)
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[at : at + size]
            case 5:
                number = chance.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))
                made[at : at + 8] = number.to_bytes(8, chance.choice(("little", "big")))
            case 6:
                del made[at:]
            case _:
                made[at : at + size] = bytes(size)
    return bytes(made)


def value(chance: random.Random) -> Any:
    """Return a value of some type, such as a mistaken or malicious program could write."""
    match chance.randrange(9):
        case 0:
            return None
        case 1:
            return chance.choice((True, False))
        case 2 | 3:
            return chance.choice(NUMBERS)
        case 4:
            return chance.choice(NOT_FINITE)
        case 5 | 6:
            return chance.choice(TEXTS)
        case 7:
            return chance.choice(([], {}, [1], ["a", "a"], {"a": 1}, [[]], [None], {"": None}, [1.5, "x"]))
        case _:
            made: Any = 1
            for _ in range(chance.choice((3, 40, 90))):
                made = [made] if chance.random() < 0.5 else {"a": made}
            return made


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a tree with each of its keys or indices."""
    for key in list(tree) if isinstance(tree, MutableMapping) else range(len(tree)):
        yield tree, key
        if isinstance(inner := tree[key], MutableMapping | MutableSequence):
            yield from places(inner)


def of_tree(tree: Any, chance: random.Random, of_leaf: Callable[[Any, random.Random], Any] | None = None) -> Any:
    """Return a tree of mappings and lists with one to three places changed; the tree itself is used up."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not isinstance(tree, MutableMapping | MutableSequence) or not (found := list(places(tree))):
            return value(chance)
        inside, key = chance.choice(found)
        match chance.randrange(7):
            case 0 | 1:
                inside[key] = value(chance)
            case 2:
                del inside[key]
            case 3 if isinstance(inside, MutableMapping):
                inside[chance.choice((f"{key}x", "", "\0", "a" * 300, "\ud800", key))] = inside.pop(key)
            case 4 if isinstance(inside, MutableMapping):
                inside[chance.choice(("new", "kind", "type", "rows", "0"))] = value(chance)
            case 5 if isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
                inside[key] = chance.choice((inside[key] + 1, -inside[key], inside[key] * 1000, str(inside[key])))
            case _ if of_leaf is not None:
                inside[key] = of_leaf(inside[key], chance)
            case _:
                other, name = chance.choice(found)
                if not isinstance(other[name], MutableMapping | MutableSequence):
                    inside[key] = other[name]
    return tree


def of_json(content: bytes, chance: random.Random) -> bytes:
    """Return JSON with places changed, a key given twice, or deep nesting; sometimes any bytes changed."""
    if (kind := chance.random()) < 0.25:
        return of_bytes(content, chance)
    if kind < 0.28:
        return b"[" * (deep := chance.choice((50, 2000, 200_000))) + b"]" * deep
    text = json.dumps(of_tree(json.loads(content), chance), ensure_ascii=chance.random() < 0.7, indent=2)
    if kind < 0.4 and '"' in text:  # a line, and so mostly a key, twice
        lines = text.splitlines()
        at = chance.randrange(len(lines))
        text = "\n".join([*lines[:at], lines[at], *lines[at:]])
    return text.encode(errors="surrogatepass")


def of_lines(content: bytes, chance: random.Random) -> bytes:
    """Return lines of JSON with one changed, or any bytes changed."""
    lines = content.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = of_json(lines[at], chance)
    return b"\n".join(lines) + b"\n" * chance.randrange(2)


def of_text(content: bytes, chance: random.Random) -> bytes:
    """Return a text with words replaced, lines moved, or any bytes changed."""
    if chance.random() < 0.25:
        return of_bytes(content, chance)
    lines = content.decode().splitlines()
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines)) if lines else 0
        match chance.randrange(6):
            case 0 if lines:
                del lines[at]
            case 1 if lines:
                lines.insert(chance.randrange(len(lines)), lines[at])
            case 2 if lines:
                lines[at] = " " * chance.randrange(5) + lines[at]
            case _ if lines:
                line = lines[at]
                start = chance.randrange(len(line) + 1)
                end = min(len(line), start + chance.choice((0, 0, 1, 3, 10)))
                lines[at] = line[:start] + chance.choice(WORDS) + line[end:]
    return "\n".join(lines).encode(errors="surrogatepass")


def of_arrays(arrays: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return arrays by name with one changed in dtype, shape, values or name."""
    name = chance.choice(sorted(arrays))
    array = np.array(arrays[name])
    match chance.randrange(9):
        case 0:
            del arrays[name]
            return arrays
        case 1:
            arrays[chance.choice((f"{name}x", "x", "value.", "part.image", "known.vector"))] = arrays.pop(name)
            return arrays
        case 2 if array.dtype.kind != "U":
            array = array.astype(chance.choice(("uint8", "int64", "float32", "float64", "int16", "bool", "float16")))
        case 3:
            array = array[: chance.randrange(len(array) + 1)] if array.ndim else array[None]
        case 4:
            array = array.reshape(-1) if chance.random() < 0.5 else array[..., None]
        case 5:
            array = np.concatenate([array, array]) if array.ndim else array
        case 6 if array.size and array.dtype.kind != "U":
            array.reshape(-1)[chance.randrange(array.size)] = chance.choice((1, 2, 3, 127, 0))
        case 7 if array.size and array.dtype.kind in "if":
            odd = (2**62, -1, -(2**62)) if array.dtype.kind == "i" else (*NOT_FINITE, -1.0, 1e38)
            array.reshape(-1)[chance.randrange(array.size)] = chance.choice(odd)
        case _:
            array = np.zeros(chance.choice(((), (0,), (1,), (1, 1, 1, 1), (0, 7))), array.dtype)
    arrays[name] = np.ascontiguousarray(array) if array.ndim else array
    return arrays
