"""Pictures for users to look at: one value as its kind shows it, and sheets of many values side by side."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modalkit import registry
from modalkit.errors import guard
from modalkit.plugin import Picture, Schema
from modalkit.util.text import evenly_spaced

if TYPE_CHECKING:
    from torch import Tensor

    from modalkit.data import Batch, Dataset

Cell: TypeAlias = Picture | str | None
"""What one place of a sheet holds: a picture, a text, or None where a modality is absent."""

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont
_CELL, _GAP, _LABEL, _PAPER, _INK, _ABSENT = 96, 4, 92, (255, 255, 255), (30, 30, 30), (225, 225, 225)
_LINES = 6
MOST_COLUMNS = 12
"""How many modalities fit on a sheet; if there are more, it shows the ones that `chosen` returns."""


def show(schema: Schema, value: Tensor) -> Picture | str:
    """Return one value `(*event_shape)` as its kind shows it: a uint8 picture or a text.

    Raises:
        InputError: the plugin's `show` failed, or returned something else.
    """
    with guard(f"kind '{schema.kind}': its show"):
        shown: Picture | str = registry.modality(schema.kind).show(schema, value.detach().cpu())
        if not isinstance(shown, (str, np.ndarray)):
            raise TypeError(f"returned a {type(shown).__name__}, neither a text nor a uint8 array")
    return shown


def shown_as_picture(schema: Schema) -> bool:
    """Tell whether a kind shows its values as pictures, not as texts.

    >>> shown_as_picture(registry.schema("image", size=4)), shown_as_picture(registry.schema("vector", size=4))
    (True, False)
    """
    return not isinstance(show(schema, schema.unpack(schema.zeros(1))[0]), str)


def chosen(schemas: Mapping[str, Schema], most: int) -> list[str]:
    """Choose at most `most` modalities to show, and return them in their order.

    Kinds whose predictions are classes or bits come first, because they are the easiest to read. If both these and the
    others are many, each get half of the places. Within each, the modalities are evenly spaced.

    Example:
        >>> vector, label = registry.schema("vector", size=1), registry.schema("label", classes=2)
        >>> chosen({"a": vector, "b": vector, "c": vector, "d": label}, 3)
        ['a', 'c', 'd']
    """
    classes = [name for name, schema in schemas.items() if registry.modality(schema.kind).outcome.has_classes]
    others = [name for name in schemas if name not in set(classes)]
    first = evenly_spaced(classes, max(most - len(others), most // 2))
    kept = {*first, *evenly_spaced(others, most - len(first))}
    return [name for name in schemas if name in kept]


def row_cells(schemas: Mapping[str, Schema], batch: Batch, row: int, names: Sequence[str]) -> list[Cell]:
    """Show what one row of a batch holds of each modality in `names`; None where it is absent."""
    columns = list(batch.values)
    return [
        show(schemas[n], schemas[n].unpack(batch.values[n][row : row + 1])[0])
        if batch.present[row, columns.index(n)]
        else None
        for n in names
    ]


def dataset_sheet(dataset: Dataset, schemas: Mapping[str, Schema], rows: Tensor) -> Image.Image:
    """Show some rows of a dataset: one line for each row, one column for each modality."""
    batch, names = dataset[rows], list(schemas)
    cells = [row_cells(schemas, batch, i, names) for i in range(len(rows))]
    return sheet(cells, [dataset.key(int(row)) for row in rows], names)


def sheet(cells: Sequence[Sequence[Cell]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Lay out a table of pictures and texts.

    Args:
        cells: one list for each row; a uint8 picture `(height, width[, 3])`, a text, or None for what is absent.
        rows: a title for each row.
        columns: a title for each column, of one line or more.
    """
    pitch, top = _CELL + _GAP, 6 + 14 * max((title.count("\n") + 1 for title in columns), default=1)
    page = Image.new("RGB", (_LABEL + pitch * len(columns), top + pitch * len(rows)), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for x, title in enumerate(columns):
        pen.multiline_text((_LABEL + x * pitch + 2, 4), _fitted(title.split("\n"), _CELL - 4, font), _INK, font)
    for y, (title, line) in enumerate(zip(rows, cells, strict=True)):
        words = textwrap.wrap(title, 13, break_long_words=False)
        pen.multiline_text((4, top + y * pitch + 4), _fitted(words[:_LINES], _LABEL - 8, font), _INK, font)
        for x, cell in enumerate(line):
            _paint(page, pen, (_LABEL + x * pitch, top + y * pitch), cell, font)
    return page


def _fitted(lines: Sequence[str], width: int, font: Font) -> str:
    """Shorten lines that are wider than `width` pixels, and end them with …."""
    fitted = []
    for line in lines:
        shown = line
        while shown and font.getlength(shown) > width:
            line = line[:-1]
            shown = f"{line}…"
        fitted.append(shown)
    return "\n".join(fitted)


def _paint(page: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], cell: Cell, font: Font) -> None:
    """Put one cell onto the page."""
    if cell is None:
        pen.rectangle((*corner, corner[0] + _CELL, corner[1] + _CELL), fill=_ABSENT)
        pen.text((corner[0] + 26, corner[1] + 40), "absent", (120, 120, 120), font)
    elif isinstance(cell, str):
        pen.multiline_text((corner[0] + 3, corner[1] + 3), _fitted(_lines(cell), _CELL - 4, font), _INK, font)
    else:
        picture = Image.fromarray(np.ascontiguousarray(cell)).convert("RGB")
        factor = _CELL / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        page.paste(picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX), corner)


def _lines(text: str) -> list[str]:
    """Break a text into lines that fit a cell; of several numbers, each gets its own line.

    >>> _lines("1.5 -2 3e-05"), _lines("a text of two lines")
    (['1.5', '-2', '3e-05'], ['a text of two', 'lines'])
    """
    numbers = re.fullmatch(r"([-+.0-9e]+ )+[-+.0-9e…]+( \(.*\))?", text)
    lines = text.split(" ") if numbers else textwrap.wrap(text, 14)
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]
