"""Factor analysis: against the dense Gaussian, with missing blocks and cells, and in the corners."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from modalkit.model.factor_analysis import FactorAnalysis
from modalkit.model.factor_fit import Batches, fit_factors


def sample(rows: int, columns: int, factors: int, seed: int = 0) -> tuple[Tensor, FactorAnalysis]:
    g = torch.Generator().manual_seed(seed)
    true = FactorAnalysis(
        torch.randn(columns, factors, generator=g).double(),
        3 * torch.randn(columns, generator=g).double(),
        0.1 + torch.rand(columns, generator=g).double(),
    )
    z = torch.randn(rows, factors, generator=g).double()
    noise = torch.randn(rows, columns, generator=g).double() * true.noise.sqrt()
    return z @ true.loadings.T + true.mean + noise, true


def batches(values: Tensor, known: Tensor | None = None, size: int = 50) -> Batches:
    known = torch.ones_like(values, dtype=torch.bool) if known is None else known

    def again() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(values.split(size), known.split(size), strict=True)

    return again


def dense(model: FactorAnalysis, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-likelihoods, posterior means and predictions, row by row with full matrices."""
    covariance = model.loadings @ model.loadings.T + model.noise.diag()
    found = []
    for row, there in zip(values, known, strict=True):
        if not there.any():
            found.append((torch.tensor(0.0).double(), torch.zeros(model.factors).double(), model.mean))
            continue
        own, offset = covariance[there][:, there], row[there] - model.mean[there]
        solved = torch.linalg.solve(own, offset)
        density = MultivariateNormal(model.mean[there], own).log_prob(row[there])
        z = model.loadings[there].T @ solved
        found.append((density, z, model.mean + model.loadings @ z))
    density, z, predicted = map(torch.stack, zip(*found, strict=True))
    return density, z, predicted


def masks(rows: int, sizes: list[int], seed: int, blocks: float, cells: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    held = (torch.rand(rows, len(sizes), generator=g) >= blocks).repeat_interleave(torch.tensor(sizes), 1)
    return held & (torch.rand(rows, sum(sizes), generator=g) >= cells)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.1, 0.8]))
def test_it_equals_the_dense_gaussian_given_any_values(seed: int, blocks: float, cells: float) -> None:
    values, model = sample(12, 9, 3, seed)
    known = masks(12, [4, 3, 2], seed, blocks, cells)
    density, z, predicted = dense(model, values, known)
    hidden = values.where(known, float("nan"))
    torch.testing.assert_close(model.log_likelihood(hidden, known), density)
    torch.testing.assert_close(model.posterior(hidden, known)[0], z)
    torch.testing.assert_close(model.impute(hidden, known), predicted.where(~known, values))
    turned = model.rotated()
    torch.testing.assert_close(turned.predict(hidden, known), predicted)
    information = turned.natural(values)[1][0]
    torch.testing.assert_close(information, information.diagonal().diag())
    assert (information.diagonal().diff() <= 0).all()


def test_what_parts_say_adds_up() -> None:
    values, model = sample(5, 9, 3)
    parts = [(model.part(s).natural(values[:, s])) for s in (slice(0, 4), slice(4, 9))]
    whole = model.natural(values)
    for one, two, both in zip(*parts, whole, strict=True):
        torch.testing.assert_close(one + two, both)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 0.1, 0.6]))
def test_the_likelihood_never_falls_and_is_the_dense_one(seed: int, blocks: float, cells: float) -> None:
    sizes = [5, 4, 3]
    values, _ = sample(30, 12, 2, seed)
    known = masks(30, sizes, seed, blocks, cells)
    rows = batches(values.where(known, float("nan")), known, 17)
    fitted = fit_factors(rows, sizes, 3, iterations=8, tolerance=-1)
    found = torch.tensor(fitted.log_likelihoods).double()
    assert len(found) == 8 and (found.diff() > -1e-7 * found.abs().max()).all()
    last = fit_factors(rows, sizes, 3, iterations=7, tolerance=-1)
    torch.testing.assert_close(dense(last, values, known)[0].sum(), found[-1])
    again = fit_factors(rows, sizes, 3, iterations=8, tolerance=-1)
    assert torch.equal(again.loadings, fitted.loadings)  # one seed, one result


