"""Linear experts of a factor analysis's factors: exact ones, and regressions of the factors on a modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.model.factor_analysis import FactorAnalysis

STRENGTHS = [10 ** (power / 2) for power in range(-8, 4)]
"""Strengths of a ridge regression to choose from, relative to the mean squared length of a row."""
OWN = 0.3
"""Weight of a modality's own error, beside the errors of the others, when its expert is a regression."""
_EXACT_IF_CLOSE = 0.98  # a regression must have a lower error than this times the exact expert's
_LEAST_COST = 1e-4  # of an error in a direction that no other modality needs, relative to the mean over all
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-4, 0.999  # of a factor given a modality; it is 1 before


@dataclass(frozen=True)
class LinearExpert:
    r"""An expert :math:`P = U U^\top`, :math:`P \mu = U (T x + t)`, for `LinearPath.give_expert`."""

    directions: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Rows:
    """Rows that have a modality.

    Attributes:
        x: the modality's numbers, `(rows, columns)`.
        loc: the factors' posterior means given everything that each row has, `(rows, factors)`.
    """

    x: Tensor
    loc: Tensor


def can_regress(part: FactorAnalysis, rows: Rows, rank: int) -> bool:
    """Tell whether a modality has enough rows, and its expert enough directions, for a regression."""
    return len(rows.x) >= 4 * part.factors and rank >= part.factors


class Regression:
    r"""A regression of the factors on a modality.

    With thousands of numbers a sample, noise is not independent given the factors. The exact expert of a modality on
    its own is then wrong, and a regression is better.

    A ridge regression of the factors alone would shrink what only this modality shows. So the weights B minimise

    .. math:: E\, e^\top A e + w E \| x - W B x \|^2 / v, \quad e = z - B x,

    of centred z and x, where A says what an error costs in the other modalities, and v is the variance of x.

    Args:
        rows: training rows.
        covariance: the mean covariance of the posteriors of these rows, `(factors, factors)`.
        part: the factor analysis of the modality's columns.
        others: A, `(factors, factors)`.
    """

    def __init__(self, rows: Rows, covariance: Tensor, part: FactorAnalysis, others: Tensor) -> None:
        alone, residual = ridge(rows.x, rows.loc)
        self.part, self.others = part, others
        self.center, self.mean = rows.x.mean(0), rows.loc.mean(0)
        own = OWN * part.loadings.T / _variance(part)  # (factors, columns)
        least = _LEAST_COST * (others + own @ part.loadings).diagonal().mean()
        most = others + least * torch.eye(part.factors).to(others)
        both = most + own @ part.loadings
        self.weight = torch.linalg.solve(both, most @ alone + own)
        unexplained = (rows.x - self.center) - (rows.loc - self.mean) @ part.loadings.T
        residual = torch.linalg.solve(both, most @ residual.T - own @ unexplained.T).T
        self.left = residual.T @ residual / len(residual) + covariance

    def predicts_better(self, held_out: Rows) -> bool:
        """Tell whether its weights have a lower cost on held-out rows than the exact expert, by 2 % at least.

        Args:
            held_out: rows that took no part in the factor analysis.
        """
        eta, precision = self.part.natural(held_out.x)
        exact = torch.linalg.solve(precision[0] + torch.eye(self.part.factors).to(precision), eta.T).T
        mine = self.mean + (held_out.x - self.center) @ self.weight.T
        return self._cost(mine, held_out) < _EXACT_IF_CLOSE * self._cost(exact, held_out)

    def _cost(self, found: Tensor, rows: Rows) -> float:
        away = found - rows.loc
        within = torch.linalg.qr(self.part.loadings)[0]  # what no z can predict is the same for all weights
        own = (rows.x - self.part.mean) @ within - found @ (self.part.loadings.T @ within)
        return float(((away @ self.others) * away).sum() + OWN * own.square().sum() / _variance(self.part))

    def expert(self, rank: int) -> LinearExpert:
        """Return the expert with at most `rank` directions under which z has the regression's mean and covariance."""
        return regressed_expert(self.weight, self.center, self.mean, self.left, rank)


def _variance(part: FactorAnalysis) -> Tensor:
    """Return the sum of the variances of a modality's numbers."""
    return part.loadings.square().sum() + part.noise.sum()


