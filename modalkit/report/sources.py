"""What a report is made from: a run folder, opened as far as possible, and held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch, Dataset
from modalkit.data.reading import evenly
from modalkit.errors import InputError
from modalkit.evaluation.records import Record, read_records
from modalkit.evaluation.saved import read_translations
from modalkit.inference import TrainedModel, load
from modalkit.pictures import chosen
from modalkit.recipe.loading import Recipe
from modalkit.recipe.trust import data_path
from modalkit.runs.checkpoint import is_refit
from modalkit.runs.folder import RunFolder
from modalkit.runs.metrics import Line, read_metrics
from modalkit.runs.opened import held_out_split, open_dataset

MOST_SHOWN = 16
"""How many modalities the page's tables have room for; of more, they show those that are `chosen`."""


@dataclass(frozen=True)
class HeldOut:
    """Rows that were not trained on.

    Attributes:
        dataset: where they are.
        split: test, or else valid unless the model was trained on them, or else train.
        rows: int64 `(rows,)`.
        batch: their values.
    """

    dataset: Dataset
    split: str
    rows: Tensor
    batch: Batch

    def examples(self, count: int) -> list[int]:
        """Return the indices of at most `count` of the rows with the most modalities, evenly spaced."""
        has = self.batch.present.sum(1)
        return evenly((has == has.max()).nonzero().squeeze(1), count).tolist() if len(has) else []


@dataclass(frozen=True)
class Source:
    """A run folder, opened as far as possible.

    Attributes:
        folder: its paths.
        recipe: what was trained.
        metrics: the lines of its log.
        model: with its best weights; None if they cannot be loaded.
        held_out: rows to ask about; None if the dataset cannot be opened.
        lacking: in words what is None, and why.
    """

    folder: RunFolder
    recipe: Recipe
    metrics: list[Line]
    model: TrainedModel | None = None
    held_out: HeldOut | None = None
    lacking: list[str] = field(default_factory=list)

    @property
    def refit(self) -> bool:
        """Whether the best weights are those of a refit on training and validation rows."""
        return is_refit(self.folder.best)

    @property
    def names(self) -> list[str]:
        """The modalities that the page shows."""
        return chosen(self.recipe.explained, MOST_SHOWN)

    @property
    def unseen(self) -> str:
        """A sentence on how many modalities the page shows; empty if it shows all."""
        shown, count = len(self.names), len(self.recipe.explained)
        return f"{shown} of {count} modalities are shown, those with classes first." if count > shown else ""

    @property
    def translations(self) -> list[dict[str, Any]] | None:
        """How well each modality is predicted from each; None if training did not measure it.

        Raises:
            InputError: the file is damaged.
        """
        if not self.folder.translations.exists():
            return None
        return [vars(one) for one in read_translations(self.folder)]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and the machine that the run was trained on; empty if unknown.

        Raises:
            InputError: the file is damaged.
        """
        found = self.folder.read_json(self.folder.environment)
        if found is not None and not isinstance(found, dict):
            raise InputError(f"{self.folder.environment}: should be an object; delete it, or move it away")
        return found or {}

    def records(self, page: str) -> list[Record]:
        """Return what `modalkit evaluate` measured, as far as this page shows it.

        Args:
            page: ``report`` or ``compare``.

        Raises:
            InputError: the file is damaged.
        """
        return read_records(self.folder.evaluation, page)


def open_source(
    path: Path,
    *,
    rows: int = 0,
    data: Path | str | None = None,
    device: str = "cpu",
    model: bool = True,
    trust: bool = False,
) -> Source:
    """Open a run as far as possible.

    Args:
        path: the run folder.
        rows: how many held-out rows, at most.
        data: a dataset in place of the recipe's.
        device: where to compute.
        model: whether to load weights and rows at all.
        trust: whether the code may run that the recipe names, and the URL of its dataset may be contacted.

    Raises:
        InputError: the folder is not a run, or its recipe names code that may not run; or `data` or `device` were
            given and cannot be used.
    """
    folder = RunFolder(path)
    recipe, metrics, lacking = folder.read_recipe(trust=trust), list(read_metrics(path)), []
    trained = held_out = None
    if model:
        try:
            trained = load(path, device=device, trust=trust)
        except InputError as error:
            if device != "cpu":
                raise
            lacking.append(f"There are no weights to ask, so only what was logged is shown ({error}).")
        try:
            where = data or data_path(recipe, trusted=trust, instead="--data URL")
            held_out = _held_out(recipe, where, rows, data is None and is_refit(folder.best))
        except InputError as error:
            if data is not None:
                raise
            lacking.append(
                f"The dataset cannot be opened, so whatever needs held-out rows is left out: translations, the latent "
                f"map, experts, calibration, presence ({error}). If the dataset was moved, use --data."
            )
    return Source(folder, recipe, metrics, trained, held_out, lacking)


def _held_out(recipe: Recipe, path: Path | str, most: int, refit: bool) -> HeldOut:
    dataset = open_dataset(recipe, path, in_memory=False)
    split = held_out_split(dataset, refit=refit)
    rows = dataset.rows(split)
    rows = evenly(rows[dataset.present[rows].any(1)], most)
    return HeldOut(dataset, split, rows, dataset[rows])


def take_rows(batch: Batch, rows: Tensor | list[int], given: Tensor | None = None) -> Batch:
    """Return some rows of a batch.

    Args:
        batch: the batch.
        rows: their indices.
        given: which of their modalities to keep, bool `(rows, modalities)`; by default those that they have.
    """
    index = torch.as_tensor(rows, dtype=torch.long)
    taken = batch.take(index)
    return taken if given is None else replace(taken, present=given)


def only(present: Tensor, columns: list[int]) -> Tensor:
    """Return presence restricted to these columns, bool `(rows, modalities)`; all others are absent."""
    kept = torch.zeros_like(present)
    kept[:, columns] = present[:, columns]
    return kept
