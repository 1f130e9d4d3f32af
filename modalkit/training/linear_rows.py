"""The numbers that linear paths see of a dataset's rows, and what a factor analysis makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.model.factor_analysis import FactorAnalysis, posterior_of
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Outcome
from modalkit.training.linear_experts import Rows
from modalkit.training.linear_paths import LinearPath

LEAST_ROWS = 10
"""Training rows that a start is computed from, at least."""
FEWER_ROWS = 4000
"""Most training rows of regressions and decoders."""
_ROWS = 20_000  # most training rows of the factor analysis
_BATCH = 1000
_PRIOR = 1.0  # rows that the prior of the slopes counts as


class Numbers:
    """What the linear paths see of some rows of a dataset, less what the covariates explain linearly.

    Attributes:
        sizes: of each path's block of columns.
        slopes: of each path, the linear effect of the condition on its numbers, `(width, inputs)`. Without covariates
            the width is 0.
        train: rows of the analysis.
        valid: rows on which the start's choices are made, disjoint from `train`.
    """

    def __init__(
        self, model: MultimodalVAE, dataset: Dataset, paths: Sequence[LinearPath], *, choosing: bool = True
    ) -> None:
        self.model, self.dataset, self.paths = model, dataset, paths
        self.sizes = [path.inputs for path in paths]
        self.places = [dataset.names.index(path.name) for path in paths]
        train, valid = (evenly(self._with_any(dataset.rows(split)), _ROWS) for split in ("train", "valid"))
        if choosing and len(valid) < LEAST_ROWS:
            apart = torch.arange(len(train)) % 5 == 4
            train, valid = train[~apart], train[apart]
        self.train, self.valid = train, evenly(valid, FEWER_ROWS // 4)
        self.slopes = [torch.zeros(0, size) for size in self.sizes]
        if model.covariates is not None:
            self.slopes = self._slopes(model.covariates.width)

    def _with_any(self, rows: Tensor) -> Tensor:
        return rows[self.dataset.present[rows][:, self.places].any(1)]

    def value(self, path: LinearPath, rows: Tensor) -> Tensor:
        """Return the values of a modality, `(rows, *event_shape)`."""
        return self.model.unpack(path.name, self.dataset.values(path.name, rows))

    def condition(self, rows: Tensor) -> Tensor:
        """Return the condition of rows, `(rows, width)`; the width is 0 without covariates."""
        if self.model.covariates is None or self.dataset.covariates is None:
            return torch.zeros(len(rows), 0)
        found: Tensor = self.model.covariates(self.dataset.covariates[rows])
        return found

    def _slopes(self, width: int) -> list[Tensor]:
        """Regress each path's numbers on the condition, over the training rows that have them."""
        sums = [Sums(width, size) for size in self.sizes]
        for rows in torch.split(self.train, _BATCH):
            present, condition = self.dataset.present[rows][:, self.places], self.condition(rows)
            for one, path, there in zip(sums, self.paths, present.T, strict=True):
                if there.any():
                    one.add(condition[there], path.numbers(self.value(path, rows[there])))
        return [one.slope() for one in sums]

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of rows, and which are known, `(rows, columns)` each."""
        present, condition = self.dataset.present[rows][:, self.places], self.condition(rows)
        blocks = [torch.zeros(len(rows), size) for size in self.sizes]
        for block, path, there, slope in zip(blocks, self.paths, present.T, self.slopes, strict=True):
            if there.any():
                block[there] = path.numbers(self.value(path, rows[there])).to(block)
                if len(slope):
                    block[there] -= condition[there] @ slope
        return torch.cat(blocks, 1), torch.repeat_interleave(present, torch.tensor(self.sizes), 1)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the numbers of the training rows, in batches."""
        for rows in torch.split(self.train, _BATCH):
            yield self.of(rows)

    @property
    def shared(self) -> list[bool]:
        """Of each block, whether its noise is one variance: that of pictures, and of a likelihood with one scale."""
        return [self._one_scale(path) for path in self.paths]

    def _one_scale(self, path: LinearPath) -> bool:
        schema = self.model.schemas[path.name]
        return self.model.kinds[path.name].outcome is Outcome.PICTURE or getattr(schema, "scale", None) == "shared"

    @property
    def weights(self) -> list[float]:
        """Of each block, the modality's weight; the columns of a one-hot vector tell less than independent ones."""
        return [
            self.model.schemas[path.name].weight * ((path.categories - 1) / path.categories if path.categories else 1)
            for path in self.paths
        ]


class Sums:
    """Sums from which numbers are regressed on a condition.

    Args:
        width: of the condition.
        numbers: how many are regressed.
    """

    def __init__(self, width: int, numbers: int) -> None:
        self.squares = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.products = torch.zeros(width + 1, numbers, dtype=torch.float64)

    def add(self, condition: Tensor, numbers: Tensor) -> None:
        """Add rows, `(rows, width)` and `(rows, numbers)`."""
        whole = torch.nn.functional.pad(condition.double(), (0, 1), value=1)
        self.squares += whole.T @ whole
        self.products += whole.T @ numbers.double()

    def slope(self) -> Tensor:
        r"""Return the slopes B of :math:`x = B^T c + b`, `(width, numbers)`.

        They have a prior that counts as one row, so that a site with few rows is trusted little, and the columns of a
        class, which depend on each other, are no problem. Without rows they are 0.
        """
        prior = torch.full((len(self.squares),), _PRIOR, dtype=torch.float64)
        prior[-1] = 1e-9  # the constant has none
        found: Tensor = torch.linalg.solve(self.squares + prior.diag(), self.products)
        return found[:-1].to(torch.get_default_dtype())


@dataclass(frozen=True)
class Posterior:
    """The factors given everything that rows have: means, and the Cholesky factors of the precisions."""

    loc: Tensor
    factor: Tensor

    def covariance(self, rows: Tensor) -> Tensor:
        """Return the mean covariance over some rows, `(factors, factors)`."""
        chosen = self.factor if len(self.factor) == 1 else self.factor[rows]
        mean: Tensor = torch.cholesky_inverse(chosen).mean(0)
        return mean

    def sample(self, rows: Tensor, draws: int, source: torch.Generator) -> Tensor:
        """Return samples, `(draws * rows, factors)`."""
        loc = self.loc[rows]
        noise = torch.randn(draws, *loc.shape, generator=source).to(loc)
        factor = self.factor if len(self.factor) == 1 else self.factor[rows]
        away: Tensor = torch.linalg.solve_triangular(factor.mT, noise.unsqueeze(-1), upper=True)
        return (loc + away.squeeze(-1)).flatten(0, 1)  # (draws, rows, factors) -> (draws * rows, factors)


class Seen:
    """Numbers of rows, and what a factor analysis makes of them.

    Attributes:
        rows: int64 `(rows,)`.
        x: `(rows, columns)`.
        known: bool of the same shape.
        condition: `(rows, width)`.
        posterior: of the factors.
    """

    def __init__(self, numbers: Numbers, analysis: FactorAnalysis, rows: Tensor) -> None:
        self.rows, self.condition = rows, numbers.condition(rows)
        x, self.known = numbers.of(rows)
        self.x = x.to(analysis.loadings)
        eta, precision = analysis.natural(self.x, None if bool(self.known.all()) else self.known)
        self.posterior = Posterior(*posterior_of(eta, precision))

    def having(self, columns: slice) -> tuple[Tensor, Rows]:
        """Return the places of the rows that have a block, and its numbers and factors there."""
        there = self.known[:, columns.start].nonzero().squeeze(1)
        return there, Rows(self.x[there][:, columns], self.posterior.loc[there])
