"""A model with linear networks, Gaussian likelihoods and experts with a precision matrix is a factor analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.factors import factor_run, random_analysis
from torch import Tensor

import modalkit
from modalkit.data import Batch
from modalkit.inference import TrainedModel
from modalkit.model.factor_analysis import FactorAnalysis

ROWS = 6
# Equal schemas, whose networks run together; single columns; more and fewer columns than factors and linear features.
SIZES: dict[str, Mapping[str, int]] = {
    "few": {"a": 2, "b": 5, "c": 1},
    "equal": {f"m{i:02d}": 1 for i in range(9)},
    "wide": {"a": 70, "b": 3},
}
FACTORS = {"few": 3, "equal": 4, "wide": 5}
CASES = [(name, experts) for name in SIZES for experts in ("low_rank", "full")]
Pair = tuple[TrainedModel, FactorAnalysis, Tensor]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    """By case, a loaded run, the factor analysis whose weights it has, and rows that a dataset can store."""
    made = {}
    for name, experts in CASES:
        analysis = random_analysis(sum(SIZES[name].values()), FACTORS[name], seed=len(made))
        run = factor_run(tmp_path_factory.mktemp(f"{name}-{experts}") / "run", analysis, SIZES[name], experts)
        rows = torch.randn(ROWS, len(analysis.mean), generator=torch.Generator().manual_seed(9))
        made[name, experts] = modalkit.load(run), analysis, 2 * rows
    return made


def patterns(name: str) -> st.SearchStrategy[list[list[bool]]]:
    """Which modalities each row has; some rows have none."""
    row = st.lists(st.booleans(), min_size=len(SIZES[name]), max_size=len(SIZES[name]))
    return st.lists(row, min_size=ROWS, max_size=ROWS)


def as_batch(rows: Tensor, sizes: Mapping[str, int], present: Tensor) -> tuple[Batch, Tensor]:
    """Return rows as modalities, and which columns are known."""
    values = dict(zip(sizes, torch.split(rows, list(sizes.values()), 1), strict=True))
    return Batch(values, present), present.repeat_interleave(torch.tensor(list(sizes.values())), 1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_one_sample_gives_the_log_likelihood(pairs: dict[tuple[str, str], Pair], case: tuple[str, str], data) -> None:
    """The proposal is the exact posterior, so that every importance weight is the likelihood itself."""
    model, analysis, rows = pairs[case]
    present = torch.tensor(data.draw(patterns(case[0])))
    assume(present.any())  # nothing at all cannot be scored
    batch, known = as_batch(rows, SIZES[case[0]], present)
    found = model.score({}, batch, particles=1).log_p
    some = present.any(1)
    close(found[some], analysis.log_likelihood(rows.double(), known)[some])
    assert bool(found[~some].isnan().all())


@pytest.mark.parametrize("case", CASES, ids="-".join)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_conditional_log_likelihoods(pairs: dict[tuple[str, str], Pair], case: tuple[str, str], data) -> None:
    model, analysis, rows = pairs[case]
    present, which = torch.tensor(data.draw(patterns(case[0]))), torch.tensor(data.draw(patterns(case[0])))[0]
    assume((present & ~which).any())
    batch, known = as_batch(rows, SIZES[case[0]], present)
    given, targets = Batch(batch.values, present & which), Batch(batch.values, present & ~which)
    found = model.score(given, targets, particles=1).log_p
    less = as_batch(rows, SIZES[case[0]], given.present)[1]
    expected = analysis.log_likelihood(rows.double(), known) - analysis.log_likelihood(rows.double(), less)
    some = targets.present.any(1)
    close(found[some], expected[some])


@pytest.mark.parametrize("case", CASES, ids="-".join)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_posteriors_and_predictions(pairs: dict[tuple[str, str], Pair], case: tuple[str, str], data) -> None:
    model, analysis, rows = pairs[case]
    sizes = SIZES[case[0]]
    batch, known = as_batch(rows, sizes, torch.tensor(data.draw(patterns(case[0]))))
    loc, covariance = analysis.posterior(rows.double(), known)
    found = model.embed(batch)
    close(found.loc, loc)
    close(found.scale, covariance.diagonal(dim1=-2, dim2=-1).sqrt().expand_as(loc))
    decoded = model.decode(found.loc)  # linear, so the mean of what z decodes to is what its mean decodes to
    predicted = torch.cat([decoded[name].value for name in sizes], 1)
    close(predicted, analysis.predict(rows.double(), known))


@pytest.mark.parametrize("experts", ["low_rank", "full"])
def test_imputed_values_are_those_predictions(pairs: dict[tuple[str, str], Pair], experts: str) -> None:
    """Means over samples of z: their errors shrink with the square root of the number of samples."""
    model, analysis, rows = pairs["few", experts]
    present = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    batch, known = as_batch(rows, SIZES["few"], present)
    filled = model.impute(batch, draws=20_000)
    values = torch.cat([filled.batch.values[name] for name in SIZES["few"]], 1)
    assert torch.equal(values[known], rows[known])
    torch.testing.assert_close(values.double(), analysis.impute(rows.double(), known), rtol=0, atol=0.06)
    _, covariance = analysis.posterior(rows.double(), known)
    variance = torch.einsum("ck,nkl,cl->nc", analysis.loadings, covariance, analysis.loadings) + analysis.noise
    scale = torch.cat([filled.scale.get(name, batch.values[name]) for name in SIZES["few"]], 1)
    torch.testing.assert_close(scale[~known], variance.sqrt()[~known], rtol=0.03, atol=0)


def test_a_table_of_single_columns_may_lack_any_cells(tmp_path: Path) -> None:
    """Modalities of one column each: a pattern of missing modalities is a pattern of missing cells."""
    analysis, sizes = random_analysis(12, 4, seed=3), {f"c{i}": 1 for i in range(12)}
    model = modalkit.load(factor_run(tmp_path / "run", analysis, sizes, "low_rank"))
    g = torch.Generator().manual_seed(1)
    rows, known = torch.randn(200, 12, generator=g), torch.rand(200, 12, generator=g) < 0.6
    found = model.score({}, as_batch(rows, sizes, known)[0], particles=1).log_p
    some = known.any(1)
    close(found[some], analysis.log_likelihood(rows.double(), known)[some])
