"""How text for people is laid out: in columns, and no more names than can be read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

T = TypeVar("T")


def clipped(text: str, most: int) -> str:
    """Return a text of at most `most` characters.

    >>> clipped("nonflavanoid_phenols", 8), clipped("hue", 8)
    ('nonflav…', 'hue')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lay lines of the same number of cells out in columns.

    >>> print(columns([("a", "b"), ("longer", "c")]))
    a       b
    longer  c
    """
    widths = [max(map(len, cells)) + 2 for cells in zip(*lines, strict=True)]
    padded = ("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def some(things: Sequence[T], most: int = 24) -> list[T]:
    """Return at most `most` of some things, evenly spaced, the first and the last among them.

    >>> some(range(1000), 4)
    [0, 333, 666, 999]
    """
    gaps = min(len(things), most) - 1
    return [things[i * (len(things) - 1) // gaps] for i in range(gaps + 1)] if gaps > 0 else list(things[:most])


def listed(names: Collection[str], most: int = 24) -> str:
    """Return names separated by commas, and of too many the first.

    >>> listed("abcde", 3)
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more
