"""Weights to begin training with: those of a factor analysis of the training rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.errors import InputError
from modalkit.model.factor_analysis import FactorAnalysis, posterior_of
from modalkit.model.factor_fit import fit_factors
from modalkit.model.marginals import start_scales
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Outcome
from modalkit.training.linear_experts import Rows, best_expert
from modalkit.training.linear_paths import LinearPath
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

_log = logging.getLogger(__name__)

_ROWS = 20_000  # most training rows of the factor analysis
_FEWER_ROWS = 4000  # most training rows of regressions and decoders
_BATCH = 1000
_NUMBERS = 1 << 17  # of the training rows up to which the analysis is fitted to convergence
_ITERATIONS, _CONVERGED = (30, 1e-4), (200, 1e-6)  # most iterations, and the tolerance
_LEAST_ROWS = 10  # training rows that a start is computed from
_MANY = 12  # rows for each factor from which all factors are used, because too many do no harm
_MANY_IF_SHARED = 4  # the same if no column has a noise variance of its own
_WORSE = 1.05  # ratio to the least error at which no fewer factors are tried
_PRIOR = 1.0  # row, so that with few rows many factors do little harm
_DECODER_ITERATIONS = 60
_DRAWS = 4  # of z for each row to which decoders are fitted
_UNUSED = 1e-2  # weights of latent dimensions beyond the factors: small, but not a saddle point


def start_from_factor_analysis(model: MultimodalVAE, dataset: Dataset, seed: int) -> str:
    """Give a model's linear paths the weights of a factor analysis of the training rows.

    The analysis is of the numbers that the encoders' linear paths see, with the modalities' weights. It has the number
    of factors, at most `latent_dim`, that predicts hidden modalities of validation rows best. Experts become the exact
    ones, or regressions of the factors on a modality where those are better; decoders are linear. A modality without
    linear paths keeps its random decoder, and its expert says almost nothing.

    Args:
        model: with experts that have a precision matrix.
        dataset: at most 20,000 training rows are used, evenly spaced.
        seed: of the random numbers.

    Returns:
        What was done, in words.

    Raises:
        InputError: no modality has linear paths, a path is too narrow, or there are fewer than 10 training rows.
    """
    paths = [LinearPath(model, name) for name in model.names]
    linear = [path for path in paths if path.complete]
    if not linear:
        raise InputError(
            "model.start: factor_analysis needs networks with a linear path, such as network: {type: mlp, linear: true}"
        )
    for path in linear:
        path.require_width()
    start_scales(model, dataset)
    numbers = _Numbers(model, dataset, linear)
    if len(numbers.train) < _LEAST_ROWS:
        raise InputError(f"model.start: factor_analysis needs {_LEAST_ROWS} training rows, not {len(numbers.train)}")
    analysis = _chosen(numbers, model.latent_dim, seed)
    said = f"starting from a factor analysis of {sum(numbers.sizes):,} numbers with {analysis.factors} factors"
    _give(model, numbers, analysis, seed)
    silent = [path for path in paths if not path.complete]
    for path in silent:
        path.silence()
    return said + (f"; without linear paths: {', '.join(path.name for path in silent)}" if silent else "")


class _Numbers:
    """What the linear paths see of some rows of a dataset.

    Attributes:
        sizes: of each path's block of columns.
        train: rows of the analysis.
        valid: rows on which the number of factors is chosen, disjoint from `train`.
    """

    def __init__(self, model: MultimodalVAE, dataset: Dataset, paths: Sequence[LinearPath]) -> None:
        self.model, self.dataset, self.paths = model, dataset, paths
        self.sizes = [path.inputs for path in paths]
        self.places = [dataset.names.index(path.name) for path in paths]
        train, valid = (evenly(self._with_any(dataset.rows(split)), _ROWS) for split in ("train", "valid"))
        if len(valid) < _LEAST_ROWS:
            apart = torch.arange(len(train)) % 5 == 4
            train, valid = train[~apart], train[apart]
        self.train, self.valid = train, evenly(valid, _FEWER_ROWS // 4)

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


def _chosen(numbers: _Numbers, latent_dim: int, seed: int) -> FactorAnalysis:
    """Return the factor analysis with the number of factors that predicts hidden modalities best."""
    columns = sum(numbers.sizes)
    most = max(1, min(latent_dim, columns, len(numbers.train) - 1))
    many = _MANY_IF_SHARED if all(numbers.shared) else _MANY
    steps = 1 if len(numbers.paths) < 2 or many * most < len(numbers.train) else 12
    tried = sorted({max(1, round(most * 0.75**i)) for i in range(steps)}, reverse=True)
    x, known = numbers.of(numbers.valid)
    given = _hidden(known, numbers.sizes, seed)
    best, least = None, float("inf")
    iterations, tolerance = _CONVERGED if columns * len(numbers.train) <= _NUMBERS else _ITERATIONS
    with bar(len(tried) * (iterations + 4), "factor analysis", unit="pass") as shown:
        kept = list(numbers.batches()) if columns * len(numbers.train) <= 1 << 27 else None
        for factors in tried:
            found = fit_factors(
                (lambda: kept) if kept is not None else numbers.batches,
                numbers.sizes,
                factors,
                shared=numbers.shared,
                weights=numbers.weights,
                prior=_PRIOR,
                iterations=iterations,
                tolerance=tolerance,
                seed=seed,
                progress=shown.update,
            )
            error = _error(found, x, known, given, numbers.sizes)
            if error < least:
                best, least = found, error
            elif error > _WORSE * least:
                break
    assert best is not None
    return best.rotated()


def _hidden(known: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """Return what is given of rows if each known block is hidden with probability 0.3, but never all of them."""
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    blocks = known[:, starts]
    hidden = torch.rand(blocks.shape, generator=generator(seed, "hidden blocks")) < 0.3
    hidden &= (hidden & blocks).sum(1, keepdim=True) < blocks.sum(1, keepdim=True)
    return known & ~torch.repeat_interleave(hidden, torch.tensor(sizes), 1)


def _error(found: FactorAnalysis, x: Tensor, known: Tensor, given: Tensor, sizes: Sequence[int]) -> float:
    """Return the mean over blocks of the squared error of what is hidden, relative to the training mean's."""
    errors, first = [], 0
    away = (found.predict(x.to(found.loadings), given) - x).square()
    alone = (found.mean - x).square()
    for size in sizes:
        asked = (known & ~given)[:, first : first + size]
        part = slice(first, first + size)
        first += size
        if asked.any():
            errors.append(away[:, part][asked].mean() / alone[:, part][asked].mean().clamp(min=1e-12))
    return float(torch.stack(errors).mean()) if errors else 0.0


