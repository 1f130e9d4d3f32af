"""The runs that a table or figure needs: found, resumed, or trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modalkit.data.building import ensure_dataset
from modalkit.errors import InputError, StoppedError
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.runs.folder import RunFolder, differences
from modalkit.runs.opened import Run, load_run
from modalkit.runs.saved_state import saved_progress
from modalkit.training import train

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunProvider:
    """How required runs are found or trained.

    Attributes:
        runs: the folder of run folders.
        epochs: train for so many epochs, the warm-up shortened in proportion; None: as the recipe says.
        overrides: changes to every recipe, as `--set` takes them.
        train: whether to train unfinished runs; otherwise runs are used as they are.
        device: where to evaluate.
    """

    runs: Path = Path("runs")
    epochs: int | None = None
    overrides: tuple[str, ...] = ()
    train: bool = True
    device: str = "cpu"

    def recipe(self, name: str, changes: Sequence[str] = ()) -> Recipe:
        """Return a shipped recipe with the changes of this reproduction and of one run."""
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
        """Return the folder or URL of a shipped recipe's dataset, built if it is missing and the recipe says how."""
        recipe = load_recipe(Path(name))  # as it ships: the changes are meant for training
        ensure_dataset(recipe)
        return recipe.data.path

    def run(self, name: str, changes: Sequence[str] = (), suffix: str = "", data: Path | str | None = None) -> Run:
        """Return a trained run of a shipped recipe, ``RUNS/NAME[SUFFIX]``; train it if it is unfinished.

        Args:
            name: the recipe's name.
            changes: to the recipe, as `--set` takes them.
            suffix: of the folder's name, if the same recipe is run in several ways.
            data: a dataset to evaluate on instead of the recipe's own.

        Raises:
            InputError: its dataset is missing, the folder holds an unfinished run of another recipe, or (with `train`
                off) there is no run. A finished run of another recipe is used, and the difference is logged.
            StoppedError: training was interrupted; the same command resumes it.
        """
        folder, recipe = RunFolder(self.runs / f"{name}{suffix}"), self.recipe(name, changes)
        if self.train and not finished(folder, recipe):
            self._train(recipe, name, folder)
        elif not folder.best.exists():
            raise InputError(
                f"{folder.path}: no trained run there; leave out --no-train, or name the folder with --runs"
            )
        if changed := differences(there := folder.read_recipe(), recipe):
            _log.info(f"{folder.path}: differs from the required recipe in {', '.join(changed)}")
        if there.data.path == recipe.data.path:  # then not only the run names it, and it may be a URL
            data = data or recipe.data.path
        return load_run(folder.path, data=data, device=self.device)

    def _train(self, recipe: Recipe, name: str, folder: RunFolder) -> None:
        if recipe.train.devices != 1:
            raise InputError(
                f"train.devices {recipe.train.devices}: reproduce trains on one device; run `modalkit train {name} "
                f"--out {folder.path}` on several devices first, and that run will be used"
            )
        _log.info(f"{folder.path}: training")
        result = train(recipe, folder.path)
        if result.signal:
            raise StoppedError(
                f"{folder.path}: stopped at step {result.progress.step}; the same command resumes it", result.signal
            )


def finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Tell whether a run has done all that a recipe asks for."""
    if not folder.translations.exists():
        return False
    done, asked = saved_progress(folder), recipe.train
    return done.epoch >= asked.epochs or (asked.max_steps is not None and done.step >= asked.max_steps)