def exact_expert(part: FactorAnalysis, rank: int) -> LinearExpert:
    r"""Return the expert :math:`P = W^\top \Psi^{-1} W`, :math:`P \mu = W^\top \Psi^{-1} (x - m)`.

    Args:
        part: of the modality's columns.
        rank: most directions; those with the highest precision are kept.
    """
    weighted = (part.loadings / part.noise[:, None]).double()  # (columns, factors)
    values, vectors = torch.linalg.eigh(part.loadings.double().T @ weighted)
    values, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    lengths = values.sqrt()
    inverse = torch.where(values > 1e-12 * values.max().clamp(min=1e-12), 1 / lengths, 0)
    weight = inverse[:, None] * (vectors.T @ weighted.T)  # (rank, columns)
    return _expert(vectors * lengths, weight, -weight @ part.mean.double(), rank)


def regressed_expert(weight: Tensor, center: Tensor, mean: Tensor, left: Tensor, rank: int) -> LinearExpert:
    r"""Return the expert under which z has a regression's mean and covariance, if the prior is N(0, I).

    With the mean :math:`B (x - c) + m` and the covariance S, it has :math:`P = S^{-1} - I` and
    :math:`P \mu = S^{-1} (B (x - c) + m)`.

    Args:
        weight: B, `(factors, columns)`.
        center: c, `(columns,)`.
        mean: m, `(factors,)`.
        left: S, `(factors, factors)`; its eigenvalues are kept above 0 and below 1.
        rank: most directions; those with the highest precision are kept.
    """
    values, vectors = torch.linalg.eigh(left.double())  # ascending: the best known directions first
    values, vectors = values.clamp(_LEAST_VARIANCE, _MOST_VARIANCE)[:rank], vectors[:, :rank]
    lengths = (1 / values - 1).sqrt()
    gain = (vectors / (values * lengths)).T  # (rank, factors)
    combined = gain @ weight.double()
    return _expert(vectors * lengths, combined, gain @ mean.double() - combined @ center.double(), rank)


def _expert(directions: Tensor, weight: Tensor, bias: Tensor, rank: int) -> LinearExpert:
    """Return an expert, with directions of zeros if there are fewer than `rank`."""
    dtype = torch.get_default_dtype()
    missing = max(0, rank - directions.shape[1])
    return LinearExpert(
        torch.nn.functional.pad(directions, (0, missing)).to(dtype),
        torch.nn.functional.pad(weight, (0, 0, 0, missing)).to(dtype),
        torch.nn.functional.pad(bias, (0, missing)).to(dtype),
    )


def ridge(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fit a ridge regression, where each target has the strength with the lowest leave-one-out error.

    That error has a closed form: the residual of a row, divided by 1 minus its leverage.

    Args:
        x: `(rows, columns)`.
        z: `(rows, targets)`.

    Returns:
        The weights of centred columns, `(targets, columns)`, and the leave-one-out residuals, `(rows, targets)`.

    Source:
        Allen 1974, the PRESS statistic.
    """
    rows, moved, wanted = len(x), x - x.mean(0), z - z.mean(0)
    dual = x.shape[1] > rows
    gram = moved @ moved.T if dual else moved.T @ moved
    squares, vectors = torch.linalg.eigh(gram.double())
    squares, vectors = squares.to(x), vectors.to(x)
    kept = squares > 1e-6 * squares[-1].clamp(min=1e-30)
    squares, vectors = squares[kept], vectors[:, kept]
    left = vectors if dual else moved @ vectors / squares.sqrt()  # left singular vectors, (rows, kept)
    projected = left.T @ wanted  # (kept, targets)
    scale = float(squares.sum()) / rows
    least = wanted.new_full((z.shape[1],), torch.inf)
    inner, residual = torch.zeros_like(projected), wanted
    for strength in STRENGTHS:
        shrunk = squares / (squares + strength * scale)
        leverage = left.square() @ shrunk + 1 / rows
        found = (wanted - left @ (shrunk[:, None] * projected)) / (1 - leverage).clamp(min=1e-9)[:, None]
        error = found.square().mean(0)
        better = error < least
        least = torch.where(better, error, least)
        residual = torch.where(better, found, residual)
        inner = torch.where(better, projected * (shrunk / squares.sqrt())[:, None], inner)
    right = moved.T @ (vectors / squares.sqrt()) if dual else vectors  # right singular vectors, (columns, kept)
    return (right @ inner).T, residual