@pytest.mark.parametrize(("rows", "blocks", "cells"), [(4000, 0.0, 0.0), (4000, 0.3, 0.0), (600, 0.0, 0.02)])
def test_it_finds_the_model_that_made_the_values(rows: int, blocks: float, cells: float) -> None:
    sizes = [6, 6]
    values, true = sample(rows, 12, 2)
    known = masks(rows, sizes, 1, blocks, cells)
    fitted = fit_factors(batches(values, known, 500), sizes, 2, iterations=40, tolerance=1e-6)
    assert float(fitted.log_likelihood(values, known).sum()) > float(true.log_likelihood(values, known).sum())
    torch.testing.assert_close(fitted.mean, true.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(fitted.loadings @ fitted.loadings.T, true.loadings @ true.loadings.T, atol=0.5, rtol=0)
    torch.testing.assert_close(fitted.noise, true.noise, atol=0.1, rtol=0.1)


def test_at_the_best_model_no_small_change_is_better() -> None:
    values, _ = sample(300, 6, 1)
    fitted = fit_factors(batches(values), [6], 1, iterations=500, tolerance=1e-12)
    parameters = [p.clone().requires_grad_() for p in (fitted.loadings, fitted.mean, fitted.noise)]
    FactorAnalysis(*parameters).log_likelihood(values).mean().backward()
    for parameter in parameters:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), atol=1e-4, rtol=0)


def test_columns_that_say_nothing() -> None:
    values, _ = sample(40, 8, 2)
    values[:, 1] = 7.0
    known = torch.ones(40, 8, dtype=torch.bool)
    known[:, 3] = False  # one column of a block
    known[:, 6:] = False  # a whole block
    fitted = fit_factors(batches(values, known), [6, 2], 3)
    assert fitted.mean[1] == pytest.approx(7) and fitted.loadings[1].abs().max() < 1e-6
    for column in (3, 6, 7):
        assert (fitted.mean[column], fitted.noise[column]) == (0, 1)
        assert not fitted.loadings[column].any()
    assert fitted.log_likelihood(values, known).isfinite().all()


@pytest.mark.parametrize(("rows", "columns", "factors", "left"), [(5, 30, 16, 4), (40, 3, 16, 3), (1, 4, 2, 1)])
def test_few_rows_or_columns_get_fewer_factors_and_the_log_says_so(
    rows: int, columns: int, factors: int, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    values, _ = sample(rows, columns, 2)
    with caplog.at_level(logging.INFO):
        fitted = fit_factors(batches(values), [columns], factors)
    assert fitted.factors == left and fitted.predict(values).isfinite().all()
    assert f"allow {left} factors, not {factors}" in caplog.text
    with pytest.raises(ValueError, match="needs a row"):
        fit_factors(batches(values, torch.zeros_like(values, dtype=torch.bool)), [columns], 2)


def megabytes(key: str) -> float:
    """Return a figure of this process's memory; 0 where the system does not say."""
    status = Path("/proc/self/status")
    return int(status.read_text().split(f"{key}:")[1].split()[0]) / 1e3 if status.exists() else 0.0


@pytest.mark.parametrize(("factors", "left"), [(8, 8), (64, 39)])
def test_forty_rows_of_fifty_thousand_columns(factors: int, left: int) -> None:
    values, _ = sample(40, 50_000, 2)
    if measured := Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = megabytes("VmRSS")
    fitted = fit_factors(batches(values.float()), [20_000, 30_000], factors, iterations=4)
    if measured:  # the rows have 8 MB, a matrix of columns x columns would have 10 GB
        assert megabytes("VmHWM") - before < 250
    assert fitted.loadings.shape == (50_000, left) and fitted.loadings.dtype == torch.float32
    found = torch.tensor(fitted.log_likelihoods)
    assert (found.diff() > -1e-4 * found[:-1].abs()).all()  # it never falls by more than rounding
    assert fitted.predict(values.float()).isfinite().all()
