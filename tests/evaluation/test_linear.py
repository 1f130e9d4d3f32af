"""Linear models against slow versions, which write each step out in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modalkit.evaluation.linear import (
    STRENGTHS,
    Ridge,
    chosen_strength,
    principal_components,
    reduced_rank_ridge,
)

Array = npt.NDArray[np.float64]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(inputs: Array, targets: Array, rank: int, strength: float) -> Array:
    """Return fitted values of reduced-rank ridge regression, by the inverse of the inputs' matrix and a full SVD."""
    a, b = inputs - inputs.mean(0), targets - targets.mean(0)
    ridge = strength * (a**2).sum() / len(a)
    full = a @ np.linalg.inv(a.T @ a + ridge * np.eye(a.shape[1])) @ a.T @ b
    u, s, vt = np.linalg.svd(full, full_matrices=False)
    return np.asarray(targets.mean(0) + (u[:, :rank] * s[:rank]) @ vt[:rank])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(5, 30),
    inputs=st.integers(1, 40),
    targets=st.integers(1, 12),
    rank=st.integers(1, 12),
    strength=st.sampled_from(STRENGTHS),
    seed=st.integers(0, 999),
)
def test_fits_equal_the_slow_version(
    rows: int, inputs: int, targets: int, rank: int, strength: float, seed: int
) -> None:
    x, y = normal(rows, inputs, seed=seed), normal(rows, targets, seed=seed + 1)
    cut = inputs // 2
    model = Ridge([x[:, :cut], x[:, cut:]] if cut else [x]).fit(y, rank, strength)
    assert np.allclose(model(x), slow(x.numpy(), y.numpy(), rank, strength), atol=1e-8)
    assert model.encode.shape[1] <= max(rank, 1) or rank >= targets


@pytest.mark.parametrize("wide", [40, 700])
def test_many_targets_are_decomposed_approximately_but_well(wide: int) -> None:
    x = normal(80, 100, seed=0)
    y = x @ normal(100, 3, seed=1) @ normal(3, wide, seed=2) + 0.1 * normal(80, wide, seed=3)
    assert np.allclose(Ridge([x]).fit(y, 3, 0.01)(x), slow(x.numpy(), y.numpy(), 3, 0.01), atol=1e-3)


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    for wide in (8, 600):
        y = normal(50, 3, seed=0) @ normal(3, wide, seed=1) + 0.01 * normal(50, wide, seed=2)
        centered = y - y.mean(0)
        u, s, vt = np.linalg.svd(centered.numpy(), full_matrices=False)
        expected = y.mean(0).numpy() + (u[:, :3] * s[:3]) @ vt[:3]
        assert np.allclose(principal_components(y, 3)(y), expected, atol=1e-3)
    assert torch.allclose(principal_components(y[:, :2], 5)(y[:, :2]), y[:, :2])  # nothing is lost


def test_the_strength_follows_the_noise() -> None:
    x = normal(100, 60, seed=0)
    clear = x @ normal(60, 4, seed=1)
    noise = normal(100, 4, seed=2)
    weak, strong = chosen_strength([x], [clear, noise], 2)
    assert weak == min(STRENGTHS) and strong == max(STRENGTHS)
    model = reduced_rank_ridge([x], noise, 2)
    assert float(model(x).std(0).max()) < 0.3  # little more than the mean


def test_constant_inputs_predict_the_mean() -> None:
    y = normal(10, 3, seed=0)
    assert torch.allclose(reduced_rank_ridge([torch.ones(10, 2).double()], y, 1)(torch.zeros(4, 2).double()), y.mean(0))


def test_single_precision_is_enough_for_pictures() -> None:
    x = normal(60, 5, seed=0) @ normal(5, 3000, seed=1) + 0.01 * normal(60, 3000, seed=2) + 3
    y = x[:, :400]
    exact, single = Ridge([x]).fit(y, 5, 1e-3)(x), Ridge([x.float()]).fit(y.float(), 5, 1e-3)(x.float())
    assert float((exact - single).abs().max()) < 1e-3
