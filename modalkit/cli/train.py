"""The command that trains: train."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modalkit.cli.options import Overrides, RecipeArgument, Trust, find_recipe

if TYPE_CHECKING:
    from modalkit.recipe import Recipe
    from modalkit.training.trainer import Result


def train(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME-OF-RECIPE by default.")] = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads the default, nobody changes it)
    device: Annotated[str | None, typer.Option(help="auto, cpu or gpu; replaces train.accelerator.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Number of devices; replaces train.devices.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, 64 or bf16-mixed; replaces train.precision.")] = None,
    trust: Trust = False,
) -> None:
    """Train the model of a recipe, or resume a run.

    If the dataset does not exist and the recipe says how to build it, it is built first. To resume a run that was
    killed, interrupted or finished, give the same command again (or `modalkit train RUN`). The result is the same as
    that of a run that never stopped.

    Python files beside a recipe file that you name, or in folders below it, run without --trust. A run folder's do if
    you trained it on this machine.

    Example: modalkit train recipes/quickstart.yaml
    """
    flags = {"accelerator": device, "devices": devices, "precision": precision}
    given = [f"train.{key}={value}" for key, value in flags.items() if value is not None]
    from modalkit.recipe import load_recipe
    from modalkit.recipe import trust as consent
    from modalkit.runs.folder import RunFolder

    path, run = find_recipe(recipe)
    allowed = consent.Trust(given=trust, own=not RunFolder(Path(recipe)).is_run() and not RunFolder.is_of_run(path))
    loaded = load_recipe(path, [*overrides, *given], trust=allowed)
    consent.check_resumed(loaded, allowed, overrides)
    from modalkit.training import train as fit  # not before the recipe is right, because it imports torch

    result = fit(loaded, run := out or run)
    if result.signal:
        fit_of = " of the refit" if result.refit else ""
        typer.echo(f"stopped at step {result.progress.step}{fit_of}; resume with: modalkit train {run}", err=True)
        raise typer.Exit(128 + result.signal)
    if result.translations:
        known = consent.Trust(code=consent.names(loaded))  # all of it is loaded already
        _print_translations(result, RunFolder(run).read_recipe(trust=known))  # with what only the dataset knows
    if result.held_out:  # only the first of several processes has it
        sheet = run / "pictures" / "final.png"
        typer.echo(f"{result.ended}: {run}, {_weights(result)}  (see {sheet}, or: modalkit report {run})")


def _weights(result: Result) -> str:
    """Return in words which weights the run keeps to answer questions."""
    if result.refit:
        return "with the weights of the refit on training and validation rows"
    progress = result.progress
    if not (progress.has_best and math.isfinite(progress.best)):
        return "with the last weights"
    if not progress.best_epoch:
        return "with the weights of the start, the best"
    return f"with the weights of epoch {progress.best_epoch}, the best"


def _print_translations(result: Result, recipe: Recipe) -> None:
    """Print how good each prediction is: its error beside a linear model's, and then in nats per dimension."""
    from modalkit.evaluation.doubts import doubts
    from modalkit.evaluation.translation import MOST_TRANSLATED
    from modalkit.evaluation.translation_text import among, quality, table
    from modalkit.pictures import chosen

    found, names = result.translations, chosen(recipe.explained, MOST_TRANSLATED)
    few = f"; {len(names)} of {len(recipe.explained)} modalities" if len(names) < len(recipe.explained) else ""
    errors = [r.standard_error for r in found if r.standard_error is not None]
    sure = f"standard errors up to {max(errors):.4f}" if errors else "too few rows for standard errors"
    width = shutil.get_terminal_size((100, 24)).columns
    shown = {name: recipe.modalities[name] for name in names}
    if said := quality(found, shown, recipe.model.latent_dim, width):
        typer.echo(f"\n{said}")
    typer.echo(
        f"\nNats per dimension above predicting the training mean, on "
        f"{among(map(vars, found), result.held_out)}\n({sure}{few}):\n\n"
        f"{table(found, names, width)}\n"
    )
    if any(one.margin is not None and one.margin < -1 for one in found):
        typer.echo("Below -1: z is too uncertain for so narrow a likelihood, though its mean may predict well.\n")
    for doubt in doubts(found):
        typer.echo(f"warning: {doubt}\n")
