"""What a report is made of: a run folder, opened as far as it can be, and held-out rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch, Dataset
from modalkit.data.reading import evenly
from modalkit.errors import InputError
from modalkit.evaluation.translation import chosen
from modalkit.inference import TrainedModel, load
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.runs.metrics import Line, read_metrics
from modalkit.runs.opened import no_run

MOST_SHOWN = 16
"""Modalities that the page's tables have room for; of more, those `chosen`."""


@dataclass(frozen=True)
class HeldOut:
    """Rows that were not trained on.

    Attributes:
        dataset: where they are.
        split: test, or else valid, or else train.
        rows: int64 `(rows,)`.
        batch: their values.
    """

    dataset: Dataset
    split: str
    rows: Tensor
    batch: Batch

    def examples(self, count: int) -> list[int]:
        """Return the places of some rows that have as much as any, evenly spread."""
        has = self.batch.present.sum(1)
        return evenly((has == has.max()).nonzero().squeeze(1), count).tolist() if len(has) else []


@dataclass(frozen=True)
class Source:
    """A run folder.

    Attributes:
        path: of it.
        recipe: what was trained.
        metrics: the lines of its log.
        model: with its best weights; None where there are none that can be loaded.
        held_out: rows to ask about; None where the dataset cannot be opened.
        lacking: in words what is None, and why.
    """

    path: Path
    recipe: Recipe
    metrics: list[Line]
    model: TrainedModel | None = None
    held_out: HeldOut | None = None
    lacking: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The modalities that there is room for."""
        return chosen(self.recipe.modalities, MOST_SHOWN)

    @property
    def unseen(self) -> str:
        """In words which modalities there is no room for; empty if none."""
        count = len(self.recipe.modalities)
        return (
            f"{len(self.names)} of {count} modalities are shown, those with classes first."
            if count > len(self.names)
            else ""
        )

    def kept(self, name: str) -> Any:
        """Return the content of one of the run's JSON files, or None where it has no such file.

        Raises:
            InputError: it is damaged.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it, or move it away") from None


def open_source(
    path: Path, *, rows: int = 0, data: Path | None = None, device: str = "cpu", model: bool = True
) -> Source:
    """Open a run as far as it can be.

    Args:
        path: the run folder.
        rows: how many held-out rows, at most.
        data: a dataset in place of the recipe's.
        device: where to compute.
        model: whether weights and rows are needed at all.

    Raises:
        InputError: no run there; or `data` or `device` were given, and cannot be used.
    """
    if not (path / "recipe.yaml").is_file():
        raise no_run(path)
    recipe, metrics, lacking = load_recipe(path / "recipe.yaml"), list(read_metrics(path)), []
    trained = held_out = None
    if model:
        try:
            trained = load(path, device=device)
        except InputError as error:
            if device != "cpu":
                raise
            lacking.append(f"There are no weights to ask, so only what was logged is shown ({error}).")
        try:
            held_out = _held_out(recipe, data or recipe.data.path, rows)
        except InputError as error:
            if data is not None:
                raise
            lacking.append(
                f"The dataset cannot be opened, so whatever needs held-out rows is left out: translations, the latent "
                f"map, experts, calibration, presence ({error}). Where it is now, --data says."
            )
    return Source(path, recipe, metrics, trained, held_out, lacking)


def _held_out(recipe: Recipe, path: Path | str, most: int) -> HeldOut:
    dataset = Dataset(path, list(recipe.modalities), in_memory=False)
    dataset.manifest.check(recipe.modalities, dataset.path)
    split = next((s for s in ("test", "valid", "train") if len(dataset.rows(s))), "train")
    rows = dataset.rows(split)
    rows = evenly(rows[dataset.present[rows].any(1)], most)
    return HeldOut(dataset, split, rows, dataset[rows])


def some(batch: Batch, rows: Tensor | list[int], given: Tensor | None = None) -> Batch:
    """Return some rows of a batch; of them, where `given` (bool `(rows, modalities)`) is there, only what it says."""
    index = torch.as_tensor(rows, dtype=torch.long)
    return Batch({n: v[index] for n, v in batch.values.items()}, batch.present[index] if given is None else given)


def only(present: Tensor, columns: list[int]) -> Tensor:
    """Return where rows have some modalities, bool `(rows, modalities)`, and nothing else."""
    kept = torch.zeros_like(present)
    kept[:, columns] = present[:, columns]
    return kept
