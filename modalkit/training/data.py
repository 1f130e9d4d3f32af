"""The rows of a training: opened, weakened, checked and divided into batches."""

from __future__ import annotations

import hashlib

from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.batches import Batches
from modalkit.data.suitability import constant, require_valid
from modalkit.data.weak import weaken
from modalkit.errors import InputError
from modalkit.recipe.loading import Recipe
from modalkit.util.randomness import derived_seed
from modalkit.util.text import listed


class TrainingData:
    """A recipe's dataset as its training sees it.

    Args:
        recipe: names the dataset, the modalities, and what to hide.
        refit: whether the validation rows count as training rows, for a second fit; ``data.weak`` then hides entries of
            theirs too.

    Attributes:
        dataset: with the entries hidden that ``data.weak`` hides.
        train: training rows that have any modality, int64 `(rows,)`.
        valid: validation rows that have any modality, int64 `(rows,)`.
        batches: how an epoch divides the training rows.
        digest: SHA-256 of the dataset's manifest.

    Raises:
        InputError: the dataset cannot be opened or does not fit the recipe, a kind cannot hold its values, or the
            recipe needs validation rows and there are none.
    """

    def __init__(self, recipe: Recipe, *, refit: bool = False) -> None:
        opened = Dataset(
            recipe.data.path,
            list(recipe.explained),
            in_memory=recipe.data.in_memory,
            covariates=list(recipe.covariates),
        )
        for part, schemas in ((opened, recipe.explained), (opened.covariates, recipe.covariates)):
            if part is not None:
                part.require(schemas)
                require_valid(part, schemas)
        self.dataset = weaken(opened, opened.rows("train"), recipe.data.weak, recipe.seed)
        if refit:
            seed = derived_seed(recipe.seed, "refit")
            self.dataset = weaken(self.dataset, opened.rows("valid"), recipe.data.weak, seed).with_valid_as_train()
        self.train, self.valid = self._usable("train"), self._usable("valid")
        if recipe.train.patience is not None and not len(self.valid):
            raise InputError(f"train.patience: {recipe.data.path} has no validation rows to wait for")
        if recipe.train.choose == "imputation" and not len(self.valid):
            raise InputError(
                f"train.choose: {recipe.data.path} has no validation rows to impute; use train.choose: elbo, which "
                f"then keeps the last weights"
            )
        if recipe.train.refit and not len(self.valid):
            raise InputError(
                f"train.refit: {recipe.data.path} has no validation rows, which choose the number of epochs and then "
                f"join the training rows; remove train.refit"
            )
        present = self.dataset.present[self.train]
        self.batches = Batches(self.train, present, recipe.train.batch_size, recipe.train.paired_share)
        self.digest = hashlib.sha256((self.dataset.folder / "manifest.json").read_bytes()).hexdigest()

    def doubt(self) -> str:
        """Return which modalities hold one value in all training rows, and what to do, or the empty string."""
        parts = [part for part in (self.dataset, self.dataset.covariates) if part is not None]
        same = [name for part in parts for name in constant(part, self.train)]
        if not same:
            return ""
        return (
            f"{listed(same, 5)}: all training rows have the same value, so that nothing can be learned from "
            f"{'it; remove this modality' if len(same) == 1 else 'them; remove these modalities'} from the recipe"
        )

    def _usable(self, split: str) -> Tensor:
        rows = self.dataset.rows(split)
        return rows[self.dataset.present[rows].any(1)]
