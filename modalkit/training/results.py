"""What the first process writes into the run folder beside the state: weights, pictures, translations, epoch lines."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.evaluation.pictures import translation_sheet
from modalkit.evaluation.translation import Translation, translations
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.runs.checkpoint import load_weights, save_weights
from modalkit.runs.folder import RunFolder
from modalkit.util.files import write_atomic, write_json

_log = logging.getLogger(__name__)

_SECONDS_APART = 5.0
"""Least seconds between two lines about epochs; the metrics log has every epoch."""
_PICTURED_ROWS = 3


class Results:
    """Writes the results of a training.

    Args:
        folder: the run folder.
        model: which is trained.
        dataset: whose rows are pictured and translated.
        seed: the run's seed.
    """

    def __init__(self, folder: RunFolder, model: MultimodalVAE, dataset: Dataset, seed: int) -> None:
        self.folder, self.model, self.dataset, self.seed = folder, model, dataset, seed

    def save_best(self, *, refit: bool = False) -> None:
        """Keep the present weights as the best.

        Args:
            refit: whether they were fitted to training and validation rows.
        """
        save_weights(self.folder.best, self.model, refit=refit)

    def save_last(self) -> None:
        """Keep the present weights as the last."""
        save_weights(self.folder.last, self.model)

    def load_best(self) -> None:
        """Give the model the best weights."""
        load_weights(self.folder.best, self.model)

    def save_sheet(self, split: str, name: str) -> None:
        """Save a sheet of pictures: reconstructions and translations of some rows, complete ones if there are any."""
        rows = self.dataset.rows(split)
        complete = rows[self.dataset.present[rows].all(1)]
        chosen = (complete if len(complete) else rows)[:_PICTURED_ROWS]
        try:
            with evaluating(self.model):
                sheet = translation_sheet(self.model, self.dataset, chosen, self.seed)
            write_atomic(self.folder.pictures / name, lambda path: sheet.save(path, format="png"))
        except InputError as error:  # a failing picture must not stop a training
            _log.info(f"no {name}: {error}")

    def save_translations(self, split: str) -> tuple[Translation, ...]:
        """Translate rows of a split, at most 500, evenly spread; save and return how well that works."""
        with evaluating(self.model):
            table = tuple(translations(self.model, self.dataset, self.dataset.rows(split), seed=self.seed))
        write_json(self.folder.translations, [asdict(t) for t in table])
        return table


class EpochLines:
    """Logs a line at the end of an epoch; of short epochs only some, but always the first and the last."""

    def __init__(self) -> None:
        self.waiting, self.logged_at = "", -math.inf

    def add(self, line: str) -> None:
        """Log the line of an epoch, or keep it if another was logged a few seconds ago."""
        self.waiting = line
        if time.monotonic() - self.logged_at >= _SECONDS_APART:
            self.close()

    def close(self) -> None:
        """Log the last line if it was kept."""
        if self.waiting:
            _log.info(self.waiting)
            self.waiting, self.logged_at = "", time.monotonic()


class Pace:
    """Measures rows a second since the last measurement."""

    def __init__(self) -> None:
        self.rows, self.since = 0, time.monotonic()

    def measure(self) -> float:
        """Return the rows a second, and start again."""
        rate = self.rows / (time.monotonic() - self.since)
        self.rows, self.since = 0, time.monotonic()
        return rate
