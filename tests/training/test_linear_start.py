"""A start at a factor analysis: training begins at the linear answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.toys import here
from torch import Tensor

import modalkit
from modalkit.model.factor_analysis import FactorAnalysis
from modalkit.model.factor_fit import fit_factors
from modalkit.training.linear_experts import OWN, STRENGTHS, Regression, Rows, exact_expert, regressed_expert, ridge

ROWS, FACTORS = 500, 3
SIZES = {"a": 4, "b": 1, "c": 6}
MLP = "network: {type: mlp, hidden: [8], decoder_hidden: [8], linear: 8}"
RECIPE = f"""
data: {{path: data}}
modalities:
  a: {{kind: vector, size: 4, {MLP}}}
  b: {{kind: vector, size: 1, scale: shared, {MLP}}}
  c: {{kind: vector, size: 6, likelihood: laplace, scale: per_dimension, {MLP}}}
  class: {{kind: label, classes: 3, {MLP}}}
  yes: {{kind: bit, {MLP}}}
model: {{latent_dim: 4, experts: low_rank, start: factor_analysis}}
train: {{epochs: 1, max_steps: 1, learning_rate: 1e-6, choose: imputation}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of a linear model, in which modalities are missing, and a trained run."""
    folder, source = tmp_path_factory.mktemp("start"), torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source)

    z = normal(ROWS, FACTORS)
    values = {name: z @ normal(FACTORS, size) + 0.3 * normal(ROWS, size) for name, size in SIZES.items()}
    present = {name: torch.rand(ROWS, generator=source) < 0.8 for name in SIZES}
    schemas = {name: modalkit.schema("vector", size=size) for name, size in SIZES.items()}
    schemas |= {"class": modalkit.schema("label", classes=3), "yes": modalkit.schema("bit")}
    values |= {"class": (z @ normal(FACTORS, 3)).argmax(1), "yes": (z[:, 0] > 0).float()}
    modalkit.write_dataset(folder / "data", schemas, values, present=present)
    (folder / "recipe.yaml").write_text(RECIPE)
    done = here("train", "recipe.yaml", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "starting from a factor analysis of 16 numbers with" in done.stderr
    return folder


def test_the_start_predicts_like_the_factor_analysis(work: Path) -> None:
    first = json.loads((work / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["step"], first["epoch"], first["split"]) == (0, 0, "valid")
    assert first["imputation_error"] < 0.6  # of the training mean's; a random start has about 1
    saved = json.loads((work / "run" / "translations.json").read_text())
    by = {(one["given"], one["want"]): one for one in saved}
    for want in SIZES:
        assert by["all", want]["explained"] > 0.85
        assert by["a", want]["value"] < 1.1 * by["a", want]["linear_value"] + 0.02 or want == "a"
    assert by["a", "class"]["value"] > by["a", "class"]["mean_value"] + 0.1
    assert by["a", "yes"]["value"] > by["a", "yes"]["mean_value"] + 0.1


def test_the_same_seed_starts_alike(work: Path) -> None:
    assert here("train", "recipe.yaml", "--out", "again", cwd=work).returncode == 0
    first, second = ((work / run / "checkpoints/last.safetensors").read_bytes() for run in ("run", "again"))
    assert first == second


def test_an_average_of_the_weights_begins_at_the_start(work: Path) -> None:
    assert here("train", "recipe.yaml", "--out", "average", "--set", "train.average=0.9", cwd=work).returncode == 0
    errors = [
        json.loads((work / run / "metrics.jsonl").read_text().splitlines()[0])["imputation_error"]
        for run in ("run", "average")
    ]
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.experts=diagonal", "experts: low_rank or full"),
        ("model.centered=true", "remove centered"),
        ("modalities.c.network.linear=2", "modality 'c': model.start: factor_analysis needs 4 linear features"),
    ],
)
def test_what_does_not_fit_is_refused(work: Path, change: str, message: str) -> None:
    done = here("train", "recipe.yaml", "--out", "refused", "--set", change, cwd=work)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert not (work / "refused" / "recipe.yaml").exists()


def test_networks_without_a_linear_path_are_refused_or_start_silent(work: Path) -> None:
    without = [word for name in (*SIZES, "class") for word in ("--set", f"modalities.{name}.network.linear=false")]
    done = here("train", "recipe.yaml", "--out", "part", *without, cwd=work)
    assert done.returncode == 0 and "without linear paths: a, b, c, class" in done.stderr
    done = here(
        "train", "recipe.yaml", "--out", "none", *without, "--set", "modalities.yes.network.linear=false", cwd=work
    )
    assert done.returncode == 2 and "needs networks with a linear path" in done.stderr


def test_the_expert_of_texts_begins_at_the_factor_analysis_too(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    words = ["red", "green", "blue"]
    kind = torch.randint(3, (400,), generator=source)
    place = torch.eye(3)[kind] + 0.1 * torch.randn(400, 3, generator=source)
    network = {"type": "mlp", "hidden": [8], "decoder_hidden": [8], "linear": 4}

    def explained(linear: int) -> float:
        text = {"kind": "tokens", "alphabet": "bdeglnru", "max_length": 5}
        recipe = {
            "modalities": {
                "place": {"kind": "vector", "size": 3, "scale": "shared", "network": network},
                "word": text | {"network": {"type": "gru", "embedding": 8, "hidden": 8, "linear": linear}},
            },
            "model": {"latent_dim": 4, "experts": "low_rank", "start": "factor_analysis"},
            "train": {"max_steps": 1, "learning_rate": 1e-6},
        }
        data = {"place": place, "word": [words[number] for number in kind]}
        model = modalkit.train(recipe, data, progress=False)
        found = model.infer({"word": words}, want=["place"])["place"].value
        return 1 - float((found - torch.eye(3)).square().mean() / (torch.eye(3) - 1 / 3).square().mean())

    assert explained(4) > 0.9 > 0.3 > explained(0)


def test_leave_one_out_residuals_equal_refits() -> None:
    source = torch.Generator().manual_seed(0)
    for columns in (3, 40):
        x, z = torch.randn(20, columns, generator=source).double(), torch.randn(20, 2, generator=source).double()
        z[:, 0] += 30 * x[:, 0]  # one target is easy, the other is noise, so that their strengths differ
        weight, residual = ridge(x, z)
        chosen = []
        for target in range(2):
            wanted, penalties = z[:, target], [float((x - x.mean(0)).square().sum()) / 20 * s for s in STRENGTHS]
            fits = {penalty: ridge_weights(x, wanted, penalty) for penalty in penalties}
            penalty = min(fits, key=lambda one: float((fits[one] - weight[target]).abs().max()))
            chosen.append(penalty)
            torch.testing.assert_close(fits[penalty], weight[target], atol=1e-4, rtol=1e-4)
            left = ridge_weights(x[1:], wanted[1:], penalty)
            predicted = wanted[1:].mean() + (x[0] - x[1:].mean(0)) @ left
            torch.testing.assert_close(wanted[0] - predicted, residual[0, target], atol=1e-3, rtol=1e-3)
        assert chosen[0] < chosen[1]


def ridge_weights(x: Tensor, z: Tensor, penalty: float) -> Tensor:
    """Return the weights of a ridge regression of one target on centred columns."""
    moved = x - x.mean(0)
    gram = moved.T @ moved + penalty * torch.eye(x.shape[1]).to(x)
    return torch.linalg.solve(gram, moved.T @ (z - z.mean()))


def test_experts_have_the_precision_and_mean_that_they_should() -> None:
    source = torch.Generator().manual_seed(0)
    w, x = torch.randn(7, 3, generator=source), torch.randn(5, 7, generator=source)
    part = FactorAnalysis(w, torch.randn(7, generator=source), torch.rand(7, generator=source) + 0.1)
    expert = exact_expert(part, 4)
    eta, precision = part.natural(x)
    torch.testing.assert_close(expert.directions @ expert.directions.T, precision[0], atol=1e-3, rtol=1e-4)
    measured = x @ expert.weight.T + expert.bias
    torch.testing.assert_close(measured @ expert.directions.T, eta, atol=1e-3, rtol=1e-4)
    left = torch.diag(torch.tensor([0.1, 0.5, 0.9]))
    expert = regressed_expert(w.T, part.mean, torch.ones(3), left, 3)
    own = expert.directions @ expert.directions.T + torch.eye(3)
    torch.testing.assert_close(own, left.inverse(), atol=1e-4, rtol=1e-4)
    loc = left @ (expert.directions @ (x @ expert.weight.T + expert.bias).T)
    torch.testing.assert_close(loc.T, (x - part.mean) @ w + 1, atol=1e-3, rtol=1e-4)


def test_a_regression_weighs_its_own_modality_against_the_others() -> None:
    source = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 3, generator=source).double()
    loadings = torch.randn(5, 3, generator=source).double()
    x = 2 + z @ loadings.T + 0.5 * torch.randn(3000, 5, generator=source)
    part = FactorAnalysis(loadings, torch.full((5,), 2.0).double(), torch.full((5,), 0.25).double(), ())
    others = torch.diag(torch.tensor([1.0, 0.1, 0.0])).double()  # the third factor only serves this modality
    fit = Regression(Rows(x, z), torch.zeros(3, 3).double(), part, others)
    moved, wanted = x - x.mean(0), z - z.mean(0)

    def cost(weight: Tensor) -> float:
        away, own = wanted - moved @ weight.T, moved - moved @ weight.T @ loadings.T
        variance = loadings.square().sum() + part.noise.sum()
        return float(((away @ others) * away).sum() + OWN * own.square().sum() / variance)

    least = cost(fit.weight)
    for _ in range(50):
        assert cost(fit.weight + 0.01 * torch.randn(3, 5, generator=source)) > least
    left = wanted - moved @ fit.weight.T
    torch.testing.assert_close(fit.left, left.T @ left / len(left), rtol=0.02, atol=2e-3)


def test_weighted_and_shared_noise_keep_the_likelihood_rising() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=source) @ torch.randn(2, 9, generator=source)
    x = x + 0.5 * torch.randn(200, 9, generator=source)
    known = torch.ones_like(x, dtype=torch.bool)
    found = fit_factors(
        lambda: [(x, known)], (4, 5), 2, shared=(True, False), weights=(4.0, 0.5), iterations=40, tolerance=0
    )
    rises = torch.tensor(found.log_likelihoods).diff()
    assert bool((rises > -1e-6 * abs(found.log_likelihoods[-1])).all())
    assert len(set(found.noise[:4].tolist())) == 1 and len(set(found.noise[4:].tolist())) == 5


def test_a_prior_shrinks_needless_loadings_to_a_fixed_point() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=source).double()
    known = torch.rand(60, 5, generator=source) < 0.8

    def fit(prior: float, iterations: int) -> FactorAnalysis:
        return fit_factors(lambda: [(x, known)], [1] * 5, 2, prior=prior, iterations=iterations, tolerance=-1)

    found, later, free = fit(3, 200), fit(3, 201), fit(0, 200)
    torch.testing.assert_close(found.loadings, later.loadings, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.noise, later.noise, atol=1e-4, rtol=0)
    assert float(found.loadings.square().sum()) < 0.7 * float(free.loadings.square().sum())


@pytest.mark.parametrize("rows", [60, 400])
@pytest.mark.parametrize("factors", [1, 2])
def test_a_prior_leaves_the_variance_of_columns_with_little_noise(rows: int, factors: int) -> None:
    source = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 2, generator=source).double()
    x[:, 1] += 40 * x[:, 0]
    x = (x - x.mean(0)) / x.std(0)
    known = torch.ones_like(x, dtype=torch.bool)
    found = fit_factors(lambda: [(x, known)], [1, 1], factors, prior=1, iterations=200, tolerance=1e-6)
    assert len(found.log_likelihoods) < 60
    variance = found.loadings.square().sum(1) + found.noise
    torch.testing.assert_close(variance, torch.ones(2).double(), atol=0.06, rtol=0)  # it was 0.6
    assert float(found.noise.max()) < 0.003


def test_a_linear_model_imputes_without_errors_of_sampling(work: Path) -> None:
    data, model = modalkit.Dataset(work / "data"), modalkit.load(work / "run")
    few, many = (model.impute(data, torch.arange(100), draws=draws) for draws in (2, 64))
    for name in SIZES:
        difference = few.batch.values[name] - many.batch.values[name]
        assert float(difference.abs().max()) < 1e-3


def test_a_start_knows_covariates_linearly() -> None:
    source = torch.Generator().manual_seed(0)
    rows, numbers = 600, 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    z, site, dose = normal(rows, 1), torch.randint(3, (rows,), generator=source), normal(rows, 1)
    effect, of_dose, loadings = 3 * normal(3, 2 * numbers), normal(1, 2 * numbers), normal(1, 2 * numbers)
    x = z @ loadings + effect[site] + dose @ of_dose + 0.1 * normal(rows, 2 * numbers)
    network = {"type": "mlp", "hidden": [8], "decoder_hidden": [8], "linear": 8}
    vector = {"kind": "vector", "size": numbers, "scale": "per_dimension", "network": network}
    recipe = {
        "modalities": {
            "a": vector,
            "b": vector,
            "low": {"kind": "bit", "network": network},
            "site": {"kind": "label", "classes": 3, "role": "covariate"},
            "dose": {"kind": "vector", "size": 1, "role": "covariate"},
        },
        "model": {"latent_dim": 2, "experts": "low_rank", "start": "factor_analysis"},
        "train": {"epochs": 1, "max_steps": 1, "learning_rate": 1e-6, "choose": "imputation", "refit": True},
    }
    low = (z[:, 0] + 2 * (site == 1) < 0).float()
    data = {"a": x[:, :numbers], "b": x[:, numbers:], "low": low, "site": site, "dose": dose}
    model = modalkit.train(recipe, data, progress=False)
    known = {name: data[name] for name in ("a", "site", "dose")}
    found = model.infer(known, ["b", "low"], draws=64)
    truth = x[:, numbers:]
    assert float((found["b"].value - truth).square().mean().sqrt()) < 0.2  # the noise has 0.1, and sites differ by 3
    assert float(((found["low"].value > 0.5) == low.bool()).float().mean()) > 0.9
    moved = model.infer(known, ["b"], as_if={"site": 2}, draws=64)["b"].value
    other = z @ loadings[:, numbers:] + effect[2, numbers:] + dose @ of_dose[:, numbers:]
    assert float((moved - other).square().mean().sqrt()) < 0.2
    place = model.embed({name: data[name] for name in ("a", "b", "site", "dose")}).loc
    # What the site adds to z, in units of its spread: no more than means of 200 rows differ by chance.
    apart = torch.stack([(place - z * _slope(place, z))[site == one].mean(0) for one in range(3)])
    assert float((apart - apart.mean(0)).abs().max()) < 0.2


def _slope(y: Tensor, x: Tensor) -> Tensor:
    """Return by what y rises with x, `(columns,)`."""
    moved = x - x.mean(0)
    return (moved * (y - y.mean(0))).sum(0) / moved.square().sum()
