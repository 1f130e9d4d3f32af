"""Commands that measure runs and make pages of them: evaluate, report, compare."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Annotated

import typer

from modalkit.cli.options import Device, OtherData, Plugins, RunArgument, Seed, Trust, Weights, add_plugins
from modalkit.errors import InputError

_log = logging.getLogger(__name__)


def evaluate(
    run: RunArgument,
    targets: Annotated[str | None, typer.Option(help="Modalities to predict, separated by commas.")] = None,
    given: Annotated[str | None, typer.Option(help="Modalities that are known, separated by commas.")] = None,
    proposal: Annotated[
        str | None, typer.Option(help="Modalities whose posterior proposes z; by default all that are named.")
    ] = None,
    particles: Annotated[int, typer.Option(min=1, help="Samples of z per row.")] = 1000,
    prior_particles: Annotated[
        int | None,
        typer.Option(min=1, help="Estimate log p(given) with this many samples of the prior (the paper: 5000)."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    rows: Annotated[int | None, typer.Option(min=1, help="Use at most this many rows, the first ones.")] = None,
    coherence: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE:TARGET[:GIVEN,...]",
            help="Generate SOURCE from the given modalities, by default TARGET, and compare its class with TARGET.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Also measure these; by default those of --plugin.")
    ] = None,
    plugin: Plugins = [],  # noqa: B006
    data: OtherData = None,
    device: Device = "cpu",
    weights: Weights = "best",
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Measure errors of predictions, and estimate the log-likelihoods of modalities given others.

    The errors come first, of every modality predicted from each other, beside those of a linear model of the same
    size, on at most 500 of the rows. Likelihoods are estimated by importance sampling (the paper's equations 5 to 7),
    on the test rows. Without --targets, the usual questions are asked. If interrupted, the same command resumes. All
    results are added to RUN/evaluation.json.

    Example: modalkit evaluate runs/mnist_mvae --given label --targets image
    """
    from modalkit import registry
    from modalkit.evaluation.evaluate import evaluate as answer
    from modalkit.evaluation.evaluate import find_metrics
    from modalkit.evaluation.questions import Asking, parse, split_names
    from modalkit.runs.opened import load_run

    opened = load_run(run, data=data, device=device, weights=weights, trust=trust)
    if split == "valid" and data is None and opened.refit:
        _log.warning(
            f"{run}: train.refit has trained on the validation rows too, so they do not tell how good the model is; "
            f"use --split test"
        )
    own = add_plugins(plugin)
    asked = parse(opened.model, targets, given, proposal)
    asking = Asking(split, rows, particles, prior_particles, seed)
    of_files = [name for name in own if name in registry.names(registry.METRICS)]
    wanted = find_metrics(of_files if metrics is None else split_names(metrics))
    width = shutil.get_terminal_size((100, 24)).columns
    typer.echo(answer(opened, asked, asking, coherence, wanted, width=width))


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; RUN/report.html by default.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Use at most this many held-out rows.")] = 300,
    data: OtherData = None,
    seed: Seed = 0,
    device: Device = "cpu",
    trust: Trust = False,
) -> None:
    """Make one HTML page of a run: curves, translations, samples, latent space, calibration, recipe and machine.

    The page is one file that needs no network. A section that cannot be made, for example because the dataset is gone,
    is left out, and the page says so.

    Example: modalkit report runs/quickstart -o report.html
    """
    from modalkit.report.run import report as make
    from modalkit.runs.folder import RunFolder
    from modalkit.util.files import write_text

    page = _page(out or RunFolder(run).report)
    html, left_out = make(run, rows=rows, data=data, device=device, seed=seed, trust=trust)
    write_text(page, html)
    for text in left_out:
        typer.echo(text, err=True)
    typer.echo(f"{page}  ({len(html.encode()) / 2**20:.1f} MiB)")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Two run folders or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("comparison.html"),
    trust: Trust = False,
) -> None:
    """Compare runs: differences of their recipes, their metrics side by side, their curves in one figure.

    Prints tables and writes one HTML page. Nothing is computed: the figures come from training and from earlier calls
    of `modalkit evaluate`.

    Example: modalkit compare runs/mnist_mvae runs/mnist_jmvae -o comparison.html
    """
    from modalkit.report.compare import compare as make
    from modalkit.util.files import write_text

    page = _page(out)
    html, text = make(runs, trust=trust)
    write_text(page, html)
    typer.echo(f"{text}\n\n{page}")


def _page(path: Path) -> Path:
    """Return `path` if it can name an HTML file."""
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {path}: name an HTML file, such as report.html")
    return path
