"""Numbers in any unit: standardised where they need it, with experts that never overflow."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command_line import refused
from support.toys import here

import modalkit
from modalkit.data import Dataset
from modalkit.data.standardizing import standardization, unusual
from modalkit.errors import InputError, RunError
from modalkit.model.rows import gaussian
from modalkit.nn.precise import bounded_log as bounded
from modalkit.recipe import load_recipe
from modalkit.recipe.draft import draft
from modalkit.training import train

ROWS = 120


def raw(folder: Path, standardize: bool | None = None, loc: float = 1000.0, scale: float = 50.0) -> Path:
    """Write two vectors of one z; `x` has the given mean and standard deviation, `y` is standard normal."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, 1, generator=g)
    schemas = {"x": modalkit.schema("vector", size=1), "y": modalkit.schema("vector", size=1)}
    modalkit.write_dataset(folder / "data", schemas, {"x": loc + scale * z, "y": z}, standardize=standardize)
    return folder / "data"


@pytest.mark.parametrize(
    ("loc", "scale", "standardize", "expected"),
    [
        (1000.0, 50.0, None, True),
        (0.0, 300.0, None, True),
        (0.0, 0.01, None, True),
        (0.5, 2.0, None, False),
        (0.5, 2.0, True, True),
        (1000.0, 50.0, False, False),
    ],
)
def test_a_dataset_keeps_how_numbers_are_standardised_if_they_need_it(
    tmp_path: Path, loc: float, scale: float, standardize: bool | None, expected: bool
) -> None:
    data = Dataset(raw(tmp_path, standardize, loc, scale))
    facts = data.manifest.modalities["x"].facts["standardize"]
    assert (facts is not None) is expected
    assert (data.manifest.modalities["y"].facts["standardize"] is not None) is (standardize is True)
    if expected:
        train_rows = data.values("x", data.rows("train")).double()
        assert facts["loc"] == pytest.approx([train_rows.mean().item()])
        assert facts["scale"] == pytest.approx([train_rows.std(correction=0).item()])
    stored = data.values("x", torch.arange(ROWS))
    assert stored.mean().item() == pytest.approx(loc, abs=0.5 * scale)  # in the user's unit either way


def test_a_schema_that_says_how_it_standardises_keeps_its_own(tmp_path: Path) -> None:
    own = {"loc": [1.0], "scale": [2.0]}
    schema = modalkit.schema("vector", size=1, standardize=own)
    made = modalkit.write_dataset(tmp_path / "d", {"x": schema}, {"x": torch.full((20, 1), 1e4)})
    assert made.modalities["x"].facts["standardize"] == own


LARGE = (np.arange(50) + 2**53 + 1)[:, None]
DAY = np.arange(50)[:, None] * 1800 + 1_700_000_000


