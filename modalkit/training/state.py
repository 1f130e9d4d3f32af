"""The state from which a run resumes: progress, weights, their average, and the optimiser's state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modalkit.errors import InputError
from modalkit.model.marginals import center, start_scales
from modalkit.runs.checkpoint import load_state, save_state
from modalkit.runs.folder import RunFolder
from modalkit.runs.progress import Progress
from modalkit.training.data import TrainingData
from modalkit.training.step import Learner


class TrainingState:
    """Saves and restores everything that resuming needs; the first process reads and writes the file.

    Args:
        folder: the run folder.
        learner: whose model and optimiser are saved and restored.
        data: the dataset that the run belongs to.
        path: the file; the run's own state by default.

    Attributes:
        progress: how far the run is.
    """

    def __init__(self, folder: RunFolder, learner: Learner, data: TrainingData, path: Path | None = None) -> None:
        self.folder, self.learner, self.data = folder, learner, data
        self.path = path or folder.state
        self.progress = Progress()

    def start(self, *, centered: bool) -> None:
        """Restore the run's saved state in every process, or start a new run; move the learner to its device.

        Args:
            centered: whether the decoders of a new run start at the best constant predictions.

        Raises:
            InputError: the saved state is damaged, or does not fit the recipe or the dataset.
        """
        host = self.learner.host
        begun = host.first and self.path.exists()
        if not begun:
            start_scales(self.learner.model, self.data.dataset)
            if centered:
                center(self.learner.model, self.data.dataset)
        state = load_state(self.path, torch.device("cpu")) if begun else self._state()
        self.learner.move_to_device()
        self._restore(host.processes.of_first(state))

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
        } | ({} if average is None else {"average": average.values})

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.learner.model.load_state_dict(state["model"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            if self.learner.average is not None:
                self.learner.average.restore(state["average"])
            self.progress = Progress(**state["progress"])
            digest = state["data"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.path}: does not fit this recipe ({reason}); choose another --out") from None
        if digest != self.data.digest:
            raise InputError(
                f"{self.folder.path}: was trained on another content of {self.data.dataset.path} than is there now; "
                f"restore that content, or choose another --out"
            )
