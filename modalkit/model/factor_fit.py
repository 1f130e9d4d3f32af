"""The fit of a factor analysis: expectation maximisation over batches of rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.model.factor_analysis import FactorAnalysis, Grams, Patterns, log_density, posterior_of

_log = logging.getLogger(__name__)

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Returns the rows anew at each call, as batches of values and of which of them are known, `(rows, columns)` each."""

_SMALL = 200_000  # loadings up to which double precision costs little
_EXTRA = 10  # directions beyond the factors that the randomised SVD follows
_SVD_PASSES = 3
_MOST_FROM_PRIOR = 0.1  # of a residual variance, because the prior's rows would hide that a column has little noise
_FLOOR, _LEAST = 1e-3, 1e-6  # least noise: of a column's variance, of the mean variance of its block


def fit_factors(
    batches: Batches,
    sizes: Sequence[int],
    factors: int,
    *,
    shared: Sequence[bool] | None = None,
    weights: Sequence[float] | None = None,
    prior: float = 0.0,
    iterations: int = 50,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> FactorAnalysis:
    r"""Fit a factor analysis to rows with missing entries, by expectation maximisation.

    The log-likelihood of the known values never falls, unless there is a prior. Values must be missing at random. The
    rows are read once for the means, three times for a start by randomised SVD, and once an iteration. Memory beyond a
    batch is a few times columns x factors. Noise variances stay above a thousandth of the column's variance.

    Each iteration ends with the transform of the factors that gives them mean 0 and covariance I over the rows
    (parameter expansion). The model then needs far fewer iterations where a column has little noise.

    With weights, it maximises :math:`\log \int p(z) \prod_m p(x_m|z)^{w_m} dz` instead, as an ELBO does whose terms of
    the likelihood have these weights.

    With a prior of weight lambda, each maximisation subtracts :math:`\frac12 \lambda \sum_c \|W_c\|^2 / \psi_c`. This
    shrinks the loadings of a column as lambda rows without any relation would, so that needless factors do little harm.
    The transform of the factors then restores the variance of columns that the factors explain well, and the prior adds
    at most a tenth to a noise variance. What is reached is a fixed point of these steps.

    A block is a range of columns that are mostly known or missing together, such as a modality. Whole blocks that are
    missing cost nothing; single missing cells cost cells x factors².

    Args:
        batches: returns the rows anew at each call, as batches `(values, known)`, both `(rows, columns)`, on the CPU.
        sizes: numbers of columns of the blocks, in order.
        factors: how many factors; fewer if there are not more rows or columns, which the log says.
        shared: of each block, whether its columns have one noise variance together; by default none do.
        weights: of each block, the weight of its likelihood, above 0; by default 1.
        prior: weight of the loadings' prior, in rows, from 0.
        iterations: at most so many.
        tolerance: stop once the log-likelihood, less the prior's term, changes by less than this, relative to its size
            or to the number of known values, whichever is larger.
        seed: decides the directions where the randomised SVD starts.
        progress: called after each pass over the rows.

    Returns:
        The model: double precision up to 200,000 loadings, else single precision. A column without any value gets mean
        0, no loadings, and noise 1. With weights, the noise variances are divided by them, so that the posterior is
        that of the weighted likelihood.

    Raises:
        ValueError: there is no row with a known value.

    Source:
        Rubin & Thayer 1982; Ghahramani & Jordan 1994 for missing values; Liu, Rubin & Wu 1998 for parameter expansion.
    """
    moments = _moments(batches, sum(sizes))
    progress()
    if not moments.rows:
        raise ValueError("a factor analysis needs a row with a known value")
    most = max(1, min(factors, moments.rows - 1, sum(sizes)))
    if most < factors:
        _log.info("%d rows of %d columns allow %d factors, not %d", moments.rows, sum(sizes), most, factors)
    noise = _Noise(list(shared or [False] * len(sizes)), torch.tensor(list(weights or [1.0] * len(sizes))).double())
    fit = _Fit(batches, sizes, moments, most, noise, prior, progress)
    fit.begin(seed)
    return fit.run(iterations, tolerance)


@dataclass(frozen=True)
class _Moments:
    """What one pass tells: rows with any value, known values, and each column's count, mean and variance."""

    rows: int
    values: int
    count: Tensor
    mean: Tensor
    variance: Tensor


def _moments(batches: Batches, columns: int) -> _Moments:
    rows, count, total, square = 0, *torch.zeros(3, columns, dtype=torch.float64)
    for values, known in batches():
        there = values.double().where(known, 0)
        rows += int(known.any(1).sum())
        count = count + known.sum(0)
        total = total + there.sum(0)
        square = square + there.square().sum(0)
    mean = total / count.clamp(min=1)
    return _Moments(rows, int(count.sum()), count, mean, (square / count.clamp(min=1) - mean.square()).clamp(min=0))


@dataclass(frozen=True)
class _Noise:
    """How the noise of each block is treated: see `fit_factors`."""

    shared: list[bool]
    weights: Tensor


@dataclass
class _Sums:
    """Expected sums over the rows, in double precision. z here ends with a constant 1.

    Attributes:
        rows: rows in which a block has any value, `(blocks,)`.
        zz: of z z', over those rows, `(blocks, factors + 1, factors + 1)`.
        all_zz: of z z', over rows in which any block has a value, `(factors + 1, factors + 1)`.
        xz: of x z', over those rows, `(columns, factors + 1)`.
        xx: of x², over those rows, `(columns,)`.
        log_likelihood: of all known values.
    """

    rows: Tensor
    zz: Tensor
    all_zz: Tensor
    xz: Tensor
    xx: Tensor
    log_likelihood: float = 0.0


class _Fit:
    """The parameters while they are fitted, of values from which `center` is subtracted."""

    def __init__(
        self,
        batches: Batches,
        sizes: Sequence[int],
        moments: _Moments,
        factors: int,
        treated: _Noise,
        prior: float,
        progress: Callable[[], object],
    ) -> None:
        self.prior = prior
        self.batches, self.sizes, self.factors, self.progress = batches, list(sizes), factors, progress
        self.center, self.columns = moments.mean, sum(sizes)
        self.dtype = torch.float64 if self.columns * factors <= _SMALL else torch.float32
        self.block = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(self.sizes))  # of each column
        spread = torch.stack([part.mean() for part in torch.split(moments.variance, self.sizes)])
        self.spread = spread.where(spread > 0, 1.0)  # (blocks,)
        self.variance, self.values, self.shared = moments.variance, moments.values, treated.shared
        self.weight = treated.weights[self.block]  # (columns,)
        least = torch.maximum(_FLOOR * moments.variance, _LEAST * self.spread[self.block])
        self.floor = least.where(moments.count > 0, 1.0)
        self.loadings = torch.zeros(self.columns, factors, dtype=self.dtype)
        self.offset = torch.zeros(self.columns, dtype=torch.float64)
        self.noise = self.floor.to(self.dtype, copy=True)  # of the unweighted likelihood

    def _rows(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield each batch's offsets from the centre, zeros where not known, and which values are known."""
        center = self.center.to(self.dtype)
        for values, known in self.batches():
            yield (values.to(self.dtype) - center).where(known, 0), known
        self.progress()

    def run(self, iterations: int, tolerance: float) -> FactorAnalysis:
        """Alternate expectation and maximisation until the log-likelihood hardly improves."""
        found: list[float] = []
        for _ in range(iterations):
            sums = self.expect()
            found.append(sums.log_likelihood)
            if len(found) > 1 and abs(found[-1] - found[-2]) <= tolerance * max(abs(found[-2]), self.values):
                break
            self.maximise(sums)
            self.transform(sums.all_zz)
        mean = (self.center + self.offset).to(self.dtype)
        return FactorAnalysis(self.loadings, mean, self._weighted_noise(), tuple(found))

    def _weighted_noise(self) -> Tensor:
        return self.noise / self.weight.to(self.noise)

    def begin(self, seed: int) -> None:
        """Start at the main directions of the values, blocks scaled to equal variance, by randomised SVD."""
        scale = (self.spread[self.block] / self.weight).sqrt().to(self.dtype)
        width = min(self.factors + _EXTRA, self.columns)
        source = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(self.columns, width, generator=source).to(self.dtype))[0]
        for _ in range(_SVD_PASSES):
            mapped, rows = torch.zeros_like(basis), 0
            for offset, _known in self._rows():
                scaled = offset / scale
                mapped += scaled.T @ (scaled @ basis)
                rows += len(offset)
            small = basis.T @ mapped
            values, vectors = torch.linalg.eigh((small + small.T) / 2)
            directions = basis @ vectors.flip(1)[:, : self.factors]
            basis = torch.linalg.qr(mapped)[0]
        strength = (values.flip(0)[: self.factors] / rows).clamp(min=0)
        rest = max(0.0, float(self.weight.sum() - strength.sum())) / max(1, self.columns - self.factors)
        lengths = (strength - rest).clamp(min=1e-3 * max(float(strength[0]), 1e-6)).sqrt()
        there = self.variance.to(self.dtype)[:, None] > 0  # a constant column has no loadings
        self.loadings = (directions * lengths * scale[:, None]).where(there, 0)
        left = self.variance - self.loadings.double().square().sum(1)
        self._set_noise(slice(None), left)
        for block, columns in enumerate(self._columns()):
            if self.shared[block]:
                self._set_noise(columns, left[columns].mean().expand(self.sizes[block]))

    def _columns(self) -> list[slice]:
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def _set_noise(self, columns: slice, variance: Tensor) -> None:
        self.noise[columns] = torch.maximum(variance, self.floor[columns]).to(self.dtype)

    def expect(self) -> _Sums:
        """Return the expected sums over all rows under the present parameters."""
        size = self.factors + 1
        sums = _Sums(
            torch.zeros(len(self.sizes), dtype=torch.float64),
            torch.zeros(len(self.sizes), size, size, dtype=torch.float64),
            torch.zeros(size, size, dtype=torch.float64),
            torch.zeros(self.columns, size, dtype=torch.float64),
            torch.zeros(self.columns, dtype=torch.float64),
        )
        noise = self._weighted_noise()
        grams = Grams(self.loadings, noise, self.sizes)
        log = 0.5 * (2 * math.pi * self.noise.double()).log()  # p(x|z)^w is a density times e^normaliser
        normaliser = 0.5 * (2 * math.pi * noise.double()).log() - self.weight * log
        shift = self.offset.to(self.dtype)
        sums.log_likelihood -= 0.5 * self.prior * float((self.loadings.square() / noise[:, None]).double().sum())
        for offset, known in self._rows():
            moved = (offset - shift).where(known, 0)
            eta, patterns = moved @ grams.weighted, grams.patterns(known)
            loc, factor = self._posterior(eta, patterns)
            own = factor if len(factor) == 1 else factor[patterns.index]
            density = log_density(moved, known, noise, eta, loc, own)
            sums.log_likelihood += float(density.double().sum() + (known.double() @ normaliser).sum())
            self._add(sums, offset, known, loc, torch.cholesky_inverse(factor), patterns)
        return sums

    def _posterior(self, eta: Tensor, patterns: Patterns) -> tuple[Tensor, Tensor]:
        """Return the posteriors' means, and the Cholesky factor of each pattern's precision."""
        if torch.equal(patterns.index, torch.arange(len(patterns.precision))):  # each row has its own
            return posterior_of(eta, patterns.precision)
        loc = torch.empty_like(eta)
        factors = []
        for number, precision in enumerate(patterns.precision):
            rows = patterns.index == number
            loc[rows], factor = posterior_of(eta[rows], precision[None])
            factors.append(factor)
        return loc, torch.cat(factors)

    def _add(
        self, sums: _Sums, offset: Tensor, known: Tensor, loc: Tensor, covariance: Tensor, patterns: Patterns
    ) -> None:
        """Add a batch to the sums; a value missing from a block that is known in part counts as expected."""
        z = torch.cat([loc, torch.ones_like(loc[:, :1])], 1)
        held = patterns.held.to(loc)
        sums.rows += held.double().sum(0)
        of_pattern = torch.zeros(len(covariance), held.shape[1], dtype=held.dtype).index_add(0, patterns.index, held)
        sums.zz[:, :-1, :-1] += torch.einsum("pb,pkl->bkl", of_pattern, covariance)
        if len(covariance) == 1:
            sums.zz += patterns.held[0].double()[:, None, None] * (z.T @ z)
        else:
            outer = (z[:, :, None] * z[:, None, :]).flatten(1)  # (rows, (factors + 1)²)
            sums.zz += (held.T @ outer).reshape(sums.zz.shape)  # (blocks, (factors + 1)²) -> (blocks, ., .)
        any_held = held.any(1)
        some = z[any_held].double()
        sums.all_zz += some.T @ some
        times = torch.bincount(patterns.index[any_held], minlength=len(covariance)).to(covariance)
        sums.all_zz[:-1, :-1] += torch.einsum("p,pkl->kl", times, covariance)
        sums.xz += offset.T @ z
        sums.xx += offset.double().square().sum(0)
        for row in patterns.partial.any(1).nonzero().squeeze(1).tolist():
            missing = (patterns.partial[row][self.block] & ~known[row]).nonzero().squeeze(1)
            second = z[row][:, None] * z[row][None, :]
            second[:-1, :-1] += covariance[patterns.index[row]]
            weights = torch.cat([self.loadings[missing], self.offset[missing, None].to(self.dtype)], 1)
            expected = weights @ second
            sums.xz[missing] += expected
            sums.xx[missing] += (expected * weights).sum(1) + self.noise[missing]

    def maximise(self, sums: _Sums) -> None:
        """Set the parameters that maximise the expected log-likelihood, less the penalty."""
        shrink = torch.full((self.factors + 1,), self.prior, dtype=torch.float64)
        shrink[-1] = 0  # of the offset
        for block, columns in enumerate(self._columns()):
            rows = float(sums.rows[block])
            if not rows:
                continue
            factor = torch.linalg.cholesky(sums.zz[block] + shrink.diag())
            weights = torch.cholesky_solve(sums.xz[columns].T, factor).T  # (size, factors + 1)
            penalty = (weights.square() * shrink).sum(1)
            residual = sums.xx[columns] - (weights * sums.xz[columns]).sum(1) - penalty
            left = (residual + torch.minimum(penalty, _MOST_FROM_PRIOR * residual)) / rows
            self.loadings[columns], self.offset[columns] = weights[:, :-1].to(self.dtype), weights[:, -1]
            self._set_noise(columns, left.mean().expand_as(left) if self.shared[block] else left)

    def transform(self, all_zz: Tensor) -> None:
        """Give the factors mean 0 and covariance I over the rows, by a linear change of the loadings and the offset.

        Args:
            all_zz: expected sum of z z', `(factors + 1, factors + 1)`, where z ends with a constant 1.
        """
        rows = all_zz[-1, -1]
        mean = all_zz[:-1, -1] / rows
        factor = torch.linalg.cholesky(all_zz[:-1, :-1] / rows - torch.outer(mean, mean))
        loadings = self.loadings.double()
        self.offset += loadings @ mean
        self.loadings = (loadings @ factor).to(self.dtype)
