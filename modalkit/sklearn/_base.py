"""What all estimators share: their parameters, how they read tables, and how they train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from modalkit.sklearn._columns import EMPTY, Column, Group, describe, grouped, places_of
from modalkit.sklearn._tables import Table, TableError, read_table

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from modalkit.sklearn._model import Encoded, Training


class Multimodal(BaseEstimator):  # type: ignore[misc]
    """The base of the estimators; see `modalkit.sklearn.MultimodalImputer` for the parameters."""

    columns_: list[Column]
    groups_: list[Group]
    covariates_: Sequence[int] = ()
    """The places of the covariates' columns; none in estimators that were saved before there were any."""

    def __init__(
        self,
        *,
        modalities: Any = None,
        covariates: Any = None,
        recipe: Any = None,
        settings: Any = None,
        epochs: int | None = None,
        latent_dim: int | None = None,
        handle_unknown: str = "error",
        random_state: Any = 0,
        verbose: int = 0,
    ) -> None:
        self.modalities = modalities
        self.covariates = covariates
        self.recipe = recipe
        self.settings = settings
        self.epochs = epochs
        self.latent_dim = latent_dim
        self.handle_unknown = handle_unknown
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    def save(self, folder: Path | str) -> None:
        """Write the fitted estimator into a new folder, without pickle; `modalkit.sklearn.load` reads it.

        Args:
            folder: it must not exist, or be empty.

        Raises:
            InputError: the folder holds something, or a parameter or a category cannot be written as JSON.
        """
        from modalkit.sklearn._saving import save

        check_is_fitted(self)
        save(self, Path(folder))

    def _read_new(self, X: Any) -> Table:
        """Read the table that the estimator is fitted to, and describe its columns."""
        if self.handle_unknown not in ("error", "missing"):
            raise TableError(f"handle_unknown: should be 'error' or 'missing', got {self.handle_unknown!r}")
        table = read_table(self, X, reset=True)
        columns = [describe(cells) for cells in table.columns]
        self.covariates_ = places_of(columns, self.covariates)
        self.groups_ = grouped(columns, self.modalities, self.covariates_)
        self.columns_ = columns
        return table

    def _read(self, X: Any) -> Table:
        check_is_fitted(self)
        return read_table(self, X, reset=False)

    def _encode(self, table: Table) -> Encoded:
        from modalkit.sklearn._model import encoded

        missing = self.handle_unknown == "missing"
        return encoded(self.groups_, self.columns_, table.columns, unknown_is_missing=missing)

    def _training(self, seed: int) -> Training:
        from modalkit.sklearn._model import Training

        return Training(self.recipe, self.settings, self.epochs, self.latent_dim, seed, self.verbose)

    def _seed(self) -> int:
        """Return a seed of `random_state`, which may be a number, a generator, or None."""
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _warn_of_empty(self) -> None:
        """Warn of columns that have no value; the model leaves them out."""
        import warnings

        if empty := [str(column.label) for column in self.columns_ if column.sort == EMPTY]:
            warnings.warn(f"all cells of {', '.join(empty)} are missing, so the model leaves them out", stacklevel=3)
