"""Weights to begin training with: those of a factor analysis of the training rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.errors import InputError
from modalkit.model.factor_analysis import FactorAnalysis
from modalkit.model.factor_fit import fit_factors
from modalkit.model.marginals import start_scales
from modalkit.model.vae import MultimodalVAE
from modalkit.training.linear_experts import Regression, can_regress, exact_expert
from modalkit.training.linear_paths import LinearPath
from modalkit.training.linear_rows import FEWER_ROWS, LEAST_ROWS, Numbers, Posterior, Seen, Sums
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

_log = logging.getLogger(__name__)

_NUMBERS = 1 << 17  # of the training rows up to which the analysis is fitted to convergence
_ITERATIONS, _CONVERGED = (30, 1e-4), (200, 1e-6)  # most iterations, and the tolerance
_MANY = 12  # rows for each factor from which all factors are used, because too many do no harm
_MANY_IF_SHARED = 4  # the same if no column has a noise variance of its own
_WORSE = 1.05  # ratio to the least error at which no fewer factors are tried
_PRIOR = 1.0  # row, so that with few rows many factors do little harm
_DECODER_ITERATIONS = 60
_DRAWS = 4  # of z for each row to which decoders are fitted
_UNUSED = 1e-2  # weights of latent dimensions beyond the factors: small, but not a saddle point


@dataclass(frozen=True)
class StartChoices:
    """What a start chooses on rows that its factor analysis does not see.

    Attributes:
        factors: number of factors.
        regressed: modalities whose expert is a regression of the factors.
    """

    factors: int
    regressed: tuple[str, ...]


def start_from_factor_analysis(
    model: MultimodalVAE, dataset: Dataset, seed: int, *, choices: StartChoices | None = None
) -> tuple[str, StartChoices]:
    """Give a model's linear paths the weights of a factor analysis of the training rows.

    The analysis is fitted to the numbers that the encoders' linear paths see, with the modalities' weights. With
    covariates, it is fitted to the residuals of a linear regression on them; encoders then subtract the prediction of
    that regression, and decoders add it. The number of factors, at most `latent_dim`, is the one that predicts hidden
    modalities of validation rows best. Experts become the exact ones, or regressions of the factors on a modality where
    those are better; decoders are linear. A decoder without a linear path stays random. The expert of an encoder
    without one has almost no precision.

    Args:
        model: with experts that have a precision matrix.
        dataset: at most 20,000 training rows are used, evenly spaced.
        seed: of the random numbers.
        choices: those of an earlier start, so that no row need be set apart.

    Returns:
        What was done, in words, and what was chosen.

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
    numbers = Numbers(model, dataset, linear, choosing=choices is None)
    if len(numbers.train) < LEAST_ROWS:
        raise InputError(f"model.start: factor_analysis needs {LEAST_ROWS} training rows, not {len(numbers.train)}")
    tried = _tried(numbers, model.latent_dim) if choices is None else [choices.factors]
    analysis = _chosen(numbers, tried, seed)
    said = f"starting from a factor analysis of {sum(numbers.sizes):,} numbers with {analysis.factors} factors"
    regressed = _give(model, numbers, analysis, seed, None if choices is None else choices.regressed)
    silent = [path for path in paths if not path.complete]
    for path in silent:
        path.silence()
    said += f"; without linear paths: {', '.join(path.name for path in silent)}" if silent else ""
    return said, StartChoices(analysis.factors, regressed)


def _tried(numbers: Numbers, latent_dim: int) -> list[int]:
    """Return the numbers of factors to try, descending."""
    most = max(1, min(latent_dim, sum(numbers.sizes), len(numbers.train) - 1))
    many = _MANY_IF_SHARED if all(numbers.shared) else _MANY
    steps = 1 if len(numbers.paths) < 2 or many * most < len(numbers.train) else 12
    return sorted({max(1, round(most * 0.75**i)) for i in range(steps)}, reverse=True)


def _chosen(numbers: Numbers, tried: Sequence[int], seed: int) -> FactorAnalysis:
    """Return the factor analysis with the number of factors that predicts hidden modalities best.

    Args:
        numbers: of the rows.
        tried: numbers of factors, descending.
        seed: of the random numbers.
    """
    x, known = numbers.of(numbers.valid)
    given = _hidden(known, numbers.sizes, seed)
    best, least = None, float("inf")
    iterations, tolerance = _CONVERGED if x.shape[1] * len(numbers.train) <= _NUMBERS else _ITERATIONS
    with bar(len(tried) * (iterations + 4), "factor analysis", unit="pass") as shown:
        kept = list(numbers.batches()) if x.shape[1] * len(numbers.train) <= 1 << 27 else None
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


