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


class Numbers:
    """What the linear paths see of some rows of a dataset.

    Attributes:
        sizes: of each path's block of columns.
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

    def _with_any(self, rows: Tensor) -> Tensor:
        return rows[self.dataset.present[rows][:, self.places].any(1)]

    def value(self, path: LinearPath, rows: Tensor) -> Tensor:
        """Return the values of a modality, `(rows, *event_shape)`."""
        return self.model.unpack(path.name, self.dataset.values(path.name, rows))

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of rows, and which are known, `(rows, columns)` each."""
        present = self.dataset.present[rows][:, self.places]
        blocks = [torch.zeros(len(rows), size) for size in self.sizes]
        for block, path, there in zip(blocks, self.paths, present.T, strict=True):
            if there.any():
                block[there] = path.numbers(self.value(path, rows[there])).to(block)
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
        posterior: of the factors.
    """

    def __init__(self, numbers: Numbers, analysis: FactorAnalysis, rows: Tensor) -> None:
        self.rows = rows
        x, self.known = numbers.of(rows)
        self.x = x.to(analysis.loadings)
        eta, precision = analysis.natural(self.x, None if bool(self.known.all()) else self.known)
        self.posterior = Posterior(*posterior_of(eta, precision))

    def having(self, columns: slice) -> tuple[Tensor, Rows]:
        """Return the places of the rows that have a block, and its numbers and factors there."""
        there = self.known[:, columns.start].nonzero().squeeze(1)
        return there, Rows(self.x[there][:, columns], self.posterior.loc[there])
