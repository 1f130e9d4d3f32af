"""Linear models in closed form, which predictions of trained models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""Strengths of the ridge to choose from, ascending, as multiples of the inputs' mean squared length."""
_SKETCH = 32  # columns of random sums that stand for many targets while the strength is chosen
_MORE = 10  # directions beyond the rank that an approximate singular value decomposition follows
_EXACT = 512  # an exact decomposition is affordable up to this many columns


@dataclass(frozen=True)
class LinearModel:
    """A linear prediction through a few numbers: `mean + (x - center) @ encode @ decode`.

    Attributes:
        center: mean of the inputs, `(inputs,)`.
        encode: `(inputs, rank)`.
        decode: `(rank, targets)`.
        mean: mean of the targets, `(targets,)`.
    """

    center: Tensor
    encode: Tensor
    decode: Tensor
    mean: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Predict targets, `(rows, targets)`, from inputs, `(rows, inputs)`."""
        return self.mean + (inputs - self.center) @ self.encode @ self.decode


class Ridge:
    r"""Ridge regressions of several targets on the same inputs, of any rank.

    With centred inputs A and targets B, the coefficients of full rank are

    .. math:: (A^T A + \lambda I)^{-1} A^T B = A^T (A A^T + \lambda I)^{-1} B.

    Whichever of the two matrices is smaller is factorised, in double precision. The memory needed is that of the
    inputs and of `min(rows, inputs)` squared numbers for each strength that was used.

    Args:
        blocks: the inputs, `(rows, columns)` each, which count side by side. They must not change afterwards.

    Source:
        Hoerl & Kennard 1970; for the rank, Izenman 1975, "Reduced-rank regression for the multivariate linear model".
    """

    def __init__(self, blocks: Sequence[Tensor]) -> None:
        self.rows = len(blocks[0])
        self.centers = [block.mean(0) for block in blocks]
        self.blocks = [block - center for block, center in zip(blocks, self.centers, strict=True)]
        self.dual = sum(block.shape[1] for block in blocks) > self.rows
        if not self.dual:
            self.blocks = [torch.cat(self.blocks, 1)]
        self.gram = self._gram()
        self.scale = float(self.gram.trace()) / self.rows
        self._factors: dict[float, Tensor] = {}

    def _gram(self) -> Tensor:
        """Return `A A^T` or `A^T A`, the smaller one, in double precision."""
        if not self.dual:
            (inputs,) = self.blocks
            return (inputs.T @ inputs).double()
        return torch.stack([(block @ block.T).double() for block in self.blocks]).sum(0)

    def _solve(self, right: Tensor, strength: float) -> Tensor:
        """Solve the equations of the smaller matrix for thin right-hand sides."""
        if strength not in self._factors:
            matrix = self.gram + self._penalty(strength) * torch.eye(len(self.gram), dtype=self.gram.dtype)
            self._factors[strength] = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(right.double(), self._factors[strength]).to(right.dtype)

    def _penalty(self, strength: float) -> float:
        return strength * self.scale if self.scale > 0 else 1.0  # constant inputs predict the mean

    def reduced(self, blocks: Sequence[Tensor]) -> Tensor:
        """Return inputs in the space of the smaller matrix: centred, or their products with the rows of the fit.

        Args:
            blocks: `(rows, columns)` each, as those of the fit.

        Returns:
            `(rows, min(rows of the fit, inputs))`; times `weights` it gives predictions.
        """
        centered = [block - center for block, center in zip(blocks, self.centers, strict=True)]
        if not self.dual:
            return torch.cat(centered, 1)
        return torch.stack([one @ fit.T for one, fit in zip(centered, self.blocks, strict=True)]).sum(0)

    def weights(self, targets: Tensor, strength: float) -> Tensor:
        """Return the weights of what `reduced` returns, for centred targets, without a limit of the rank."""
        return self._solve(targets if self.dual else self.blocks[0].T @ targets, strength)

    def fitted(self, targets: Tensor, strength: float) -> Tensor:
        """Return the fitted values of centred targets, `(rows, targets)`, without a limit of the rank."""
        weights = self.weights(targets, strength)
        if not self.dual:
            return self.blocks[0] @ weights
        return targets - self._penalty(strength) * weights  # A A^T w = t - penalty * w

    def fit(self, targets: Tensor, rank: int | None, strength: float) -> LinearModel:
        """Fit targets through at most `rank` numbers.

        The fit of full rank is projected on the first `rank` right singular vectors of its fitted values.

        Args:
            targets: `(rows, targets)`.
            rank: None: without a limit.
            strength: strength of the ridge, one of `STRENGTHS` or another positive number.
        """
        mean = targets.mean(0)
        weights, decode = self.factors(targets - mean, rank, strength)
        encode = torch.cat([block.T @ weights for block in self.blocks]) if self.dual else weights
        return LinearModel(torch.cat(self.centers), encode, decode, mean)

    def factors(self, targets: Tensor, rank: int | None, strength: float) -> tuple[Tensor, Tensor]:
        """Return weights of at most `rank` numbers, and how centred targets follow from these, `(rank, targets)`."""
        directions = torch.eye(targets.shape[1], dtype=targets.dtype)
        if rank is not None and rank < targets.shape[1]:
            directions = _directions(targets, rank, lambda thin: self.fitted(thin, strength))
        return self.weights(targets @ directions, strength), directions.T


def chosen_strength(blocks: Sequence[Tensor], targets: Sequence[Tensor], rank: int | None) -> list[float]:
    """Choose a ridge's strength for each of several targets, on every fifth row, with the others fitted.

    Strengths are tried from the weakest on, until the error rises. More than 32 target columns (or twice the rank)
    are replaced by as many random sums of them, which keep squared errors on average.

    Args:
        blocks: inputs, as `Ridge` takes them.
        targets: `(rows, targets)` each.
        rank: as in `Ridge.fit`.

    Returns:
        One of `STRENGTHS` for each target.
    """
    apart = torch.arange(len(blocks[0])) % 5 == 4
    ridge = Ridge([block[~apart] for block in blocks])
    held = ridge.reduced([block[apart] for block in blocks])
    best = []
    for target in targets:
        width = max(_SKETCH, 2 * (rank or 0))
        few = target if target.shape[1] <= width else target @ _random(target, width) / width**0.5
        best.append(_weakest_before_a_rise(ridge, held, few[~apart], few[apart], rank))
    return best


def _weakest_before_a_rise(ridge: Ridge, held: Tensor, fitted: Tensor, truth: Tensor, rank: int | None) -> float:
    """Return the strength after which the error on held-out rows rises.

    Args:
        ridge: of the fitted rows.
        held: what `ridge.reduced` returns for the held-out rows.
        fitted: targets of the fitted rows.
        truth: those of the held-out rows.
        rank: as in `Ridge.fit`.
    """
    best, least, mean = STRENGTHS[0], float("inf"), fitted.mean(0)
    for strength in STRENGTHS:
        weights, decode = ridge.factors(fitted - mean, rank, strength)
        error = float((mean + held @ weights @ decode - truth).square().mean())
        if error >= least:
            break
        best, least = strength, error
    return best


def reduced_rank_ridge(blocks: Sequence[Tensor], targets: Tensor, rank: int | None) -> LinearModel:
    """Fit a ridge regression of at most `rank`, whose strength is chosen on every fifth row.

    Args:
        blocks: inputs, `(rows, columns)` each, which count side by side; at least 5 rows.
        targets: `(rows, targets)`.
        rank: at least 1; None: without a limit.

    Example:
        >>> x = torch.arange(20.0).reshape(10, 2)
        >>> model = reduced_rank_ridge([x], 3 * x + 1, 1)
        >>> bool((model(x) - 3 * x - 1).abs().max() < 0.1)
        True
    """
    (strength,) = chosen_strength(blocks, [targets], rank)
    return Ridge(blocks).fit(targets, rank, strength)


def principal_components(values: Tensor, rank: int) -> LinearModel:
    """Return the best linear reconstruction of values, `(rows, columns)`, through at most `rank` numbers.

    Source:
        Pearson 1901; principal component analysis.
    """
    mean = values.mean(0)
    centered = values - mean
    directions = torch.eye(centered.shape[1], dtype=values.dtype)
    if rank < centered.shape[1]:
        directions = _directions(centered, rank, lambda thin: thin)
    return LinearModel(mean, directions, directions.T, mean)


def _directions(targets: Tensor, rank: int, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the first right singular vectors of `smooth(targets)`, `(targets, at most rank)`.

    Args:
        targets: centred, `(rows, targets)`.
        rank: how many vectors.
        smooth: a symmetric linear map of columns, which is applied to thin matrices if there are many targets.

    Source:
        Halko, Martinsson & Tropp 2011, subspace iteration, for many targets.
    """
    rank = min(rank, *targets.shape)
    if targets.shape[1] <= _EXACT:
        fitted = smooth(targets).double()
        vectors: Tensor = torch.linalg.eigh(fitted.T @ fitted)[1]
        return vectors.flip(1)[:, :rank].to(targets.dtype)
    width = min(rank + _MORE, *targets.shape)
    found = _orthonormal(smooth(targets @ _random(targets, width)))
    for _ in range(2):
        found = _orthonormal(smooth(targets @ _orthonormal(targets.T @ smooth(found))))
    small = smooth(found).T @ targets  # (width, targets)
    lengths, turned = torch.linalg.eigh((small @ small.T).double())
    turned = (turned / lengths.clamp(min=1e-12 * float(lengths.max()) + 1e-300).sqrt()).to(small.dtype)
    directions: Tensor = small.T @ turned.flip(1)[:, :rank]
    return directions


def _orthonormal(vectors: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(vectors)[0]
    return basis


def _random(targets: Tensor, width: int) -> Tensor:
    """Return the same standard normal numbers at every call, `(targets, width)`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(targets.shape[1], width, generator=generator, dtype=targets.dtype)
