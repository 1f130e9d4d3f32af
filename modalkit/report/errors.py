"""The table of errors: how far predictions are from the truth, beside a linear model and the training mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from modalkit.evaluation.reference import ALL
from modalkit.evaluation.translation import Translation
from modalkit.evaluation.translation_text import headline, legend, mean_text, more_text, value_text
from modalkit.plugin import Schema
from modalkit.report.page import TableCell, table


def errors_table(
    results: Sequence[Translation], names: Sequence[str], schemas: Mapping[str, Schema], latent_dim: int, rows: str
) -> list[Markup]:
    """Return the table of errors; none where nothing was measured.

    Args:
        results: the translations.
        names: the modalities to show.
        schemas: all modalities.
        latent_dim: the size of z.
        rows: on which rows they were measured, in words.
    """
    shown = [one for one in results if one.value is not None and one.want in names and one.given in {ALL, *names}]
    if not shown:
        return []
    by = {(one.given, one.want): one for one in shown}
    lines: list[list[object]] = []
    for given in (ALL, *names):
        if any(one.given == given for one in shown):
            lines.append([f"from {given}", *(_cell(by.get((given, want))) for want in names)])
    lines.append(["training mean", *(mean_text(shown, want) for want in names)])
    caption = (
        f"{legend(shown, schemas, latent_dim)} {headline(shown, latent_dim)} The second line of a cell says how much "
        f"of the variation is explained, and how similar pictures are (SSIM, at most 1). Each on {rows}"
    )
    return [table(caption, ("", *names), lines, kind="figures")]


def _cell(one: Translation | None) -> object:
    """Return an error or accuracy, shaded where the linear model is better, and below it the other measures."""
    if one is None:
        return "-"
    below, linear = more_text(one), more_text(one, linear=True)
    return TableCell(
        value_text(one).strip(),
        "below" if one.behind else "",
        0.5 if one.behind else None,
        below,
        f"linear model: {linear}" if linear else "",
    )
