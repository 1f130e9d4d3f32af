"""What an objective asks of a step, checked, and whether a dataset's rows have anything that it can learn from."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Dataset
from modalkit.errors import InputError, guard
from modalkit.plugin import Draws, Objective, Plan
from modalkit.recipe.loading import Recipe
from modalkit.util.randomness import generator
from modalkit.util.text import listed

_CELLS = 100_000  # rows times modalities, planned at once


class Planner:
    """A recipe's objective, asked inside a guard that names it.

    Args:
        recipe: the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.names = recipe, tuple(recipe.modalities)
        self.objective: Objective[Any] = registry.get(registry.OBJECTIVES, recipe.objective.name)

    def plan(self, present: Tensor, purpose: str, number: int, epoch: int | None) -> Plan:
        """Return the plan of some rows.

        Args:
            present: bool `(batch, modalities)`.
            purpose: what the plan is for; the random choices of different purposes are independent.
            number: which plan of that purpose.
            epoch: whole epochs done; None for validation.
        """
        draws = Draws(generator(self.recipe.seed, f"{purpose} plan", number), epoch)
        with guard(f"objective '{self.objective.name}': its plan"):
            plan = self.objective.plan(self.recipe.objective, self.names, present, draws)
            plan.check(present)
        return plan

    def frozen(self, epoch: int) -> tuple[str, ...]:
        """Return the prefixes of the parameters that stay as they are in an epoch."""
        with guard(f"objective '{self.objective.name}': its frozen"):
            return tuple(self.objective.frozen(self.recipe.objective, epoch))

    def require(self, dataset: Dataset, **rows: Tensor) -> None:
        """Check that there is something to learn: of every modality, and for the terms of every stage.

        Args:
            dataset: with entries hidden already, where `data.weak` hides any.
            rows: int64 `(rows,)` of ``training`` and of ``validation``.

        Raises:
            InputError: there is not; or the objective is for complete rows, and one is not.
        """
        present, name, epochs = dataset.present[rows["training"]], self.objective.name, self.recipe.train.epochs
        if self.objective.complete_rows:
            for split, some in rows.items():
                self._require_complete(dataset, split, some)
        if hidden := [n for n, some in zip(self.names, present.any(0), strict=True) if not some]:
            raise InputError(
                f"data.weak hides every training entry of {listed(hidden)}; raise data.weak.paired or data.weak.keep"
            )
        if self.frozen(epochs - 1) != self.frozen(sys.maxsize):
            raise InputError(
                f"train.epochs: {epochs} end before the last stage of objective '{name}' begins; give more"
            )
        for epoch in {0, epochs - 1}:
            plans = (self.plan(part, "check", 0, epoch) for part in torch.split(present, 1 + _CELLS // len(self.names)))
            if not any(plan.targets.any() for plan in plans):
                raise InputError(
                    f"objective '{name}': no training row of {dataset.path} has what its terms need{self._because()}"
                )

    def _require_complete(self, dataset: Dataset, split: str, rows: Tensor) -> None:
        lacking = rows[~dataset.present[rows].all(1)]
        if len(lacking):
            absent = [n for n, there in zip(self.names, dataset.present[lacking[0]], strict=True) if not there]
            raise InputError(
                f"objective '{self.objective.name}' is defined for complete rows only, and {len(lacking)} of "
                f"{len(rows)} {split} rows of {dataset.path} lack a modality (the first, "
                f"{dataset.key(int(lacking[0]))}, lacks {listed(absent)}){self._because()}; choose an objective for "
                f"missing modalities, such as mvae"
            )

    def _because(self) -> str:
        weak = self.recipe.data.weak
        return " (data.weak hides entries)" if weak.paired < 1 or weak.keep < 1 else ""
