"""Commands that make pages of runs: report, compare. Heavy imports wait until one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modalkit.errors import InputError

Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; RUN/report.html by default.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many held-out rows to ask about, at most.")] = 300,
    data: Annotated[Path | None, typer.Option(help="Another dataset with the run's modalities.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    device: Device = "cpu",
) -> None:
    """Make one HTML page of a run: curves, translations, samples, the latent space, calibration, and how it was made.

    The page is one file that needs no network. What cannot be shown, because the dataset is gone or the objective has
    no such posterior, is left out, and the page says so.

    Example: modalkit report runs/quickstart -o report.html
    """
    from modalkit.report.run import report as make
    from modalkit.util.files import write_text

    page = _page(out or run / "report.html")
    html, left_out = make(run, rows=rows, data=data, device=device, seed=seed)
    write_text(page, html)
    for text in left_out:
        typer.echo(text, err=True)
    typer.echo(f"{page}  ({len(html.encode()) / 2**20:.1f} MiB)")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Two run folders or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("comparison.html"),
) -> None:
    """Compare runs: what differs between their recipes, their metrics side by side, their curves overlaid.

    Prints tables, and writes one HTML page. Nothing is computed: figures are those of training, and of `modalkit
    evaluate` where it was called.

    Example: modalkit compare runs/mnist_mvae runs/mnist_jmvae -o comparison.html
    """
    from modalkit.report.compare import compare as make
    from modalkit.util.files import write_text

    page = _page(out)
    html, text = make(runs)
    write_text(page, html)
    typer.echo(f"{text}\n\n{page}")


def _page(path: Path) -> Path:
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {path}: name an HTML file, such as report.html")
    return path


COMMANDS = (report, compare)
