"""Factor analysis by expectation maximisation, of rows that come in batches and have missing entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FactorAnalysis:
    r"""A linear model with Gaussian factors, :math:`x = W z + \mu + N(0, diag(\psi))` with :math:`z \sim N(0, I)`.

    Attributes:
        loadings: W, `(columns, factors)`.
        mean: mu, `(columns,)`.
        noise: psi, variances above 0, `(columns,)`.
        log_likelihoods: of all known values, at the start of each iteration of the fit.
    """

    loadings: Tensor
    mean: Tensor
    noise: Tensor
    log_likelihoods: tuple[float, ...] = ()

    @property
    def factors(self) -> int:
        """Number of factors."""
        return self.loadings.shape[1]

    def part(self, columns: slice) -> FactorAnalysis:
        """Return the model of some of the columns."""
        return FactorAnalysis(self.loadings[columns], self.mean[columns], self.noise[columns])

    def rotated(self) -> FactorAnalysis:
        r"""Return an equal model whose factors are independent given all columns, the best known factor first.

        Factors can be rotated without a change of the model. In this rotation :math:`W^T diag(\psi)^{-1} W` is
        diagonal.
        """
        information = self.loadings.double().T @ (self.loadings.double() / self.noise[:, None].double())
        _, vectors = torch.linalg.eigh(information)
        return replace(self, loadings=self.loadings @ vectors.flip(1).to(self.loadings))

    def natural(self, values: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Return what values say about z, in natural parameters, without the prior.

        :math:`\eta = W_o^T diag(\psi_o)^{-1} (x_o - \mu_o)` and :math:`P = W_o^T diag(\psi_o)^{-1} W_o`, where o are
        the known columns. The parts of a row add up: natural parameters given several modalities are the sums of
        those given each of them.

        Args:
            values: `(rows, columns)`; anything where not known.
            known: which values are known, bool of the same shape; None if all are.

        Returns:
            eta `(rows, factors)`, and P `(rows, factors, factors)`, or `(1, factors, factors)` if all are known.
        """
        grams = Grams(self.loadings, self.noise, (len(self.mean),))
        offset = values - self.mean
        if known is None:
            return offset @ grams.weighted, grams.whole
        patterns = grams.patterns(known)
        return offset.where(known, 0) @ grams.weighted, patterns.precision[patterns.index]

    def posterior(self, values: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Return mean and covariance of z given the known values, :math:`(I + P)^{-1} \eta` and :math:`(I + P)^{-1}`.

        Args:
            values: see `natural`.
            known: see `natural`.

        Returns:
            `(rows, factors)`, and `(rows, factors, factors)`, or `(1, factors, factors)` if all are known.
        """
        eta, precision = self.natural(values, known)
        # Not torch.linalg.inv: its LU factors of many matrices are wrong in some builds of torch with several threads.
        factor = torch.linalg.cholesky(precision + torch.eye(self.factors).to(precision))
        covariance = torch.cholesky_inverse(factor)
        return (covariance @ eta.unsqueeze(-1)).squeeze(-1), covariance

    def predict(self, values: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the expected values of all columns given the known values, `(rows, columns)`; see `natural`."""
        return self.posterior(values, known)[0] @ self.loadings.T + self.mean

    def impute(self, values: Tensor, known: Tensor) -> Tensor:
        """Return the values, with the expected ones where they are not known, `(rows, columns)`; see `natural`."""
        return values.where(known, self.predict(values, known))

    def log_likelihood(self, values: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the log-density of each row's known values, `(rows,)`; see `natural`."""
        eta, precision = self.natural(values, known)
        known = torch.ones_like(values, dtype=torch.bool) if known is None else known
        loc, factor = posterior_of(eta, precision)
        return log_density((values - self.mean).where(known, 0), known, self.noise, eta, loc, factor)


@dataclass(frozen=True)
class Patterns:
    """The patterns of missing values in some rows.

    Attributes:
        precision: P of each pattern, `(patterns, factors, factors)`.
        index: the pattern of each row, `(rows,)`.
        held: in which blocks a row has any known value, bool `(rows, blocks)`.
        partial: in which blocks a row has some but not all values, bool `(rows, blocks)`.
    """

    precision: Tensor
    index: Tensor
    held: Tensor
    partial: Tensor


class Grams:
    r"""The precision :math:`W_o^T diag(\psi_o)^{-1} W_o` of any known columns o, by blocks that are mostly whole.

    Args:
        loadings: `(columns, factors)`.
        noise: variances, `(columns,)`.
        sizes: numbers of columns of the blocks, in order; each above 0.

    Attributes:
        weighted: the loadings divided by the noise, `(columns, factors)`.
        grams: the precision that each whole block gives, `(blocks, factors, factors)`.
    """

    def __init__(self, loadings: Tensor, noise: Tensor, sizes: Sequence[int]) -> None:
        self.loadings, self.weighted = loadings, loadings / noise[:, None]
        self.sizes, self.starts = list(sizes), np.cumsum([0, *sizes])
        self.grams = torch.stack([self._gram(slice(*pair)) for pair in self._ranges()])

    @property
    def whole(self) -> Tensor:
        """The precision that all columns give, `(1, factors, factors)`."""
        return self.grams.sum(0, keepdim=True)

    def _ranges(self) -> list[tuple[int, int]]:
        return list(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True))

    def _gram(self, columns: slice | Tensor) -> Tensor:
        return self.loadings[columns].T @ self.weighted[columns]

    def patterns(self, known: Tensor) -> Patterns:
        """Return the patterns of some rows.

        Rows without a block that is known in part share a pattern if the same blocks are known. Otherwise each row
        counts as a pattern of its own.

        Args:
            known: bool `(rows, columns)`.
        """
        counts = torch.from_numpy(np.add.reduceat(known.numpy(), self.starts[:-1], axis=1, dtype=np.int32))
        full = counts == torch.tensor(self.sizes, dtype=torch.int32)
        held = counts > 0
        partial = held & ~full
        flat = self.grams.flatten(1)  # (blocks, factors * factors)
        if not partial.any():
            distinct, index = torch.unique(held, dim=0, return_inverse=True)
            # (patterns, factors * factors) -> (patterns, factors, factors)
            return Patterns((distinct.to(flat) @ flat).reshape(-1, *self.grams.shape[1:]), index, held, partial)
        precision = (full.to(flat) @ flat).reshape(-1, *self.grams.shape[1:])
        ranges = self._ranges()
        for row, block in partial.nonzero().tolist():
            first, end = ranges[block]
            there = known[row, first:end]
            few = there if 2 * int(counts[row, block]) <= end - first else ~there
            own = self._gram(first + few.nonzero().squeeze(1))
            precision[row] += own if few is there else self.grams[block] - own
        return Patterns(precision, torch.arange(len(known)), held, partial)


def posterior_of(eta: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior's mean and the Cholesky factor of its precision.

    Args:
        eta: `(rows, factors)`.
        precision: without the prior's, `(rows or 1, factors, factors)`.

    Returns:
        `(rows, factors)`, and `(rows or 1, factors, factors)`.
    """
    factor = torch.linalg.cholesky(precision + torch.eye(precision.shape[-1]).to(precision))
    if len(factor) == 1:
        return torch.cholesky_solve(eta.T, factor[0]).T, factor
    return torch.cholesky_solve(eta.unsqueeze(-1), factor).squeeze(-1), factor


def log_density(offset: Tensor, known: Tensor, noise: Tensor, eta: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
    r"""Return the log-density of each row's known values, `(rows,)`.

    :math:`-\frac12 (n \log 2 \pi + \sum \log \psi_o + \log |I + P| + \sum (x_o - \mu_o)^2 / \psi_o - \eta^T z)`, where
    n is the number of known values and z the posterior's mean. It needs no matrix of columns by columns.

    Args:
        offset: values minus the mean, zeros where not known, `(rows, columns)`.
        known: bool of the same shape.
        noise: `(columns,)`.
        eta: `(rows, factors)`.
        loc: the posterior's mean, same shape.
        factor: Cholesky factor of the posterior's precision, `(rows or 1, factors, factors)`.
    """
    constants = known.to(offset) @ (noise.log() + math.log(2 * math.pi))
    determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (constants + determinant + offset.square() @ noise.reciprocal() - (eta * loc).sum(-1))