@dataclass(frozen=True)
class _Posterior:
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


class _Seen:
    """Numbers of rows, and what a factor analysis makes of them.

    Attributes:
        rows: int64 `(rows,)`.
        x: `(rows, columns)`.
        known: bool of the same shape.
        posterior: of the factors.
    """

    def __init__(self, numbers: _Numbers, analysis: FactorAnalysis, rows: Tensor) -> None:
        self.rows = rows
        x, self.known = numbers.of(rows)
        self.x = x.to(analysis.loadings)
        eta, precision = analysis.natural(self.x, None if bool(self.known.all()) else self.known)
        self.posterior = _Posterior(*posterior_of(eta, precision))

    def having(self, columns: slice) -> tuple[Tensor, Rows]:
        """Return the places of the rows that have a block, and its numbers and factors there."""
        there = self.known[:, columns.start].nonzero().squeeze(1)
        return there, Rows(self.x[there][:, columns], self.posterior.loc[there])


def _give(model: MultimodalVAE, numbers: _Numbers, analysis: FactorAnalysis, seed: int) -> None:
    """Give experts and decoders to the linear paths."""
    train = _Seen(numbers, analysis, evenly(numbers.train, _FEWER_ROWS))
    valid = _Seen(numbers, analysis, numbers.valid)
    importance = _importance(analysis, numbers.sizes)
    source, first = generator(seed, "start"), 0
    for path in numbers.paths:
        columns = slice(first, first + path.inputs)
        first += path.inputs
        there, own = train.having(columns)
        if len(there) < _LEAST_ROWS:
            path.silence()
            continue
        part, posterior = analysis.part(columns), train.posterior
        expert = best_expert(part, own, valid.having(columns)[1], posterior.covariance(there), importance, path.rank)
        extra = torch.randn(model.latent_dim - analysis.factors, path.rank, generator=source) * _UNUSED
        path.give_expert(torch.cat([expert.directions, extra]), expert.weight, expert.bias)
        value = numbers.value(path, train.rows[there])
        _give_decoder(path, part, value, own.x, posterior, there, source)


