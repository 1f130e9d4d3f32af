"""The state from which a run resumes: progress, weights, their average, and the optimiser's state."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modalkit.errors import InputError
from modalkit.model.marginals import center, start_scales
from modalkit.recipe.loading import Recipe
from modalkit.runs.checkpoint import save_state
from modalkit.runs.folder import RunFolder
from modalkit.runs.progress import Progress
from modalkit.runs.saved_state import load_optimizer, read_state
from modalkit.training.data import TrainingData
from modalkit.training.linear_start import StartChoices, start_from_factor_analysis
from modalkit.training.step import Learner

_log = logging.getLogger(__name__)


class TrainingState:
    """Saves and restores everything that resuming needs; the first process reads and writes the file.

    Args:
        folder: the run folder.
        learner: whose model and optimiser are saved and restored.
        data: the dataset that the run belongs to.
        path: the file; the run's own state by default.
        choices: what a new run's start at a factor analysis chooses; by default it chooses by validation rows.

    Attributes:
        progress: how far the run is.
    """

    def __init__(
        self,
        folder: RunFolder,
        learner: Learner,
        data: TrainingData,
        path: Path | None = None,
        choices: StartChoices | None = None,
    ) -> None:
        self.folder, self.learner, self.data = folder, learner, data
        self.path, self.choices = path or folder.state, choices
        self.progress = Progress()

    def start(self, recipe: Recipe) -> None:
        """Restore the run's saved state in every process, or start a new run; move the learner to its device.

        Args:
            recipe: says with which weights a new run begins.

        Raises:
            InputError: the saved state is damaged, or does not fit the recipe or the dataset.
        """
        host = self.learner.host
        begun = host.first and self.path.exists()
        if not begun:
            self._begin(recipe)
            if self.learner.average is not None:
                self.learner.average.follow()  # the start itself is validated, with averaged weights
        state = read_state(self.path) if begun else self._state()
        self.learner.move_to_device()
        self._restore(host.processes.of_first(state))

    def _begin(self, recipe: Recipe) -> None:
        """Give the weights of a new run their values; the other processes receive those of the first."""
        model, dataset = self.learner.model, self.data.dataset
        if model.covariates is not None:
            model.covariates.fit(dataset, self.data.train)
        if recipe.model.start == "factor_analysis":
            if self.learner.host.first:
                said, self.choices = start_from_factor_analysis(model, dataset, recipe.seed, choices=self.choices)
                _log.info(said)
            return
        start_scales(model, dataset)
        if recipe.model.centered:
            center(model, dataset)

    def save(self) -> None:
        """Write the state, unless a weight is unsound.

        Raises:
            NotFiniteError: a weight is NaN or infinite; the state that was saved before is kept.
        """
        self.learner.check_weights()
        if self.learner.host.first:
            save_state(self.path, self._state())

    def _state(self) -> dict[str, Any]:
        average = self.learner.average
        return {
            "progress": asdict(self.progress),
            "model": self.learner.model.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "data": self.data.digest,
            **({} if average is None else {"average": average.values}),
            **({} if self.choices is None else {"start": asdict(self.choices)}),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.learner.model.load_state_dict(state["model"])
            load_optimizer(self.learner.optimizer, state["optimizer"], self.path)
            if self.learner.average is not None:
                self.learner.average.restore(state["average"])
            self.progress = Progress(**state["progress"])
            self.choices = StartChoices(**state["start"]) if "start" in state else None
            digest = state["data"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.path}: does not fit this recipe ({reason}); choose another --out") from None
        if digest != self.data.digest:
            raise InputError(
                f"{self.folder.path}: was trained on another content of {self.data.dataset.path} than is there now; "
                f"restore that content, or choose another --out"
            )
