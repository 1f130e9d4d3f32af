"""Planning: which ELBO terms an objective evaluates in a step, and whether the training rows suffice for them."""

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
from modalkit.training.data import TrainingData
from modalkit.util.randomness import generator
from modalkit.util.text import listed

_CELLS = 100_000  # rows times modalities, planned at once


class Planner:
    """Asks a recipe's objective for plans; an error of a plugin names the objective.

    Args:
        recipe: the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.names = recipe, tuple(recipe.explained)
        self.objective: Objective[Any] = registry.get(registry.OBJECTIVES, recipe.objective.name)

    def plan(self, present: Tensor, purpose: str, number: int, epoch: int | None) -> Plan:
        """Return the plan of some rows.

        Args:
            present: bool `(batch, modalities)`.
            purpose: what the plan is for; random choices of different purposes are independent.
            number: the number of the plan for that purpose.
            epoch: whole epochs done; None for validation.
        """
        draws = Draws(generator(self.recipe.seed, f"{purpose} plan", number), epoch)
        with guard(f"objective '{self.objective.name}': its plan"):
            plan = self.objective.plan(self.recipe.objective, self.names, present, draws)
            plan.check(present)
        return plan

    def frozen(self, epoch: int) -> tuple[str, ...]:
        """Return the prefixes of the names of the parameters that are frozen in an epoch."""
        with guard(f"objective '{self.objective.name}': its frozen"):
            return tuple(self.objective.frozen(self.recipe.objective, epoch))

    def require(self, data: TrainingData) -> None:
        """Check that the rows suffice for every modality and for the terms of the first and the last epoch.

        Raises:
            InputError: they do not, or the objective needs complete rows and one is not complete.
        """
        name, epochs = self.objective.name, self.recipe.train.epochs
        present = data.dataset.present[data.train]
        if self.objective.complete_rows:
            self._require_complete(data.dataset, "training", data.train)
            self._require_complete(data.dataset, "validation", data.valid)
        if hidden := [n for n, there in zip(self.names, present.any(0), strict=True) if not there]:
            raise InputError(
                f"data.weak hides every training entry of {listed(hidden)}; raise data.weak.paired or data.weak.keep"
            )
        if self.frozen(epochs - 1) != self.frozen(sys.maxsize):
            raise InputError(
                f"train.epochs: {epochs} epochs end before the last stage of objective '{name}' begins; give more"
            )
        for epoch in {0, epochs - 1}:
            if not self._has_targets(present, epoch):
                raise InputError(
                    f"objective '{name}': no training row of {data.dataset.path} has what its terms "
                    f"need{self._because()}"
                )

    def _has_targets(self, present: Tensor, epoch: int) -> bool:
        """Tell whether any of the rows takes part in a term of an epoch."""
        parts = torch.split(present, 1 + _CELLS // len(self.names))
        return any(bool(self.plan(part, "check", 0, epoch).targets.any()) for part in parts)

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
        return " (data.weak hides entries)" if self.recipe.data.weak.hides else ""
