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
from modalkit.training.linear_experts import best_expert
from modalkit.training.linear_paths import LinearPath
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

_log = logging.getLogger(__name__)

_ROWS = 20_000  # most training rows of the factor analysis
_FEWER_ROWS = 4000  # most training rows of regressions and decoders
_BATCH = 1000
_ITERATIONS = 30
_LEAST_ROWS = 10  # training rows that a start is computed from
_MANY = 12  # rows for each factor from which all factors are used, because too many do no harm
_WORSE = 1.05  # ratio to the least error at which no fewer factors are tried
_DECODER_ITERATIONS = 60
_DRAWS = 4  # of z for each row to which decoders are fitted
_UNUSED = 1e-2  # weights of latent dimensions beyond the factors: small, but not a saddle point


def start_from_factor_analysis(
    model: MultimodalVAE, dataset: Dataset, seed: int, *, factors: int | None = None
) -> tuple[str, int]:
    """Give a model's linear paths the weights of a factor analysis of the training rows.

    The analysis is of the numbers that the encoders' linear paths see, with the modalities' weights. It has the number
    of factors, at most `latent_dim`, that predicts hidden modalities of validation rows best. Experts become the exact
    ones, or regressions of the factors on a modality where those are better; decoders are linear. A modality without
    linear paths keeps its random decoder, and its expert says almost nothing.

    Args:
        model: with experts that have a precision matrix.
        dataset: at most 20,000 training rows are used, evenly spaced.
        seed: of the random numbers.
        factors: use this number of factors, so that no row need be set apart to choose it.

    Returns:
        What was done, in words, and the number of factors.

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
    numbers = _Numbers(model, dataset, linear, choosing=factors is None)
    if len(numbers.train) < _LEAST_ROWS:
        raise InputError(f"model.start: factor_analysis needs {_LEAST_ROWS} training rows, not {len(numbers.train)}")
    analysis = _chosen(numbers, _tried(numbers, model.latent_dim) if factors is None else [factors], seed)
    said = f"starting from a factor analysis of {sum(numbers.sizes):,} numbers with {analysis.factors} factors"
    _give(model, numbers, analysis, seed)
    silent = [path for path in paths if not path.complete]
    for path in silent:
        path.silence()
    said += f"; without linear paths: {', '.join(path.name for path in silent)}" if silent else ""
    return said, analysis.factors


class _Numbers:
    """What the linear paths see of some rows of a dataset.

    Attributes:
        sizes: of each path's block of columns.
        train: rows of the analysis.
        valid: rows on which the number of factors is chosen, disjoint from `train`.
    """

    def __init__(
        self, model: MultimodalVAE, dataset: Dataset, paths: Sequence[LinearPath], *, choosing: bool = True
    ) -> None:
        self.model, self.dataset, self.paths = model, dataset, paths
        self.sizes = [path.inputs for path in paths]
        self.places = [dataset.names.index(path.name) for path in paths]
        train, valid = (evenly(self._with_any(dataset.rows(split)), _ROWS) for split in ("train", "valid"))
        if choosing and len(valid) < _LEAST_ROWS:
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


def _tried(numbers: _Numbers, latent_dim: int) -> list[int]:
    """Return the numbers of factors to try, descending."""
    most = max(1, min(latent_dim, sum(numbers.sizes), len(numbers.train) - 1))
    steps = 1 if len(numbers.paths) < 2 or _MANY * most < len(numbers.train) else 12
    return sorted({max(1, round(most * 0.75**i)) for i in range(steps)}, reverse=True)


def _chosen(numbers: _Numbers, tried: Sequence[int], seed: int) -> FactorAnalysis:
    """Return the factor analysis with the number of factors that predicts hidden modalities best.

    Args:
        numbers: of the rows.
        tried: numbers of factors, descending.
        seed: of the random numbers.
    """
    x, known = numbers.of(numbers.valid)
    given = _hidden(known, numbers.sizes, seed)
    best, least = None, float("inf")
    with bar(len(tried) * (_ITERATIONS + 4), "factor analysis", unit="pass") as shown:
        kept = list(numbers.batches()) if x.shape[1] * len(numbers.train) <= 1 << 27 else None
        for factors in tried:
            found = fit_factors(
                (lambda: kept) if kept is not None else numbers.batches,
                numbers.sizes,
                factors,
                shared=numbers.shared,
                weights=numbers.weights,
                iterations=_ITERATIONS,
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


def _give(model: MultimodalVAE, numbers: _Numbers, analysis: FactorAnalysis, seed: int) -> None:
    """Give experts and decoders to the linear paths."""
    rows = evenly(numbers.train, _FEWER_ROWS)
    x, known = numbers.of(rows)
    x = x.to(analysis.loadings)
    complete = bool(known.all())
    eta, precision = analysis.natural(x, None if complete else known)
    posterior = _Posterior(*posterior_of(eta, precision))
    source, first = generator(seed, "start"), 0
    for path in numbers.paths:
        columns = slice(first, first + path.inputs)
        first += path.inputs
        there = known[:, columns.start].nonzero().squeeze(1)
        if len(there) < _LEAST_ROWS:
            path.silence()
            continue
        own = x[there][:, columns]
        part = analysis.part(columns)
        expert = best_expert(part, own, posterior.loc[there], posterior.covariance(there), path.rank)
        extra = torch.randn(model.latent_dim - analysis.factors, path.rank, generator=source) * _UNUSED
        path.give_expert(torch.cat([expert.directions, extra]), expert.weight, expert.bias)
        value = numbers.value(path, rows[there])
        _give_decoder(path, part, value, own, posterior, there, source)


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
