"""Translations as text: a table of errors beside those of simple predictions, and a table of nats."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from modalkit.evaluation.measures import ACCURACY, RMSE, measure_of
from modalkit.evaluation.reference import ALL
from modalkit.evaluation.translation import Translation
from modalkit.plugin import Schema
from modalkit.util.text import clipped, columns, listed

MEASURES = {RMSE: "RMSE", ACCURACY: "share right"}
"""What the measures of translations are called in tables with a line for each cell."""

_WIDEST_NAME, _NARROW_NAME = 32, 22


def quality(
    results: Sequence[Translation],
    schemas: Mapping[str, Schema],
    latent_dim: int,
    width: int = 100,
    file: str = "translations.json",
) -> str:
    """Lay out how far predictions are from the truth, beside a linear model and the training mean, with words.

    There is one row for each given modality and one column for each predicted one. If the table would be wider than
    `width` characters, it has one row for each predicted modality instead.

    Args:
        results: the translations; those without a measure are shown as a dash.
        schemas: the modalities to show, in order.
        latent_dim: the size of z, which is the rank of the linear model.
        width: how many characters fit a line.
        file: the file of the run's folder that has every cell.

    Returns:
        The text; empty if no translation has a measure.
    """
    found = [one for one in results if one.value is not None and one.want in schemas and one.given in {*schemas, ALL}]
    if not found:
        return ""
    cells = {(one.given, one.want): one for one in found}
    wants = [name for name in schemas if any(one.want == name for one in found)]
    lines: list[tuple[str, ...]] = [("given", *(f"{want}  " for want in wants))]
    for given in (ALL, *schemas):
        if any(one.given == given for one in found):
            lines.append((given, *(value_text(cells.get((given, want))) for want in wants)))
    lines.append(("(mean)", *(f"{mean_text(found, want)}  " for want in wants)))
    table = columns(lines, align="<" + ">" * len(wants))
    if max(map(len, table.split("\n"))) > width:
        head = ("predicted", "given all", "given the best other", "mean")
        short = [(*_quality_in_short(cells, want), mean_text(found, want)) for want in wants]
        table = columns([head, *short]) + f"\n(each given each: {file} in the run's folder)"
    said = textwrap.wrap(legend(found, schemas, latent_dim), width)
    return "\n".join([*textwrap.wrap(headline(found, latent_dim), width), "", table, "", *said])


def headline(results: Sequence[Translation], latent_dim: int) -> str:
    """Return in one or two sentences how much of the variation is explained, and how often a linear model is better."""
    said = [f"{round(100 * share)} % given {given}" for given, share in explained(results).items()]
    compared = [one for one in results if one.behind is not None]
    sentences = []
    if said:
        sentences.append(f"Share of the variation explained (median): {', '.join(said)}.")
    if compared:
        behind = sum(bool(one.behind) for one in compared)
        sentences.append(
            f"A linear model of the same size ({latent_dim} dimensions) is better in {behind} of {len(compared)} cells."
        )
    return " ".join(sentences)


def explained(results: Iterable[Translation]) -> dict[str, float]:
    """Return the median share of the variation explained, given ``all modalities`` and ``one other modality``."""
    shares: dict[str, list[float]] = {"all modalities": [], "one other modality": []}
    for one in results:
        if one.explained is not None and one.given != one.want:
            shares["all modalities" if one.given == ALL else "one other modality"].append(one.explained)
    return {given: median(found) for given, found in shares.items() if found}


def legend(results: Sequence[Translation], schemas: Mapping[str, Schema], latent_dim: int) -> str:
    """Say what the numbers of a table of errors are."""
    by: dict[str, list[str]] = {}
    for name in dict.fromkeys(one.want for one in results if one.value is not None):
        if name in schemas and (measure := measure_of(schemas[name])) is not None:
            share = measure.kind == ACCURACY
            about = f"Share {measure.words.replace('of ', 'of right ')}, higher" if share else f"RMSE {measure.words}"
            by.setdefault(f"{about} is better" if share else f"{about}; lower is better", []).append(name)
    said = [f"{what} ({listed(names, 6)})" if len(by) > 1 else what for what, names in by.items()]
    return (
        f"{'. '.join(said)}. In brackets: a linear model of the same size ({latent_dim} dimensions), fitted to "
        "training rows; * marks where it is better, - where there is none. Mean: the training mean is predicted, or "
        "the most frequent class."
    )


def value_text(one: Translation | None) -> str:
    """Return an error or accuracy, that of the linear model in brackets, and a mark where the latter is better.

    >>> value_text(Translation("a", "b", 9, 0, 0, 0, "rmse", 0.037, linear_value=0.031, behind=True))
    '.037 (.031) *'
    """
    if one is None or one.value is None:
        return "-"
    linear = "-" if one.linear_value is None else number_text(one.linear_value, one.measure)
    return f"{number_text(one.value, one.measure)} ({linear}) {'*' if one.behind else ' '}"


def more_text(one: Translation, *, linear: bool = False) -> str:
    """Return the share of variation explained, the similarity of pictures and the distance of levels, if known.

    Args:
        one: the cell.
        linear: return those of the linear model, which has no distance of levels.

    Example:
        >>> more_text(Translation("a", "b", 9, 0, 0, 0, "rmse", 0.037, explained=0.96, similarity=0.912))
        'explains 96 %, SSIM .912'
    """
    explained, similarity = one.explained, one.similarity
    if linear:
        explained, similarity = one.linear_explained, one.linear_similarity
    said = []
    if explained is not None:
        said.append(f"explains {round(100 * explained)} %".replace("-", "−"))
    if similarity is not None:
        said.append(f"SSIM {number_text(similarity, RMSE)}".replace("-", "−"))
    if one.levels is not None and not linear:
        said.append(f"off by {number_text(one.levels, RMSE)} levels")
    return ", ".join(said)


def number_text(value: float, measure: str) -> str:
    """Return an error with three digits, or an accuracy in per cent.

    >>> number_text(0.0371, "rmse"), number_text(12.345, "rmse"), number_text(0.971, "accuracy")
    ('.037', '12.3', '97 %')
    """
    if measure == ACCURACY:
        return f"{100 * value:.0f} %"
    if 0 < value < 0.01 or value >= 1000:
        return f"{value:.2g}"
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.3g}"


def mean_text(results: Iterable[Translation], want: str) -> str:
    """Return the error of the training mean, of the cell with most rows."""
    found = [one for one in results if one.want == want and one.mean_value is not None]
    if not found:
        return "-"
    most = max(found, key=lambda one: one.rows)
    return number_text(most.mean_value or 0.0, most.measure)


def _quality_in_short(cells: Mapping[tuple[str, str], Translation], want: str) -> tuple[str, str, str]:
    """Return the line of one predicted modality: from all, and from the other one that predicts it best."""
    others = [one for one in cells.values() if one.want == want and one.given not in (ALL, want)]
    best = max(others, key=lambda one: _goodness(one), default=None)
    said = f"{value_text(best)}  {clipped(best.given, _NARROW_NAME)}" if best else "-"
    return clipped(want, _NARROW_NAME), value_text(cells.get((ALL, want))), said


def _goodness(one: Translation) -> float:
    value = one.value or 0.0
    return value if one.measure == ACCURACY else -value


def table(results: Sequence[Translation], names: Sequence[str], width: int = 100) -> str:
    """Lay out translations as text: one row for each given modality, one column for each predicted one.

    A cell holds the margin, or log p in brackets if the kind has no `marginal` to compare with.

    If the table would be wider than `width` characters, it has one row for each predicted modality instead, with the
    prediction from all and the prediction from the best other modality.
    """
    cells = {(r.given, r.want): r for r in results}
    given = [g for g in (ALL, *names) if any(r.given == g for r in results)]
    pitch = max(11, *(len(n) + 2 for n in names))
    head = max(len(g) for g in given) + 6
    lines = [" " * head + "".join(n.rjust(pitch) for n in names)]
    for g in given:
        line = f"given {g}".ljust(head)
        for want in names:
            line += _cell(cells.get((g, want))).rjust(pitch)
        lines.append(line)
    if len(lines[0]) > width:
        head_line = ("predicted", "given all", "given the best other")
        lines = [
            columns([head_line, *(_in_short(cells, n) for n in names)]),
            "(each given each: translations.json in the run's folder)",
        ]
    if any(r.margin is None for r in results):
        lines.append("(in brackets: log p itself; there is no training mean to compare with)")
    return "\n".join(lines)


def _in_short(cells: Mapping[tuple[str, str], Translation], want: str) -> tuple[str, str, str]:
    """Return the line of one predicted modality: from all, and from the other one that predicts it best."""
    others = [one for one in cells.values() if one.want == want and one.given not in (ALL, want)]
    best = max(others, key=lambda one: one.log_px if one.margin is None else one.margin, default=None)
    said = f"{_cell(best)}  {clipped(best.given, _WIDEST_NAME)}" if best else "-"
    return clipped(want, _WIDEST_NAME), _cell(cells.get((ALL, want))), said


def among(results: Iterable[Mapping[str, Any]], split: str) -> str:
    """Describe the rows on which translations (of ``translations.json``) were measured.

    >>> among([{"rows": 17}, {"rows": 12}], "test")
    'the 12 to 17 test rows that have both'
    >>> among([{"rows": 1}], "test")
    'the 1 test row that has both'
    """
    counts = sorted({one["rows"] for one in results}) or [0]
    if counts == [1]:
        return f"the 1 {split} row that has both"
    return f"the {counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'} {split} rows that have both"


def _cell(result: Translation | None) -> str:
    if result is None:
        return "-"
    return f"({result.log_px:.4f})" if result.margin is None else f"{result.margin:+.4f}"
