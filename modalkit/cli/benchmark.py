"""The command that compares objectives: benchmark."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from modalkit.cli.options import Device, Overrides, Seed, split_names


class Name(StrEnum):
    """The benchmarks."""

    poly_mnist = "poly-mnist"


def benchmark(
    name: Annotated[Name, typer.Argument(metavar="NAME", help="The benchmark: poly-mnist.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train for this many epochs; as the recipe says by default.")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="The objectives; eight without private latents by default.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders; finished runs are reused.")] = Path(
        "runs/benchmark"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the table.")] = Path("benchmark"),
    rows: Annotated[int | None, typer.Option(min=2, help="Evaluate on at most this many test rows.")] = None,
    particles: Annotated[int, typer.Option(min=1, help="Samples of z per row for log-likelihoods.")] = 100,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train several objectives with the same networks and budget, and compare them in one table.

    Each run has a folder of its own, RUNS/RECIPE-OBJECTIVE. If interrupted, the same command resumes. The table is
    printed, and written as text and as JSON.

    Example: modalkit benchmark poly-mnist --epochs 5 --objectives mvae,mopoe
    """
    from modalkit.evaluation.questions import Asking
    from modalkit.reproduction.benchmark import OBJECTIVES
    from modalkit.reproduction.benchmark import benchmark as compare
    from modalkit.reproduction.runs import RunProvider

    provider = RunProvider(runs, epochs, tuple(overrides), device=device)
    asking = Asking(rows=rows, particles=particles, seed=seed)
    chosen = OBJECTIVES if objectives is None else split_names(objectives)
    typer.echo(compare(name.value, provider, tuple(chosen or OBJECTIVES), out, asking))
