"""Vectors of whole numbers are filled with whole numbers from 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modalkit
from modalkit.errors import InputError
from modalkit.model.prediction import as_stored


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(loc=st.floats(-1e4, 1e4), scale=st.floats(0.01, 1e4), value=st.floats(-20, 20, width=32))
def test_what_is_stored_is_the_nearest_whole_number_from_0(loc: float, scale: float, value: float) -> None:
    schema = modalkit.schema("vector", size=1, whole=True, standardize={"loc": [loc], "scale": [scale]})
    stored = as_stored(schema, torch.tensor([[value]])).item()
    meant = value * scale + loc
    assert stored == round(stored) >= 0
    assert stored == pytest.approx(max(meant, 0), abs=0.5 + 1e-6 * abs(meant))


def test_without_standardisation_the_numbers_themselves_are_rounded() -> None:
    schema = modalkit.schema("vector", size=3, whole=True)
    assert as_stored(schema, torch.tensor([[-2.0, 0.6, 41.4]])).tolist() == [[0.0, 1.0, 41.0]]
    plain = modalkit.schema("vector", size=3)
    assert as_stored(plain, torch.tensor([[-2.0, 0.5, 41.5]])).tolist() == [[-2.0, 0.5, 41.5]]


def test_only_vectors_that_say_so_are_recorded_as_whole() -> None:
    assert modalkit.schema("vector", size=1, whole=True).facts()["whole"] is True
    for given_ in ({}, {"whole": False}):
        assert "whole" not in modalkit.schema("vector", size=1, **given_).facts()
    with pytest.raises(InputError, match="whole"):
        modalkit.schema("positive", size=1, whole=True)


def test_tables_in_memory_are_filled_with_whole_numbers() -> None:
    pd = pytest.importorskip("pandas")
    draw = np.random.default_rng(0)
    total = np.append(draw.negative_binomial(1, 0.01, 23), 0).astype(float)
    frame = pd.DataFrame({"total": total, "half": total + 0.5, "below": total - 9})
    frame = frame.mask(draw.random(frame.shape) < 0.3)
    model = modalkit.train(data=frame, set={"train.max_steps": 1}, progress=False)
    assert {name: schema.kind for name, schema in model.schemas.items()} == dict.fromkeys(frame, "vector")
    filled = pd.concat([model.impute(frame, sample=True, seed=seed)[frame.isna()] for seed in (1, 2)])
    assert not (filled["total"].dropna() % 1).any() and (filled["total"].dropna() >= 0).all()
    assert (filled["half"].dropna() % 1 != 0.5).any() and (filled["below"].dropna() < 0).any()
