"""Predicting a target from the columns of a table that may have gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from modalkit.sklearn._base import Multimodal
from modalkit.sklearn._columns import Group, free_name
from modalkit.sklearn._tables import TableError

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from modalkit.model.prediction import Prediction


class _Predictor(Multimodal):
    """What the regressor and the classifier share."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _train(self, X: Any, kind: str, fields: dict[str, Any], stored: npt.NDArray[Any]) -> None:
        """Train a model of the table and its target, which is one more modality.

        Args:
            X: the table.
            kind: the kind of the target.
            fields: of the kind's schema.
            stored: the target as the kind stores it.
        """
        from modalkit.sklearn._model import Encoded

        table = self._read_new(X)
        self._warn_of_empty()
        check_consistent_length(table.columns[0].values, stored)
        self.target_ = free_name("target", self.groups_)
        rows = self._encode(table)
        groups = [*self.groups_, Group(self.target_, [], kind, fields, False)]
        whole = Encoded(
            rows.values | {self.target_: stored}, np.concatenate([rows.present, np.ones((len(stored), 1), bool)], 1)
        )
        self.trained_ = self._training(self._seed()).fit(groups, whole)

    def _predict(self, X: Any) -> Prediction:
        """Predict the target of each row from what the row has."""
        from modalkit.sklearn._model import Encoded

        rows = self._encode(self._read(X))
        count = len(rows.present)
        nothing = self.trained_.model.schemas[self.target_].zeros(count).numpy()
        whole = Encoded(
            rows.values | {self.target_: nothing}, np.concatenate([rows.present, np.zeros((count, 1), bool)], 1)
        )
        return self.trained_.predict(whole, [self.target_])[self.target_]


def _required(y: Any) -> Any:
    if y is None:
        raise TableError("this estimator requires y to be passed, but the target y is None")
    return y


class MultimodalRegressor(RegressorMixin, _Predictor):  # type: ignore[misc]
    """Predict one or several numbers from a table that may have gaps, in `fit` and in `predict`.

    The target is one more modality of the model, named ``target``.

    Args:
        modalities: see `modalkit.sklearn.MultimodalImputer`, as for all parameters.
        covariates: columns that are conditions; all others are explained given them.
        recipe: what to train; None: it is drafted.
        settings: values of the recipe to replace.
        epochs: at most so many passes over the rows; None: by the number of rows.
        latent_dim: number of latent dimensions; None: by the number of columns.
        handle_unknown: what a category is that was not seen in `fit`.
        random_state: seed of everything random.
        verbose: 0: silent; 1: progress bars and messages.

    Example:
        >>> import numpy as np
        >>> from modalkit.sklearn import MultimodalRegressor
        >>> X = np.random.default_rng(0).normal(size=(60, 3))
        >>> MultimodalRegressor(epochs=2).fit(X, X[:, 0] + X[:, 1]).predict(X).shape
        (60,)
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> MultimodalRegressor:
        """Train a model of the table and its target.

        Args:
            X: array or DataFrame `(rows, columns)`.
            y: numbers, `(rows,)` or `(rows, targets)`.

        Raises:
            InputError: a column or the target cannot be used.
        """
        y = check_array(_required(y), ensure_2d=False, dtype=np.float64, input_name="y")
        table = y.reshape(len(y), -1)  # (rows,) or (rows, targets) -> (rows, targets)
        self.single_ = y.ndim == 1
        self.loc_ = table.mean(0)
        deviation = (table - self.loc_).std(0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        size = table.shape[1]
        fields = {"size": size, "standardize": {"loc": [0.0] * size, "scale": [1.0] * size}}
        self._train(X, "vector", fields, ((table - self.loc_) / self.scale_).astype(np.float32))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean of the predictive distribution of each row, `(rows,)` or `(rows, targets)`.

        Args:
            X: with the columns of `fit`.
            return_std: whether to return its standard deviation too, as a second array.
        """
        found = self._predict(X)
        mean = found.value.double().numpy() * self.scale_ + self.loc_
        mean = mean[:, 0] if self.single_ else mean
        if not return_std:
            return mean
        assert found.scale is not None
        std = found.scale.double().numpy() * self.scale_
        return mean, std[:, 0] if self.single_ else std


class MultimodalClassifier(ClassifierMixin, _Predictor):  # type: ignore[misc]
    """Predict a class from a table that may have gaps, in `fit` and in `predict`.

    The target is one more modality of the model, named ``target``.

    Args:
        modalities: see `modalkit.sklearn.MultimodalImputer`, as for all parameters.
        covariates: columns that are conditions; all others are explained given them.
        recipe: what to train; None: it is drafted.
        settings: values of the recipe to replace.
        epochs: at most so many passes over the rows; None: by the number of rows.
        latent_dim: number of latent dimensions; None: by the number of columns.
        handle_unknown: what a category is that was not seen in `fit`.
        random_state: seed of everything random.
        verbose: 0: silent; 1: progress bars and messages.

    Attributes:
        classes_: the classes, sorted.

    Example:
        >>> import numpy as np
        >>> from modalkit.sklearn import MultimodalClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 3))
        >>> model = MultimodalClassifier(epochs=2).fit(X, np.where(X[:, 0] > 0, "yes", "no"))
        >>> model.classes_.tolist(), model.predict_proba(X).shape
        (['no', 'yes'], (60, 2))
    """

    def fit(self, X: Any, y: Any) -> MultimodalClassifier:
        """Train a model of the table and its target.

        Args:
            X: array or DataFrame `(rows, columns)`.
            y: the class of each row, `(rows,)`.

        Raises:
            InputError: a column or the target cannot be used, or all rows have the same class.
        """
        y = column_or_1d(_required(y), warn=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if not len(y):
            raise TableError("y: has no rows")
        if len(self.classes_) < 2:
            raise TableError(f"y: all rows have one class, {self.classes_.tolist()[0]!r}; give two or more")
        self._train(X, "label", {"classes": len(self.classes_)}, codes.astype(np.int64))
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class, `(rows, classes)`, in the order of ``classes_``.

        Args:
            X: with the columns of `fit`.
        """
        probabilities = self._predict(X).probabilities
        assert probabilities is not None
        found: npt.NDArray[np.float64] = probabilities.double().numpy()
        found /= found.sum(1, keepdims=True)
        return found

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row, `(rows,)`.

        Args:
            X: with the columns of `fit`.
        """
        best = self.predict_proba(X).argmax(1)  # raises NotFittedError before `fit`
        return self.classes_[best]
