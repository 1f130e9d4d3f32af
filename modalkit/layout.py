"""Text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lay lines of the same number of cells out in columns.

    >>> print(columns([("a", "b"), ("longer", "c")]))
    a       b
    longer  c
    """
    widths = [max(map(len, cells)) + 2 for cells in zip(*lines, strict=True)]
    padded = ("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
