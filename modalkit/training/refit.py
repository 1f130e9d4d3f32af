"""The second fit of a run: from the start, on training and validation rows, for as many epochs as the best."""

from __future__ import annotations

import logging
from pathlib import Path

from modalkit.recipe.loading import Recipe
from modalkit.runs.checkpoint import is_refit
from modalkit.runs.folder import RunFolder
from modalkit.runs.metrics import REFIT
from modalkit.runs.metrics_log import MetricsLog
from modalkit.runs.opened import held_out_split
from modalkit.runs.progress import Progress
from modalkit.training.data import TrainingData
from modalkit.training.devices import Host
from modalkit.training.linear_start import StartChoices
from modalkit.training.trainer import Result, Trainer

_log = logging.getLogger(__name__)


class Refit(Trainer):
    """Fits a recipe's model again, as ``train.refit`` asks for; the first fit has ended.

    The validation rows are training rows here, and nothing is validated. The seed is that of the first fit. Learning
    rate and beta follow the recipe's courses, which are spread over ``train.epochs``, up to the chosen epoch. An epoch
    has more steps than before, so that at the end of each epoch both have the values of the first fit's epoch. After 0
    epochs, the weights are the initial ones.

    Args:
        recipe: what to train, completed by its dataset.
        run: the run folder.
        host: that of the first fit.
        first: how far the first fit is; its best epoch is the number of epochs.
        choices: those of the first fit's start, if it started at a factor analysis.

    Raises:
        InputError: the dataset, a plugin or the saved state does not fit the recipe.
    """

    def __init__(self, recipe: Recipe, run: Path, host: Host, first: Progress, choices: StartChoices | None) -> None:
        self.first, self.epochs = first, first.best_epoch
        # Nothing chooses among the epochs of this fit, or ends it early.
        plain = {"refit": False, "choose": "elbo", "patience": None, "max_steps": None, "pictures_every": 0}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=plain)})
        data, state = TrainingData(recipe, refit=True), RunFolder(run).refit_state
        super().__init__(recipe, run, host=host, data=data, state=state, choices=choices)
        self.title, self.split, self.steps_before = f"{run.name}, refit", REFIT, first.step

    def ended(self) -> str:
        """Return why the refit is over, in words, or the empty string."""
        return f"refit for {self._epochs} done" if self.progress.epoch >= self.epochs else ""

    def most_steps(self) -> int:
        """Return how many steps the refit has."""
        return self.epochs * self.steps_per_epoch

    def validate(self) -> dict[str, float]:
        """Return nothing: all rows but the test rows are trained on."""
        return {}

    def conclude(self) -> Result:
        """Save the weights as the best, and their translations and pictures of test rows; return how the run ended."""
        if self.host.first:
            held_out = held_out_split(self.data.dataset)
            with self.learner.averaged():
                self.results.save_best(refit=True)
                table = self.results.save_translations(held_out)
                self.results.save_sheet(held_out, "final.png")
            if held_out != "test":
                _log.warning(
                    f"{self.data.dataset.path}: has no test rows, so the errors are those of rows that were trained on"
                )
            return Result(self.first, self.ended(), held_out=held_out, translations=table)
        return Result(self.first, self.ended())

    def _keep_best(self, metrics: dict[str, float], log: MetricsLog) -> None:
        """Keep nothing before the end, so that the best weights are those of a whole fit at any time."""

    def _say_doubts(self) -> None:
        """Say nothing; the first fit has reported what there is to report."""

    @property
    def _epochs(self) -> str:
        return f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"

    def _opening(self) -> str:
        begun = f"resuming after step {self.progress.step}" if self.progress.step else "new"
        begun = "already complete" if self.ended() and is_refit(self.folder.best) else begun
        return (
            f"{self.folder.path}: refit for {self._epochs}, as many as the best; {begun}; "
            f"{len(self.data.train)} training and validation rows"
        )
