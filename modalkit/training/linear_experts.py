"""Linear experts of a factor analysis's factors: exact ones, and regressions of the factors on a modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.model.factor_analysis import FactorAnalysis

STRENGTHS = [10 ** (power / 2) for power in range(-8, 4)]
"""Strengths of a ridge regression to choose from, relative to the mean squared length of a row."""
_EXACT_IF_CLOSE = 0.98  # a regression must have a lower error than this times the exact expert's
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-4, 0.999  # of a factor given a modality; it is 1 before


@dataclass(frozen=True)
class LinearExpert:
    r"""An expert :math:`P = U U^\top`, :math:`P \mu = U (T x + t)`, for `LinearPath.give_expert`."""

    directions: Tensor
    weight: Tensor
    bias: Tensor


def best_expert(part: FactorAnalysis, x: Tensor, loc: Tensor, covariance: Tensor, rank: int) -> LinearExpert:
    """Return the linear expert of one modality that predicts the factors best.

    It is the exact one of the factor analysis unless a regression of the factors on the modality has a lower error on
    rows that it was not fitted to. With thousands of numbers a sample, noise is not independent given the factors, so
    that the exact expert of a modality on its own is wrong, and a regression is better.

    Args:
        part: the factor analysis of the modality's columns.
        x: numbers of training rows that have the modality, `(rows, columns)`.
        loc: of the same rows, the factors' posterior means given everything that a row has, `(rows, factors)`.
        covariance: the mean covariance of these posteriors, `(factors, factors)`.
        rank: most directions of the expert.
    """
    exact = exact_expert(part, rank)
    if len(x) < 4 * part.factors or rank < part.factors:
        return exact
    eta, precision = part.natural(x)
    by_exact = torch.linalg.solve(precision[0] + torch.eye(part.factors).to(precision), eta.T).T
    weight, residual = ridge(x, loc)
    if float(residual.square().mean()) > _EXACT_IF_CLOSE * float((by_exact - loc).square().mean()):
        return exact
    left = residual.T @ residual / len(residual) + covariance
    return regressed_expert(weight, x.mean(0), loc.mean(0), left, rank)


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
