"""Rows as points of the latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from modalkit.sklearn._base import Multimodal
from modalkit.sklearn._tables import TableError


class MultimodalEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Multimodal):  # type: ignore[misc]
    """Turn rows, which may have gaps, into the means of their posteriors.

    Args:
        modalities: see `modalkit.sklearn.MultimodalImputer`, as for all parameters.
        covariates: columns that are conditions; all others are explained given them.
        recipe: what to train; None: it is drafted.
        settings: values of the recipe to replace.
        epochs: at most so many passes over the rows; None: by the number of rows.
        latent_dim: number of latent dimensions, which is that of the returned columns; None: by the number of columns.
        handle_unknown: what a category is that was not seen in `fit`.
        random_state: seed of everything random.
        verbose: 0: silent; 1: progress bars and messages.

    Example:
        >>> import numpy as np
        >>> from modalkit.sklearn import MultimodalEmbedder
        >>> rows = np.random.default_rng(0).normal(size=(40, 3))
        >>> MultimodalEmbedder(epochs=1, latent_dim=2).fit_transform(rows).shape
        (40, 2)
    """

    def fit(self, X: Any, y: Any = None) -> MultimodalEmbedder:
        """Train a model of the table.

        Args:
            X: array or DataFrame `(rows, columns)`.
            y: ignored.

        Raises:
            InputError: a column cannot be used, or every column holds one value only.
        """
        table = self._read_new(X)
        self._warn_of_empty()
        if all(group.covariate for group in self.groups_):
            other = " that is no covariate" if self.groups_ else ""
            raise TableError(f"X: no column{other} holds two different values, so there is nothing to learn")
        self.trained_ = self._training(self._seed()).fit(self.groups_, self._encode(table))
        self._n_features_out = self.trained_.model.shared_dim
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the means of the posteriors of z, `(rows, latent_dim)`; of a row that has nothing, the prior's.

        Args:
            X: with the columns of `fit`; it is not changed.
        """
        return self.trained_.embed(self._encode(self._read(X)))[0]

    def uncertainty(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the standard deviations of the same posteriors, `(rows, latent_dim)`.

        Args:
            X: with the columns of `fit`; it is not changed.
        """
        return self.trained_.embed(self._encode(self._read(X)))[1]
