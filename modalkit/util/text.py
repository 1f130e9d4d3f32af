"""Text laid out for reading: tables in columns, Markdown tables, and lists cut to a readable length."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def clipped(text: str, most: int) -> str:
    """Return a text of at most `most` characters.

    >>> clipped("nonflavanoid_phenols", 8), clipped("hue", 8)
    ('nonflav…', 'hue')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def columns(lines: Iterable[Sequence[object]], *, align: str = "", gap: int = 2, least: Sequence[int] = ()) -> str:
    """Lay lines of the same number of cells out in columns, each as wide as its widest cell.

    Args:
        lines: the lines; an empty first cell in every line indents the table.
        align: ``<`` or ``>`` for each column, to the left or to the right; left for columns beyond its end.
        gap: spaces between columns.
        least: the least width of each column, without the gap; 0 for columns beyond its end.

    Example:
        >>> print(columns([("a", "b"), ("longer", "c")]))
        a       b
        longer  c
        >>> print(columns([("class", 9), ("image", 120)], align="<>"))
        class    9
        image  120
    """
    cells = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths = [max(width, low) for width, low in zip(widths, [*least, *[0] * len(widths)], strict=False)]
    sides = align.ljust(len(widths), "<")
    padded = (
        (" " * gap).join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        for line in cells
    )
    return "\n".join(line.rstrip() for line in padded)


def markdown_table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown.

    >>> print(markdown_table(("name", "rows"), [("a|b", 3)]))
    | name | rows |
    | --- | --- |
    | a\\|b | 3 |
    """
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in every)


def evenly_spaced(things: Sequence[T], most: int = 24) -> list[T]:
    """Return at most `most` of these things, evenly spaced, the first and the last among them.

    >>> evenly_spaced(range(1000), 4)
    [0, 333, 666, 999]
    """
    gaps = min(len(things), most) - 1
    return [things[i * (len(things) - 1) // gaps] for i in range(gaps + 1)] if gaps > 0 else list(things[:most])


def listed(names: Collection[str], most: int = 24) -> str:
    """Return names separated by commas; of too many the first, and how many more there are.

    >>> listed("abcde", 3)
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more