def _give(
    model: MultimodalVAE, numbers: Numbers, analysis: FactorAnalysis, seed: int, regressed: Sequence[str] | None
) -> tuple[str, ...]:
    """Give experts and decoders to the linear paths, and return the modalities whose experts are regressions."""
    train = Seen(numbers, analysis, evenly(numbers.train, FEWER_ROWS))
    valid = Seen(numbers, analysis, numbers.valid)
    costs = _costs(analysis, numbers.sizes)
    source, first, found = generator(seed, "start"), 0, []
    for path, slope, cost in zip(numbers.paths, numbers.slopes, costs, strict=True):
        columns = slice(first, first + path.inputs)
        first += path.inputs
        there, own = train.having(columns)
        if len(there) < LEAST_ROWS:
            path.silence()
            continue
        part, posterior = analysis.part(columns), train.posterior
        expert = exact_expert(part, path.rank)
        if can_regress(part, own, path.rank) and (regressed is None or path.name in regressed):
            fit = Regression(own, posterior.covariance(there), part, costs.sum(0) - cost)
            if regressed is not None or fit.predicts_better(valid.having(columns)[1]):
                expert = fit.expert(path.rank)
                found.append(path.name)
        extra = torch.randn(model.latent_dim - analysis.factors, path.rank, generator=source) * _UNUSED
        path.give_expert(torch.cat([expert.directions, extra]), expert.weight, expert.bias, slope)
        if not path.decodes:
            continue
        value = numbers.value(path, train.rows[there])
        explained = Explained(train.condition[there], slope)
        _give_decoder(path, part, value, own.x, posterior, there, source, explained)
    return tuple(found)


def _costs(analysis: FactorAnalysis, sizes: Sequence[int]) -> Tensor:
    """Return A of each block, where an error e of the factors raises the relative squared error by e^T A e."""
    sizes = list(sizes)
    parts = zip(torch.split(analysis.loadings, sizes), torch.split(analysis.noise, sizes), strict=True)
    return torch.stack([w.T @ w / (w.square().sum() + psi.sum()) for w, psi in parts])


def _give_decoder(
    path: LinearPath,
    part: FactorAnalysis,
    value: Tensor,
    own: Tensor,
    posterior: Posterior,
    rows: Tensor,
    source: torch.Generator,
    explained: Explained,
) -> None:
    """Give a decoder the loadings if its likelihood's mean is its output; otherwise fit it by maximum likelihood."""
    model, name = path.model, path.name
    extra = model.latent_dim - part.factors
    draws = 1 if own.numel() > 1 << 20 else _DRAWS
    z = posterior.sample(rows, draws, source).float()
    condition = explained.condition
    whole = torch.cat([z, torch.randn(len(z), extra, generator=source), condition.repeat(draws, 1)], 1)
    marginal = model.kinds[name].marginal
    if marginal is not None and value.is_floating_point() and value[0].numel() == own.shape[1]:
        flat, weight = value.reshape(own.shape), part.loadings.float()  # (rows, *event_shape) -> (rows, numbers)
        if not torch.allclose(explained.left(flat), own.to(flat), atol=1e-5):
            explained = explained.of(flat)
            weight = _regressed(posterior, rows, explained.left(flat))
        left = explained.left(flat) - z[: len(value)] @ weight.T
        raw = marginal(model.schemas[name], left.reshape(value.shape))  # (rows, numbers) -> (rows, *event_shape)
        padded = torch.cat([torch.nn.functional.pad(weight, (0, extra)), explained.slope.T], 1)
        if _predicts(path, padded, raw, whole[:8]):
            return
    path.fit_decoder(whole, value.repeat(draws, *[1] * (value.ndim - 1)), _DECODER_ITERATIONS)


@dataclass(frozen=True)
class Explained:
    """What the condition of rows, `(rows, width)`, explains linearly of numbers, by a slope `(width, numbers)`."""

    condition: Tensor
    slope: Tensor

    def left(self, numbers: Tensor) -> Tensor:
        """Return what is left of numbers of these rows, `(rows, numbers)`."""
        return numbers - self.condition @ self.slope if len(self.slope) else numbers

    def of(self, numbers: Tensor) -> Explained:
        """Return the same of other numbers of these rows."""
        sums = Sums(self.condition.shape[1], numbers.shape[1])
        sums.add(self.condition, numbers)
        return Explained(self.condition, sums.slope())


def _regressed(posterior: Posterior, rows: Tensor, flat: Tensor) -> Tensor:
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