def test_numbers_that_single_precision_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    schemas = {"x": modalkit.schema("vector", size=1, names=["account"])}
    for values in (LARGE, LARGE.astype(float), torch.from_numpy(LARGE), DAY // 1800 / 100 + 1.7e9):
        with pytest.raises(
            InputError, match=r"'x': 'account' has numbers from [\d.]+ to .*; subtract a constant first"
        ):
            modalkit.write_dataset(tmp_path / "d", schemas, {"x": values})
    np.savez(tmp_path / "t.npz", x=LARGE[:, 0])
    done = here("build-dataset", "arrays", "t.npz", "--out", "t", "--yes", cwd=tmp_path)
    refused(done, "modality 'x': 'number 1' has numbers from 9007199254740992", "subtract a constant first")
    modalkit.write_dataset(tmp_path / "d", schemas, {"x": DAY})  # rounded to 128 seconds, of a day


def test_one_number_that_was_computed_in_several_ways_is_a_constant(caplog: pytest.LogCaptureFixture) -> None:
    jitter = np.where(np.arange(30) % 2, 0.1 + 0.2, 0.3)[:, None]
    with caplog.at_level(logging.INFO):
        assert standardization("x", jitter, np.ones(30, bool), ["x"])["scale"] == [1.0]
    assert "constant in the training rows" in caplog.text


def test_an_array_without_rows_and_numbers_beyond_single_precision_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 3)))
    np.savez(tmp_path / "huge.npz", x=np.where(np.arange(40) == 3, 1e39, np.arange(40.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, said in (("none", "none.npz: 'x' has no rows"), ("huge", "modality 'x', row 4: ")):
            refused(here("build-dataset", "arrays", f"{name}.npz", "--out", "d", "--yes", cwd=tmp_path), said)


def test_absent_and_held_out_rows_do_not_count(tmp_path: Path) -> None:
    values = torch.tensor([[0.0], [1.0], [1e6], [1e6]])
    made = modalkit.write_dataset(
        tmp_path / "d",
        {"x": modalkit.schema("vector", size=1)},
        {"x": values},
        present={"x": [True, True, False, True]},
        split=["train", "train", "train", "test"],
    )
    assert made.modalities["x"].facts["standardize"] is None


def test_a_draft_standardises_what_its_dataset_does_not(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(draft(raw(tmp_path, standardize=False)))
    recipe = load_recipe(tmp_path / "r.yaml")
    data = Dataset(tmp_path / "data")
    x = recipe.modalities["x"].unpack(data.values("x", data.rows("train")))
    assert abs(x.mean().item()) < 1e-4 and x.std(correction=0).item() == pytest.approx(1, rel=1e-4)
    assert recipe.modalities["y"].standardize is None  # type: ignore[attr-defined]


RAW = """\
data: {path: DATA}
modalities:
  x: &small {kind: vector, size: 1, network: {type: mlp, hidden: [64, 64], decoder_hidden: [64, 64]}}
  y: *small
model: {latent_dim: 4}
objective: {name: NAME}
train: {epochs: 2, batch_size: 20, learning_rate: LR, accelerator: cpu, pictures_every: 0}
"""


@pytest.mark.parametrize(("loc", "scale"), [(1000.0, 50.0), (0.0, 300.0)])
@pytest.mark.parametrize("objective", ["mvae", "mixture-mvae", "mopoe"])
def test_training_on_raw_numbers_stays_finite(tmp_path: Path, objective: str, loc: float, scale: float) -> None:
    data = raw(tmp_path, False, loc, scale)
    text = RAW.replace("DATA", str(data)).replace("NAME", objective).replace("LR", "0.001")
    (tmp_path / "r.yaml").write_text(text)
    train(load_recipe(tmp_path / "r.yaml"), tmp_path / "run")  # raises if the loss is not finite
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_is_nan_names_numbers_that_are_far_from_standardised(tmp_path: Path) -> None:
    data = raw(tmp_path, False, 1e18, 1e17)
    (tmp_path / "r.yaml").write_text(RAW.replace("DATA", str(data)).replace("NAME", "mvae").replace("LR", "0.001"))
    with pytest.raises(RunError, match=r"far from standardised.*'x' has numbers with a mean of .*e\+1.*`standardize`"):
        train(load_recipe(tmp_path / "r.yaml"), tmp_path / "run")
    dataset = Dataset(data)
    assert unusual(dataset, {"y": modalkit.schema("vector", size=1)}, dataset.rows("train")) == ""


@given(st.floats(-16, 16, width=32))
def test_ordinary_log_variances_stay_as_they_are(value: float) -> None:
    x = torch.tensor([value], requires_grad=True)
    y = bounded(x)
    y.backward(torch.tensor([0.7]))  # type: ignore[no-untyped-call]
    assert torch.equal(y.detach(), x.detach()) and x.grad is not None
    assert math.isclose(x.grad.item(), torch.tensor(0.7).item(), rel_tol=0, abs_tol=0)


@settings(deadline=None)
@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_log_variances_are_bounded_and_keep_their_order(a: float, b: float) -> None:
    low, high = bounded(torch.tensor(sorted([a, b])))
    assert -32 <= low <= high <= 32
    made = gaussian(torch.tensor([[0.0, a]]))
    assert 0 < made.precision.item() < math.inf and 0 < made.scale.item() < math.inf


def test_the_bound_has_no_kink_and_no_plateau() -> None:
    x = torch.tensor([16 - 1e-6, 16 + 1e-6, 89.0, -500.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bounded(x).sum(), x)
    torch.testing.assert_close(slope[:2], torch.ones(2).double(), rtol=0, atol=1e-6)
    assert np.all(slope.numpy() > 5e-4)
