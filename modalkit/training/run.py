"""Training a recipe into a run folder: the first fit, and the second if the recipe asks for one."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from modalkit.recipe.loading import Recipe
from modalkit.runs.folder import RunFolder, check_claim, claim
from modalkit.training.devices import is_first_process
from modalkit.training.prepare import prepare
from modalkit.training.refit import Refit
from modalkit.training.trainer import Result, Trainer
from modalkit.util.files import locked

_log = logging.getLogger(__name__)


def train(recipe: Recipe, run: Path) -> Result:
    """Train a recipe into a run folder, or resume the run that the folder holds.

    Args:
        recipe: what to train; its dataset is built first if it does not exist and the recipe says how.
        run: created if needed. A folder with a run of the same recipe is resumed, and the result is equal to the bit to
            that of a run that never stopped. Only keys of ``train:`` in `modalkit.runs.folder.MAY_CHANGE` may differ
            from the run's recipe: the length of the training, where it runs, and how often it reports. ``epochs`` may
            not if a schedule is spread over them. ``refit`` may be switched on.

    Raises:
        InputError: something that was given does not fit; the message says what.
        RunError: the loss became NaN, or the disk is full; the last saved state is kept.
    """
    recipe, first = prepare(recipe), is_first_process()
    with locked(run, "training") if first else nullcontext():
        if first:
            check_claim(recipe, RunFolder(run))
        trainer = Trainer(recipe, run)
        if first:  # the folder is claimed only when everything fits
            claim(recipe, RunFolder(run))
        if not recipe.train.refit:
            return trainer.fit()
        if not trainer.ended():
            if first:  # a refit that followed an earlier end of this fit is void
                trainer.folder.refit_state.unlink(missing_ok=True)
            signal = trainer.go_on()
            if signal or not trainer.ended():
                return Result(trainer.progress, "", signal=signal)
        if not trainer.progress.has_best:
            if first:
                _log.warning(f"{run}: no epoch was finished, so there is none to refit")
            return trainer.conclude()
        trainer.keep_last()
        host, progress, choices = trainer.host, trainer.progress, trainer.state.choices
        del trainer  # its model need not stay in memory
        return replace(Refit(recipe, run, host, progress, choices).fit(), refit=True)
