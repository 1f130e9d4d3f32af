"""Which of the reproductions is asked for, and what it prints."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from modalkit.errors import InputError
from modalkit.reproduction import figures, tables
from modalkit.reproduction.runs import RunProvider

_TAKES: dict[str, tuple[str, ...]] = {
    "table1": (),
    "fig2": ("dataset",),
    "fig3": ("rows", "particles", "values"),
    "fig4": ("dataset", "rows", "values"),
    "fig5": ("dataset", "rows", "particles", "values"),
}
"""What each part can be told; the other tables take a dataset, rows and particles."""


def reproduce(
    part: str,
    provider: RunProvider,
    out: Path,
    dataset: str | None = None,
    rows: int | None = None,
    particles: int | None = None,
    values: str | None = None,
) -> str:
    """Make a table or figure, keep it in a folder, and return it as text.

    Args:
        part: ``table1`` to ``table5``, ``fig2`` to ``fig5``.
        provider: how required runs are found or trained.
        out: the folder for CSV files and pictures.
        dataset: as recipes begin with it; by default MNIST, for Figure 5 `celeba19`.
        rows: at most so many test rows.
        particles: in place of the paper's.
        values: what a figure sweeps over, separated by commas, in place of its own.

    Raises:
        InputError: the part does not take one of these.
    """
    given = {"dataset": dataset, "rows": rows, "particles": particles, "values": values}
    for option, value in given.items():
        if value is not None and option not in _TAKES.get(part, ("dataset", "rows", "particles")):
            raise InputError(f"--{option}: {part} does not take it")
    dataset = dataset or (figures.FIG5[0] if part == "fig5" else "mnist")
    if part == "fig2":
        return "\n".join(f"written: {path}" for path in figures.fig2(dataset, provider, out))
    if part.startswith("table"):
        entries = tables.table1() if part == "table1" else tables.likelihoods(part, dataset, provider, rows, particles)
        path = out / f"{part}{'' if part == 'table1' else f'-{dataset}'}.csv"
        tables.write_csv(path, [asdict(entry) for entry in entries])
        return f"{tables.text(entries)}\n\nwritten: {path}"
    if part == "fig3":
        swept = figures.fig3(provider, _numbers(values, figures.FIG3_K), rows, particles)
        x, ys, name = "k", ["log p(all)", "var log w"], part
    elif part == "fig4":
        swept = figures.fig4(dataset, provider, _numbers(values, figures.FIG4_PAIRED), rows)
        x, ys, name = "paired", ["accuracy"], f"{part}-{dataset}"
    else:
        swept = figures.fig5(dataset, provider, _numbers(values, figures.FIG5_KEEP), rows, particles)
        x, ys, name = "keep", ["accuracy", "log p(x)", "log p(x|y)"], f"{part}-{dataset}"
    written = figures.keep(swept, x, ys, out / name)
    return f"{figures.table(swept)}\n\nwritten: {', '.join(map(str, written))}"


def _numbers(values: str | None, own: tuple[float, ...]) -> tuple[float, ...]:
    if values is None:
        return own
    try:
        found = tuple(float(value) for value in values.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise InputError(f"--values {values}: give numbers, separated by commas")
    return found
