"""One row's content in another row's style, for models with private latents."""

from __future__ import annotations

from itertools import islice

import torch
from markupsafe import Markup

from modalkit.inference import TrainedModel
from modalkit.pictures import row_cells
from modalkit.report.page import Section, cell, table
from modalkit.report.sources import HeldOut, Source, only, take_rows

_ROWS, _MODALITIES, _DRAWS = 6, 4, 16


def styled(source: Source, seed: int) -> Section | None:
    """Show held-out rows with the private latents of other rows; None if no modality has a private latent."""
    asked, held_out = source.model, source.held_out
    if asked is None or held_out is None:
        return None
    found = (_swaps(asked, held_out, name, seed) for name in source.names if name in asked.model.own)
    parts = list(islice(filter(None, found), _MODALITIES))
    lead = (
        "Each line has the content of one held-out row: z is inferred from all that the row has. Each column has the "
        "style of one: the private latent is inferred from the value at the top. On the diagonal, both are of one row."
    )
    return Section("Content and style", lead, parts) if parts else None


def _swaps(asked: TrainedModel, held_out: HeldOut, name: str, seed: int) -> Markup | None:
    """Return a table of a modality: a line for each content, a column for each style."""
    place = asked.modalities.index(name)
    rows = [row for row in held_out.examples(_ROWS) if held_out.batch.present[row, place]]
    if len(rows) < 2 or name not in asked.predictable:
        return None
    batch, count = take_rows(held_out.batch, rows), len(rows)
    content = torch.arange(count).repeat_interleave(count).tolist()  # 0 0 0 … 1 1 1 …
    style = torch.arange(count).repeat(count).tolist()  # 0 1 2 … 0 1 2 …
    known = only(batch.present, [place])
    found = asked.infer(
        take_rows(batch, content, asked.usable(batch.present)[content]),
        [name],
        draws=_DRAWS,
        seed=seed,
        style=take_rows(batch, style, known[style]),
    )[name]
    keys = [held_out.dataset.key(int(held_out.rows[row])) for row in rows]
    truth = [cell(row_cells(asked.schemas, batch, i, [name])[0], f"{name} of {key}") for i, key in enumerate(keys)]
    lines: list[list[object]] = [["", "", *truth]]
    for i, key in enumerate(keys):
        swapped = (
            cell(found.show(i * count + j), f"{name}: content of {key}, style of {other}")
            for j, other in enumerate(keys)
        )
        lines.append([f"content of {key}", truth[i], *swapped])
    return table(f"{name}: content and style", ("", "", *(f"style of {key}" for key in keys)), lines, kind="pictures")
