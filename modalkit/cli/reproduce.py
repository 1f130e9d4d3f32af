"""The command that reproduces the paper: reproduce."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from modalkit.cli.options import Device, Overrides


class Part(StrEnum):
    """The tables and figures of the paper that can be reproduced."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"
    fig2 = "fig2"
    fig3 = "fig3"
    fig4 = "fig4"
    fig5 = "fig5"


def reproduce(
    part: Annotated[Part, typer.Argument(metavar="PART", help="A table or a figure of the paper.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="First part of the recipes' names, for tables 2 to 5 and figures 2, 4, 5; default mnist, for fig5 "
            "celeba19."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders; finished runs are reused.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for CSV files and pictures.")] = Path("reproduction"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train for this many epochs, with the warm-up shortened in proportion.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Evaluate on at most this many test rows.")] = None,
    particles: Annotated[
        int | None, typer.Option(min=1, help="Samples per row; the paper's number by default.")
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="The values that a figure varies, separated by commas: k, or fractions.")
    ] = None,
    train: Annotated[bool, typer.Option(help="Train missing runs, or use runs as they are.")] = True,
    overrides: Overrides = [],  # noqa: B006
    device: Device = "cpu",
) -> None:
    """Reproduce a table or figure of the paper: its numbers beside measured ones, as text, CSV and pictures.

    Missing runs of the shipped recipes are trained in RUNS/RECIPE. If interrupted, the same command resumes.

    Example: modalkit reproduce table2 --dataset mnist --epochs 20 --rows 500
    """
    from modalkit.reproduction.command import reproduce as make
    from modalkit.reproduction.runs import RunProvider

    provider = RunProvider(runs, epochs, tuple(overrides), train, device)
    typer.echo(make(part.value, provider, out, dataset, rows, particles, values))
