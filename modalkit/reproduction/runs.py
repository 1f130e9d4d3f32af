"""The runs that a table or figure needs: found, gone on with, or trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from modalkit.data import check_manifest
from modalkit.data.building import ensure_dataset
from modalkit.errors import InputError, StoppedError
from modalkit.model.vae import assemble
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.runs.checkpoint import load_state
from modalkit.runs.folder import differences
from modalkit.runs.opened import Run, load_run
from modalkit.training.trainer import Progress, train

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How runs are come by.

    Attributes:
        runs: the folder of run folders.
        epochs: train for so many, the warm-up shortened in proportion; None: as the recipe says.
        overrides: changes to every recipe, as `--set` takes them.
        train: whether to train what is not finished; otherwise runs are taken as they are.
        device: where to evaluate.
    """

    runs: Path = Path("runs")
    epochs: int | None = None
    overrides: tuple[str, ...] = ()
    train: bool = True
    device: str = "cpu"

    def recipe(self, name: str, changes: Sequence[str] = ()) -> Recipe:
        """Return a shipped recipe with the changes of this reproduction and of this run."""
        recipe = load_recipe(Path(name), [*changes, *self.overrides])
        if self.epochs is None:
            return recipe
        warmup = recipe.objective.warmup_epochs * self.epochs / recipe.train.epochs
        scaled = [f"train.epochs={self.epochs}", f"objective.warmup_epochs={warmup:g}"]
        if own := recipe.train.self_training:
            before = own.after_epochs * self.epochs // recipe.train.epochs
            scaled.append(f"train.self_training.after_epochs={before}")
        return load_recipe(Path(name), [*changes, *scaled, *self.overrides])

    def dataset(self, name: str) -> Path | str:
        """Return the folder or URL of a shipped recipe's dataset, built if it is not there and the recipe says how."""
        recipe = load_recipe(Path(name))  # as it ships: changes are for what is trained
        ensure_dataset(recipe)
        return recipe.data.path

    def run(self, name: str, changes: Sequence[str] = (), suffix: str = "", data: Path | str | None = None) -> Run:
        """Return a trained run of a shipped recipe, ``RUNS/NAME[SUFFIX]``, training what is missing of it.

        Args:
            name: the recipe's.
            changes: to the recipe, as `--set` takes them.
            suffix: of the folder's name, where the same recipe is run in several ways.
            data: a dataset to evaluate on in place of the recipe's own.

        Raises:
            InputError: its dataset is not there, or the folder holds an unfinished run of another recipe, or (with
                `train` off) no run. A finished run of another recipe is used, and said to be.
            StoppedError: training was interrupted; the same command goes on.
        """
        path, recipe = self.runs / f"{name}{suffix}", self.recipe(name, changes)
        if self.train and not finished(path, recipe):
            if recipe.train.devices != 1:
                raise InputError(
                    f"train.devices {recipe.train.devices}: reproduce trains on one device; run `modalkit train {name} "
                    f"--out {path}` on several first, and it will be used"
                )
            _log.info(f"{path}: training")
            assemble(recipe)  # what cannot be had is said before a dataset is built
            ensure_dataset(recipe)
            check_manifest(recipe.data.path, recipe.modalities)
            result = train(recipe, path)
            if result.signal:
                raise StoppedError(
                    f"{path}: stopped at step {result.progress.step}; the same command goes on there", result.signal
                )
        elif not (path / "checkpoints" / "best.safetensors").exists():
            raise InputError(f"{path}: no trained run there; leave out --no-train, or name the folder with --runs")
        if changed := differences(load_recipe(path / "recipe.yaml"), recipe):
            _log.warning(f"{path}: differs from the recipe asked for in {', '.join(changed)}")
        return load_run(path, data=data, device=self.device)


def progress(path: Path) -> Progress:
    """Return how far a run is, 0 steps if it has no saved state."""
    if not (path / "checkpoints" / "state.pt").exists():
        return Progress()
    state = load_state(path / "checkpoints" / "state.pt", torch.device("cpu"))
    return Progress(**state["progress"])


def finished(path: Path, recipe: Recipe) -> bool:
    """Tell whether a run has done all that a recipe asks for."""
    if not (path / "translations.json").exists():
        return False
    done, asked = progress(path), recipe.train
    return done.epoch >= asked.epochs or (asked.max_steps is not None and done.step >= asked.max_steps)
