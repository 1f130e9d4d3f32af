"""The methods that the benchmarks of imputation compare with: each fills the gaps of a matrix of standardised numbers.

A category is a block of columns, one for each of its words (1 for the word that the cell holds, 0 for others).
scikit-learn's parts and a factor analysis use the standardised columns as they are. Trees predict a block at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from table_sources import Array, Mask, Table


@dataclass(frozen=True)
class Matrix:
    """A table as standardised numbers, with NaN for gaps, of shape (rows, all numbers)."""

    values: Array
    blocks: Sequence[slice]
    """The columns of each column of the table."""
    words: Sequence[Sequence[str] | None]
    """The categories of each column of the table; None for numbers."""
    mean: Array
    std: Array

    def texts(self, filled: Array, column: int) -> npt.NDArray[np.object_]:
        """Return the most probable category of each row."""
        words, block = self.words[column], self.blocks[column]
        assert words is not None
        best = (filled[:, block] * self.std[block] + self.mean[block]).argmax(1)
        return np.array(words, dtype=object)[best]


def encode(table: Table, hidden: Mask) -> Matrix:
    """Standardise numbers and code categories with the cells that are not hidden."""
    values, blocks, words, start = list[Array](), list[slice](), list[Sequence[str] | None](), 0
    for i, name in enumerate(table.columns):
        if table.numeric(name):
            column, known = table.numbers(name)[:, None], None
        else:
            texts = ["" if gap else text for text, gap in zip(table.columns[name], hidden[:, i], strict=True)]
            known = sorted(set(texts) - {""})
            column = np.array([[float(text == word) if text else np.nan for word in known] for text in texts])
        values.append(np.where(hidden[:, i, None], np.nan, column))
        blocks.append(slice(start, start := start + column.shape[1]))
        words.append(known)
    return standardise(np.concatenate(values, 1), blocks, words)


def standardise(values: Array, blocks: Sequence[slice], words: Sequence[Sequence[str] | None]) -> Matrix:
    """Return a matrix whose columns have mean 0 and standard deviation 1 over what they hold."""
    mean, std = np.nanmean(values, 0), np.nanstd(values, 0)
    std = np.where(std > 0, std, 1.0)
    return Matrix((values - mean) / std, blocks, words, mean, std)


def means(data: Matrix, seed: int) -> Array:
    """Fill with the mean and, because the largest share wins, the most frequent category."""
    return np.where(np.isnan(data.values), 0.0, data.values)


def nearest(data: Matrix, seed: int) -> Array:
    """Fill with the mean of the five nearest rows (scikit-learn's KNNImputer)."""
    from sklearn.impute import KNNImputer

    return np.asarray(KNNImputer(keep_empty_features=True).fit_transform(data.values))


def iterative(data: Matrix, seed: int) -> Array:
    """Fill with chained ridge regressions (scikit-learn's IterativeImputer with BayesianRidge).

    The last word of each category is left out and follows from the others. With it, the words of a category would
    predict each other exactly, and their gaps would keep the mean that they start from.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    last = [block.stop - 1 for block, words in zip(data.blocks, data.words, strict=True) if words]
    rest = np.delete(np.arange(data.values.shape[1]), last)
    filled = data.values.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        imputer = IterativeImputer(random_state=seed, max_iter=10, keep_empty_features=True)
        filled[:, rest] = imputer.fit_transform(data.values[:, rest])
    shares = filled * data.std + data.mean
    for block, words in zip(data.blocks, data.words, strict=True):
        if words:
            end = block.stop - 1
            filled[:, end] = (1 - shares[:, block.start : end].sum(1) - data.mean[end]) / data.std[end]
    return filled


def factors(data: Matrix, seed: int) -> Array:
    """Fill with the expectation under a factor analysis; a further tenth of the cells chooses how many factors."""
    rng = np.random.default_rng(seed)
    known = ~np.isnan(data.values)
    withheld = np.zeros_like(known)
    for block in data.blocks:
        withheld[:, block] = (rng.random(len(known)) < 0.1)[:, None]
    withheld &= known
    most = min(data.values.shape) - 1
    best, chosen, worse = np.inf, 1, 0
    for count in (c for c in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if c <= most):
        filled = _factor_analysis(np.where(withheld, np.nan, data.values), count, rng)
        error = float(((filled - data.values)[withheld] ** 2).mean())
        if error < best:
            best, chosen, worse = error, count, 0
        else:
            worse += 1
            if worse == 2:
                break
    return _factor_analysis(data.values, chosen, rng, steps=200)


def _factor_analysis(values: Array, count: int, rng: np.random.Generator, steps: int = 80) -> Array:
    """Fit x = W [z, 1] + noise by EM over the known cells, z of `count` standard normals; return the filled values.

    The rows of W have a standard normal prior, with the weight of one cell. Noise is at least 1 % of a column's
    variance.
    """
    known = (~np.isnan(values)).astype(float)
    filled = np.where(known > 0, values, 0.0)
    rows, columns = values.shape
    weights = np.concatenate([0.3 * rng.standard_normal((columns, count)), np.zeros((columns, 1))], 1)
    noise, size = np.full(columns, 0.7), count + 1
    for _ in range(steps):
        z, squares = _latents(filled, known, weights, noise)
        moments = (known.T @ squares.reshape(rows, -1)).reshape(columns, size, size)
        cross = (known * filled).T @ z
        weights = np.linalg.solve(moments + np.eye(size), cross[:, :, None])[:, :, 0]
        fit = (known * filled**2).sum(0) - 2 * (weights * cross).sum(1)
        fit += np.einsum("dk,dkl,dl->d", weights, moments, weights)
        noise = np.maximum(fit / np.maximum(known.sum(0), 1), 0.01)
    z, _ = _latents(filled, known, weights, noise)
    return np.where(known > 0, filled, z @ weights.T)


def _latents(filled: Array, known: Array, weights: Array, noise: Array) -> tuple[Array, Array]:
    """Return the expectations of [z, 1], of shape (rows, count + 1), and of their products, of (rows, same, same)."""
    loading, offset, (rows, size) = weights[:, :-1], weights[:, -1], (len(filled), weights.shape[1])
    outer = (loading[:, :, None] * loading[:, None, :]).reshape(len(loading), -1)
    precision = np.eye(size - 1) + ((known / noise) @ outer).reshape(rows, size - 1, size - 1)
    covariance = np.linalg.inv(precision)
    mean = (covariance @ ((known * (filled - offset) / noise) @ loading)[:, :, None])[:, :, 0]
    z = np.concatenate([mean, np.ones((rows, 1))], 1)
    squares = z[:, :, None] * z[:, None, :]
    squares[:, :-1, :-1] += covariance
    return z, squares


def trees(data: Matrix, seed: int, rounds: int = 5, count: int = 50) -> Array:
    """Fill with random forests, one a column of the table, in rounds until the changes grow (as MissForest does)."""
    gaps = np.isnan(data.values)
    missing = [gaps[:, block].any(1) for block in data.blocks]
    filled, before = means(data, seed), np.inf
    for _ in range(rounds):
        new = filled.copy()
        for column in np.argsort([gap.sum() for gap in missing]):
            gap, block = missing[column], data.blocks[column]
            if gap.any() and not gap.all():
                new[gap, block] = _forest(data, new, int(column), gap, seed, count)
        change = float(((new - filled)[gaps] ** 2).sum() / max((new[gaps] ** 2).sum(), 1e-12))
        if change > before:
            break
        filled, before = new, change
    return filled


def _forest(data: Matrix, filled: Array, column: int, gap: Mask, seed: int, count: int) -> Array:
    """Predict a column of the table, of shape (gaps, its columns), from all others."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    block, words = data.blocks[column], data.words[column]
    others = np.delete(filled, np.r_[block], axis=1)
    if words is None:
        share = 1 / 3 if others.shape[1] <= 50 else "sqrt"  # many columns would take many minutes
        forest = RandomForestRegressor(count, max_features=share, random_state=seed, n_jobs=1)
        width = block.stop - block.start
        target = data.values[~gap, block] if width > 1 else data.values[~gap, block][:, 0]
        return np.asarray(forest.fit(others[~gap], target).predict(others[gap])).reshape(-1, width)
    forest = RandomForestClassifier(count, max_features="sqrt", random_state=seed, n_jobs=1)
    label = (data.values * data.std + data.mean)[~gap, block].argmax(1)
    predicted = np.zeros((int(gap.sum()), len(words)))
    forest.fit(others[~gap], label)
    predicted[:, forest.classes_] = forest.predict_proba(others[gap])
    return np.asarray((predicted - data.mean[block]) / data.std[block])


IMPUTERS: Mapping[str, Callable[[Matrix, int], Array]] = {
    "mean": means,
    "KNN": nearest,
    "iterative": iterative,
    "FA": factors,
    "trees": trees,
}
"""All methods but the draft, by name."""