def _importance(analysis: FactorAnalysis, sizes: Sequence[int]) -> Tensor:
    """Return A, where an error e of the factors raises the relative squared errors of all blocks by e^T A e."""
    sizes = list(sizes)
    parts = zip(torch.split(analysis.loadings, sizes), torch.split(analysis.noise, sizes), strict=True)
    return torch.stack([w.T @ w / (w.square().sum() + psi.sum()) for w, psi in parts]).sum(0)


def _give_decoder(
    path: LinearPath,
    part: FactorAnalysis,
    value: Tensor,
    own: Tensor,
    posterior: _Posterior,
    rows: Tensor,
    source: torch.Generator,
) -> None:
    """Give a decoder the loadings if its likelihood's mean is its output; otherwise fit it by maximum likelihood."""
    model, name = path.model, path.name
    extra = model.latent_dim - part.factors
    draws = 1 if own.numel() > 1 << 20 else _DRAWS
    z = posterior.sample(rows, draws, source).float()
    whole = torch.cat([z, torch.randn(len(z), extra, generator=source)], 1)
    marginal = model.kinds[name].marginal
    if marginal is not None and value.is_floating_point() and value[0].numel() == own.shape[1]:
        flat, weight = value.reshape(own.shape), part.loadings.float()  # (rows, *event_shape) -> (rows, numbers)
        if not torch.equal(flat, own.to(flat)):
            weight = _regressed(posterior, rows, flat)
        left = value - (z[: len(value)] @ weight.T).reshape(value.shape)  # (rows, numbers) -> (rows, *event_shape)
        raw = marginal(model.schemas[name], left)
        padded = torch.nn.functional.pad(weight, (0, extra))
        if _predicts(path, padded, raw, whole[:8]):
            return
    path.fit_decoder(whole, value.repeat(draws, *[1] * (value.ndim - 1)), _DECODER_ITERATIONS)


def _regressed(posterior: _Posterior, rows: Tensor, flat: Tensor) -> Tensor:
    """Return the loadings of other numbers of the same rows, `(numbers, factors)`, as maximisation finds them."""
    loc = posterior.loc[rows]
    second = loc.T @ loc + len(rows) * posterior.covariance(rows)
    moved = (flat - flat.mean(0)).to(loc)
    loadings: Tensor = torch.linalg.solve(second, loc.T @ moved)
    return loadings.T.float()


def _predicts(path: LinearPath, weight: Tensor, raw: Tensor, z: Tensor) -> bool:
    """Give a decoder loadings, and tell whether its likelihood's mean then is what they predict."""
    model, name = path.model, path.name
    with torch.no_grad():
        try:
            path.give_decoder(weight, raw)
            found = model.likelihood(name, z).mean.flatten(1)
        except (ValueError, NotImplementedError, RuntimeError):
            return False
        start = raw.flatten(1)[:, : len(weight)]
        return bool(torch.allclose(found, start + z @ weight.T, atol=1e-4, rtol=1e-4))
