"""Filling the missing cells of a table, once or several times, with how certain each is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from modalkit.sklearn._base import Multimodal
from modalkit.sklearn._columns import EMPTY, Column
from modalkit.sklearn._tables import BIT, NUMBER, Table, TableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from modalkit.model.prediction import Prediction
    from modalkit.sklearn._model import Encoded, Trained


class MultimodalImputer(TransformerMixin, Multimodal):  # type: ignore[misc]
    """Fill the missing cells of a table from the other cells of their rows.

    Numbers, booleans and categories may be mixed. A DataFrame returns as a DataFrame with the same index, columns,
    types and categories; an array returns as an array. Only missing cells change.

    Args:
        modalities: which columns belong together: by name of a modality a list of columns, or a mapping with
            ``columns``, ``kind`` and other keys of the kind, such as ``{"visits": {"columns": ["n"], "kind":
            "counts"}}``. Columns are named as in the table, or by number. A column that is not listed is a modality of
            its own. Cells of one modality are not predicted from each other, so columns with separate gaps should not
            be grouped.
        covariates: columns that are conditions, such as a site or a dose: all others are predicted given them. They
            come back as they are; their missing cells stay missing, and count as average.
        recipe: what to train, in any form that `modalkit.train` takes; None: it is drafted, as `modalkit init` does,
            with few epochs.
        settings: values of the recipe to replace, such as ``{"train.batch_size": 32}``.
        epochs: at most so many passes over the rows; None: by the number of rows.
        latent_dim: number of latent dimensions; None: by the number of columns.
        sample: whether `transform` fills with a sample of the predictive distribution instead of its mean (of
            categories, the most probable).
        n_imputations: how many tables `imputations` returns.
        bootstrap: whether each of these tables comes from a model of its own, which is fitted to a sample of the rows
            with replacement. The tables then also differ by what is uncertain about the model.
        add_indicator: whether to add a column ``missingindicator_NAME`` for each column that has missing cells in
            `fit`: which cells were missing.
        handle_unknown: what a category is that was not seen in `fit`: ``"error"``, or ``"missing"``: the other cells
            are predicted as if it were missing. The cell itself stays.
        random_state: seed of everything random.
        verbose: 0: silent; 1: progress bars and messages.

    Attributes:
        n_features_in_: number of columns in `fit`.
        feature_names_in_: their names, if all are texts.

    Example:
        >>> import numpy as np
        >>> from modalkit.sklearn import MultimodalImputer
        >>> rows = np.random.default_rng(0).normal(size=(40, 1)) * [1.0, 2.0]
        >>> rows[3, 1] = np.nan
        >>> filled = MultimodalImputer(epochs=1).fit_transform(rows)
        >>> bool(np.isnan(filled).any()), bool((filled[:3] == rows[:3]).all())
        (False, True)
    """

    def __init__(
        self,
        *,
        modalities: Any = None,
        covariates: Any = None,
        recipe: Any = None,
        settings: Any = None,
        epochs: int | None = None,
        latent_dim: int | None = None,
        sample: bool = False,
        n_imputations: int = 5,
        bootstrap: bool = False,
        add_indicator: bool = False,
        handle_unknown: str = "error",
        random_state: Any = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            modalities=modalities,
            covariates=covariates,
            recipe=recipe,
            settings=settings,
            epochs=epochs,
            latent_dim=latent_dim,
            handle_unknown=handle_unknown,
            random_state=random_state,
            verbose=verbose,
        )
        self.sample = sample
        self.n_imputations = n_imputations
        self.bootstrap = bootstrap
        self.add_indicator = add_indicator

    def fit(self, X: Any, y: Any = None) -> MultimodalImputer:
        """Train a model of the table.

        Args:
            X: array or DataFrame `(rows, columns)`.
            y: ignored.

        Raises:
            InputError: a column cannot be used, for instance because all of its cells are missing.
        """
        if not isinstance(self.n_imputations, (int, np.integer)) or self.n_imputations < 1:
            raise TableError(f"n_imputations: should be a whole number from 1, got {self.n_imputations!r}")
        table = self._read_new(X)
        filled = [column for place, column in enumerate(self.columns_) if place not in self.covariates_]
        if empty := [column.label for column in filled if column.sort == EMPTY]:
            raise TableError(f"column '{empty[0]}': all of its cells are missing, so there is no value to fill in")
        self.indicated_ = [place for place, cells in enumerate(table.columns) if cells.missing.any()]
        self.seed_ = self._seed()
        rows = self._encode(table)
        explained = any(not group.covariate for group in self.groups_)
        self.trained_ = self._training(self.seed_).fit(self.groups_, rows) if explained else None
        self.bootstrapped_ = list(self._refitted(rows)) if self.bootstrap and explained else []
        return self

    def _refitted(self, rows: Encoded) -> Iterator[Trained]:
        """Yield a model of each of several samples of the rows with replacement."""
        count = len(rows.present)
        for number in range(self.n_imputations):
            chosen = np.random.default_rng([self.seed_, number]).integers(count, size=count)
            yield self._training(self.seed_).fit(self.groups_, rows.rows(chosen))

    def transform(self, X: Any) -> Any:
        """Return the table without gaps.

        Args:
            X: with the columns of `fit`; it is not changed.
        """
        table = self._read(X)
        return self._filled(table, self.trained_, self.seed_ if self.sample else None)

    def imputations(self, X: Any) -> list[Any]:
        """Return several tables without gaps, whose filled cells are samples of the predictive distribution.

        Estimates from each can be combined with `modalkit.sklearn.pool`.

        Args:
            X: with the columns of `fit`; it is not changed.
        """
        table = self._read(X)
        models: list[Trained | None] = [*self.bootstrapped_] or [self.trained_] * self.n_imputations
        seeds = np.random.default_rng(self.seed_).integers(2**31 - 1, size=len(models)).tolist()
        return [self._filled(table, model, seed) for model, seed in zip(models, seeds, strict=True)]

    def uncertainty(self, X: Any) -> Any:
        """Return how uncertain each filled cell is, as floats of the table's shape; NaN where the cell is known.

        Of numbers it is the standard deviation of the predictive distribution, in the column's unit. Of booleans and
        categories it is the probability that the filled value is wrong.

        Args:
            X: with the columns of `fit`; it is not changed.
        """
        table = self._read(X)
        found = np.full((len(table), len(table.columns)), np.nan)
        for place, (rows, prediction, within) in self._predicted(table, self.trained_, None).items():
            found[rows, place] = _doubt(self.columns_[place], prediction, within)
        for place, column in enumerate(self.columns_):
            if not column.modelled and place not in self.covariates_:
                found[table.columns[place].missing, place] = 0.0
        if table.frame is None:
            return found
        return type(table.frame)(found, index=table.frame.index, columns=table.frame.columns)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that `transform` returns."""
        check_is_fitted(self)
        names = np.asarray(_check_feature_names_in(self, input_features), object)
        if not self.add_indicator:
            return names
        added = [f"missingindicator_{names[place]}" for place in self.indicated_]
        return np.concatenate([names, np.asarray(added, object)])

    def _predicted(
        self, table: Table, trained: Trained | None, sample: int | None
    ) -> dict[int, tuple[npt.NDArray[np.bool_], Prediction, tuple[npt.NDArray[np.bool_], int]]]:
        """Predict what the table lacks.

        Returns:
            By column which of its cells are missing, the prediction of its modality, and where these cells are in it:
            which of the predicted rows, and which number.
        """
        rows = self._encode(table)
        missing = [
            np.stack([table.columns[p].missing for p in group.columns]).any(0) & (not group.covariate)
            for group in self.groups_
        ]
        gaps = np.stack(missing, 1) if missing else np.zeros((len(table), 0), bool)
        some = np.flatnonzero(gaps.any(axis=1))
        if trained is None or not len(some):
            return {}
        part = rows.rows(some)
        want = [group.modality for place, group in enumerate(self.groups_) if gaps[:, place].any()]
        predictions: Mapping[str, Prediction] = trained.predict(part, want, targets=gaps[some], sample=sample)
        found = {}
        for number, group in enumerate(self.groups_):
            for within, place in enumerate(group.columns):
                lacking = table.columns[place].missing
                if lacking.any() and not group.covariate:
                    found[place] = lacking, predictions[group.modality], (lacking[gaps[:, number]], within)
        return found

    def _filled(self, table: Table, trained: Trained | None, sample: int | None) -> Any:
        """Return the table with its missing cells filled, and with indicators if they are asked for."""
        values: dict[int, npt.NDArray[Any]] = {}
        for place, (_, prediction, (chosen, within)) in self._predicted(table, trained, sample).items():
            point = prediction.value if sample is None else prediction.samples[0]
            values[place] = self.columns_[place].decode(_flat(point)[chosen, within])
        for place, column in enumerate(self.columns_):
            if column.modelled or place in self.covariates_:
                continue
            if (lacking := table.columns[place].missing).any():
                values[place] = np.repeat(np.array(column.categories, object), int(lacking.sum()))
        out = table.filled(values)
        return table.joined(out, self._indicators(table)) if self.add_indicator else out

    def _indicators(self, table: Table) -> dict[str, npt.NDArray[np.bool_]]:
        names = self.get_feature_names_out()[len(self.columns_) :]
        return {str(name): table.columns[place].missing for name, place in zip(names, self.indicated_, strict=True)}


def _doubt(column: Column, prediction: Prediction, where: tuple[npt.NDArray[np.bool_], int]) -> npt.NDArray[np.float64]:
    """Return the standard deviation of numbers, or the probability that another value is wrong, `(cells,)`."""
    chosen, within = where
    if prediction.probabilities is not None:
        sure: npt.NDArray[np.float64] = prediction.probabilities.double().numpy().max(1)[chosen]
        return 1 - sure
    if column.sort == BIT and prediction.schema.levels == 2:
        yes: npt.NDArray[np.float64] = _flat(prediction.value)[chosen, within]
        return np.minimum(yes, 1 - yes)
    scale = prediction.scale
    if scale is None or column.sort != NUMBER:
        return np.full(int(chosen.sum()), np.nan)
    width: npt.NDArray[np.float64] = _flat(scale)[chosen, within]
    return width * column.scale


def _flat(values: Tensor) -> npt.NDArray[np.float64]:
    flat: npt.NDArray[np.float64] = values.double().numpy().reshape(len(values), -1)  # (rows, *event) -> (rows, n)
    return flat
