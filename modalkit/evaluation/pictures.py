"""Pictures a person looks at: sheets of samples, reconstructions and translations, for any mix of kinds."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch, Dataset
from modalkit.data.reading import draw
from modalkit.errors import guard
from modalkit.evaluation.translation import chosen, single_and_all_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Picture, Schema
from modalkit.util.randomness import generator

Cell = Picture | str | None
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_CELL, _GAP, _LABEL, _PAPER, _INK, _ABSENT = 96, 4, 92, (255, 255, 255), (30, 30, 30), (225, 225, 225)
_LINES = 6
MOST_COLUMNS = 12
"""Modalities that a sheet has room for; of more, those `chosen`."""


def show(schema: Schema, value: Tensor) -> Picture | str:
    """Return what a person sees of one value `(*event_shape)`, as its kind's plugin shows it."""
    with guard(f"kind '{schema.kind}': its show"):
        shown: Picture | str = registry.modality(schema.kind).show(schema, value.detach().cpu())
        if not isinstance(shown, (str, np.ndarray)):
            raise TypeError(f"returned a {type(shown).__name__}, neither a text nor a uint8 array")
    return shown


def sheet(cells: Sequence[Sequence[Cell]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Lay out a table of pictures and texts.

    Args:
        cells: a list for each row; a uint8 picture `(height, width[, 3])`, a text, or None for what is absent.
        rows: a title for each row.
        columns: a title for each column, of a line or more.
    """
    pitch, top = _CELL + _GAP, 6 + 14 * max((title.count("\n") + 1 for title in columns), default=1)
    page = Image.new("RGB", (_LABEL + pitch * len(columns), top + pitch * len(rows)), _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for x, title in enumerate(columns):
        draw.multiline_text((_LABEL + x * pitch + 2, 4), _fitted(title.split("\n"), _CELL - 4, font), _INK, font)
    for y, (title, line) in enumerate(zip(rows, cells, strict=True)):
        words = textwrap.wrap(title, 13, break_long_words=False)
        draw.multiline_text((4, top + y * pitch + 4), _fitted(words[:_LINES], _LABEL - 8, font), _INK, font)
        for x, cell in enumerate(line):
            _paint(page, draw, (_LABEL + x * pitch, top + y * pitch), cell, font)
    return page


def _fitted(lines: Sequence[str], width: int, font: Font) -> str:
    """Return lines of which none is wider than so many pixels; what is cut ends in …."""
    fitted = []
    for line in lines:
        shown = line
        while shown and font.getlength(shown) > width:
            line = line[:-1]
            shown = f"{line}…"
        fitted.append(shown)
    return "\n".join(fitted)


def _paint(page: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], cell: Cell, font: Font) -> None:
    """Put one cell onto the page."""
    if cell is None:
        draw.rectangle((*corner, corner[0] + _CELL, corner[1] + _CELL), fill=_ABSENT)
        draw.text((corner[0] + 26, corner[1] + 40), "absent", (120, 120, 120), font)
    elif isinstance(cell, str):
        draw.multiline_text((corner[0] + 3, corner[1] + 3), _fitted(_lines(cell), _CELL - 4, font), _INK, font)
    else:
        picture = Image.fromarray(np.ascontiguousarray(cell)).convert("RGB")
        factor = _CELL / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        page.paste(picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX), corner)


def _lines(text: str) -> list[str]:
    """Return a text in lines that a cell has room for; several numbers are a line each.

    >>> _lines("1.5 -2 3e-05"), _lines("a text of two lines")
    (['1.5', '-2', '3e-05'], ['a text of two', 'lines'])
    """
    numbers = re.fullmatch(r"([-+.0-9e]+ )+[-+.0-9e…]+( \(.*\))?", text)
    lines = text.split(" ") if numbers else textwrap.wrap(text, 14)
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]


def truth(schemas: dict[str, Schema], batch: Batch, row: int, names: Sequence[str]) -> list[Cell]:
    """Show what one row of a batch holds of each modality, None where it is absent."""
    columns = list(batch.values)
    return [
        show(schemas[n], schemas[n].unpack(batch.values[n][row : row + 1])[0])
        if batch.present[row, columns.index(n)]
        else None
        for n in names
    ]


def dataset_sheet(dataset: Dataset, schemas: dict[str, Schema], rows: Tensor) -> Image.Image:
    """Show some rows of a dataset, a line each, a column for each modality."""
    batch, names = dataset[rows], list(schemas)
    cells = [truth(schemas, batch, i, names) for i in range(len(rows))]
    return sheet(cells, [dataset.key(int(row)) for row in rows], names)


@torch.no_grad()
def translation_sheet(model: MultimodalVAE, dataset: Dataset, rows: Tensor, seed: int = 0) -> Image.Image:
    """Show, for some rows, every modality predicted from all of them and from each single one.

    A block of columns for each row of the dataset: first the truth, then what the model predicts from one draw of z.

    Args:
        model: put in eval mode here.
        dataset: where `rows` are.
        rows: int64 `(rows,)`.
        seed: draws z.
    """
    model.eval()
    batch = draw(dataset[rows], model.schemas, generator(seed, "pictures data")).to(model.device)
    plan = single_and_all_plan(model, batch.present, MOST_COLUMNS)
    observed = model.observed(batch)
    posterior = model.posterior(observed, batch.present, plan.given)
    draws = generator(seed, "pictures")
    noise = torch.randn(1, *plan.given.shape[:2], model.latent_dim, generator=draws)
    choice = torch.rand(noise.shape[:-1], generator=draws)
    z = posterior.sample(noise.to(model.device, model.dtype), choice.to(model.device, model.dtype))[0]
    inputs = model.decoder_inputs(z, observed, batch.present)  # (terms, rows, latent_dim)
    names = chosen(model.schemas, MOST_COLUMNS)
    decoded = [n for n in names if n in model.decoders]
    values = {n: torch.unflatten(model.predict(n, inputs.flatten(0, 1)), 0, z.shape[:2]) for n in decoded}
    asked = plan.given.any(-1).any(1)
    shown = [(t, term) for t, term in enumerate(plan.terms) if asked[t]]
    cells: list[list[Cell]] = [[] for _ in range(1 + len(shown))]
    for i in range(len(rows)):
        cells[0] += truth(model.schemas, batch, i, names)
        for line, (t, _) in zip(cells[1:], shown, strict=True):
            known = bool(plan.given[t, i].any())
            line += [show(model.schemas[n], values[n][t, i]) if known and n in values else None for n in names]
    columns = [f"{n}\n{dataset.key(row)}" if n == names[0] else n for row in rows.tolist() for n in names]
    return sheet(cells, ["truth", *(f"from {term}" for _, term in shown)], columns)
