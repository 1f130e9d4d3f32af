"""Covariates: what networks see of them, and that every way through the engine uses them as a plain loop would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import modalkit
from modalkit.data import Batch, Dataset
from modalkit.distributions import Gaussian, product_of_experts
from modalkit.inference import TrainedModel
from modalkit.model import MultimodalVAE, assemble, gaussian
from modalkit.model.covariates import Covariates, condition_on
from modalkit.model.engine import evaluate_plan
from modalkit.model.groups import StackedGroup, single_groups
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws, Schema

MLP_NET = {"type": "mlp", "hidden": [8], "decoder_hidden": [8]}
COVARIATES = {
    "site": modalkit.schema("label", classes=3, role="covariate"),
    "dose": modalkit.schema("vector", size=1, role="covariate"),
    "stage": modalkit.schema("ordinal", classes=3, role="covariate"),
}
ROWS = 6


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_condition_is_centred_columns_and_flags_of_what_training_rows_lack(tmp_path: Path) -> None:
    site, dose = [0, 0, 1, 2, 0], [[1.0], [5.0], [3.0], [7.0], [0.0]]
    modalkit.write_dataset(
        tmp_path / "data",
        {"x": modalkit.schema("vector", size=1), **COVARIATES},
        {"x": [[0.0]] * 5, "site": site, "dose": dose, "stage": [0, 1, 2, 1, 0]},
        present={"dose": [True, True, True, True, False]},
        split=["train"] * 5,
        standardize=False,
    )
    dataset = Dataset(tmp_path / "data", ["x"], covariates=list(COVARIATES))
    made = Covariates(COVARIATES)
    made.fit(dataset, torch.arange(5))
    assert list(dataset[torch.arange(2)].values) == ["x"]  # batches carry covariates apart
    shares, spread = torch.tensor([0.6, 0.2, 0.2]), 5.0**0.5  # of 1, 5, 3 and 7: mean 4
    above = torch.tensor([0.6, 0.2])  # share of stages above 0, and above 1
    one = torch.eye(3)
    carried = dataset[torch.tensor([2, 4])].covariates
    assert carried is not None
    expected = torch.stack(
        [
            torch.cat([one[1] - shares, torch.tensor([-1 / spread]), 1 - above, torch.zeros(3)]),
            torch.cat([one[0] - shares, torch.zeros(1), -above, torch.tensor([0.0, 1.0, 0.0])]),  # lacks its dose
        ]
    )
    torch.testing.assert_close(made(carried), expected)
    # No training row lacks its site, so nothing was learned of that: an unknown one is an average one.
    carried.present[:, 0] = False
    torch.testing.assert_close(made(carried)[:, [0, 1, 2, 6]], torch.zeros(2, 4))


def test_sampled_covariates_are_those_of_training_rows_together(tmp_path: Path) -> None:
    site = torch.arange(40) % 3
    schemas = {"x": modalkit.schema("vector", size=1), **COVARIATES}
    values = {"x": torch.zeros(40, 1), "site": site, "dose": 10.0 * site[:, None], "stage": site}
    modalkit.write_dataset(tmp_path / "data", schemas, values, present={"dose": site > 0}, standardize=False)
    made = Covariates(COVARIATES)
    made.fit(Dataset(tmp_path / "data", ["x"], covariates=list(COVARIATES)), torch.arange(40))
    drawn = made.sample(300, torch.Generator().manual_seed(0))
    assert drawn.values["site"].dtype == torch.int64
    assert torch.equal(drawn.values["dose"].squeeze(1).double(), 10.0 * drawn.values["site"])
    assert torch.equal(drawn.values["stage"], drawn.values["site"])
    assert torch.equal(drawn.present[:, 1], drawn.values["site"] > 0)
    shares = torch.bincount(drawn.values["site"]) / 300
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.1, rtol=0)


def random_rows(schemas: dict[str, Schema], seed: int) -> Batch:
    """Return rows with random presence, and carry the covariates apart."""
    g = torch.Generator().manual_seed(seed)
    batches = []
    for part in (schemas, COVARIATES):
        values = {}
        for name, schema in part.items():
            shape = (ROWS, *schema.event_shape)
            real = schema.dtype == "float32"
            drawn = torch.randn(shape, generator=g) if real else torch.randint(0, 2, shape, generator=g)
            values[name] = drawn.to(getattr(torch, schema.dtype))
        batches.append(Batch(values, torch.rand(ROWS, len(part), generator=g) < 0.7))
    return Batch(batches[0].values, batches[0].present, batches[1])


def conditioned(schemas: dict[str, Schema]) -> MultimodalVAE:
    """Return a model with covariates, whose moments are made up."""
    torch.manual_seed(0)
    model = MultimodalVAE(schemas, 3)
    condition_on(model, COVARIATES)
    assert model.covariates is not None
    model.covariates.loc.normal_()
    model.covariates.scale.uniform_(0.5, 2)
    model.covariates.lacking.fill_(1)
    return model


def plain_elbo(model: MultimodalVAE, batch: Batch, given: Tensor, noise: Tensor, row: int) -> Tensor:
    """Return one term's ELBO of one row, written as the definition says."""
    assert model.covariates is not None and batch.covariates is not None
    one = batch.part(slice(row, row + 1))
    condition = model.covariates(one.covariates)
    values = {n: model.unpack(n, one.values[n]) for n in model.names}
    locs, precisions = torch.zeros(1, len(model.names), 3), torch.zeros(1, len(model.names), 3)
    for column, name in enumerate(model.names):
        if given[column]:
            expert = gaussian(model.heads[name](model.encoders[name](values[name]), condition))
            locs[:, column], precisions[:, column] = expert.loc, expert.precision
    posterior = product_of_experts(Gaussian(locs, precisions), given[None, None])
    z = posterior.rsample(noise[None, None])[0]
    total = -posterior.kl_to_prior().sum()
    for column, name in enumerate(model.names):
        if one.present[0, column] and given.any():
            total = total + model.log_px(name, torch.cat([z, condition], 1), values[name]).sum()
    return total


@pytest.mark.parametrize("alike", [0, 9])
def test_the_engine_conditions_every_expert_and_every_decoder(alike: int) -> None:
    """With nine alike modalities their networks are stacked."""
    schemas = {f"b{i}": modalkit.schema("bit", network=MLP_NET) for i in range(alike)}
    schemas |= {"x": modalkit.schema("vector", size=2, network=MLP_NET)}
    schemas |= {"class": modalkit.schema("label", classes=3, network=MLP_NET)}
    model, batch = conditioned(schemas), random_rows(schemas, 1)
    assert any(isinstance(group, StackedGroup) for group in model.groups) == (alike > 0)
    plan = plan_mvae(MvaeOptions(), model.names, batch.present, Draws(torch.Generator().manual_seed(3)))
    noise = torch.randn(len(plan.terms), ROWS, 3, generator=torch.Generator().manual_seed(4))
    found = evaluate_plan(model, batch, plan, noise)
    for term in range(len(plan.terms)):
        for row in range(ROWS):
            given = plan.given[term, row]
            if given.any():
                expected = plain_elbo(model, batch, given, noise[term, row], row)
                torch.testing.assert_close(found.elbo[term, row], expected)
    found.elbo.sum().backward()
    stacked = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.__dict__["groups"] = single_groups(model)
    evaluate_plan(model, batch, plan, noise).elbo.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name not in stacked), name
        if parameter.grad is not None:
            torch.testing.assert_close(stacked[name], parameter.grad, msg=name)
    assert stacked["heads.x.shift.weight"].abs().sum() > 0


def test_rows_without_their_covariates_are_a_mistake() -> None:
    schemas: dict[str, Schema] = {"x": modalkit.schema("vector", size=2, network=MLP_NET)}
    model, batch = conditioned(schemas), random_rows(schemas, 1)
    bare = Batch(batch.values, batch.present)
    with pytest.raises(ValueError, match="rows lack the covariates site, dose, stage"):
        model.posterior(model.observed(bare), bare.present, bare.present[None])


def test_predictions_as_if_at_another_site_are_those_of_the_linear_model() -> None:
    """x = z + 3 c + noise and y = 2 z - c + noise, with c = 1 at one site and -1 at the other."""
    net = {"type": "mlp", "hidden": [], "decoder_hidden": []}
    recipe = modalkit.Recipe(
        modalities={
            "x": modalkit.schema("vector", size=1, scale=1.0, network={"type": "mlp", "hidden": [1]}),
            "y": modalkit.schema("vector", size=1, scale=1.0, network=net | {"hidden": [1]}),
            "site": modalkit.schema("vector", size=1, role="covariate"),
        },
        model={"latent_dim": 1},
    )
    model = assemble(recipe).double().eval()
    for name, slope, shift in (("x", 1.0, 3.0), ("y", 2.0, -1.0)):
        head, decoder = model.heads[name], Affine(torch.tensor([[slope, shift, 0.0]]))
        model.encoders[name], model.decoders[name] = nn.Identity(), decoder
        head.head, head.shift = Affine(torch.tensor([[1 / slope], [0.0]])), Affine(torch.zeros(2, 2))  # type: ignore[assignment]
        head.shift.weight[0, 0] = -shift / slope  # type: ignore[union-attr, index, operator]
        head.head.bias[1] = -2 * torch.tensor(slope).log()  # type: ignore[union-attr, index, operator]
        head.both = Nothing()  # type: ignore[assignment]
    asked = TrainedModel(model, recipe, Path("none"), "none")
    # z given x = 5 at c = 1 has the mean (5 - 3) / 2 = 1 and the variance 1/2.
    at = asked.infer({"x": [[5.0]], "site": [[1.0]]}, ["x", "y"], draws=64)
    other = asked.infer({"x": [[5.0]], "site": [[1.0]]}, ["x", "y"], draws=64, as_if={"site": [-1.0]})
    torch.testing.assert_close(at.posterior.loc, torch.tensor([[1.0]]))
    torch.testing.assert_close(other.posterior.loc, torch.tensor([[1.0]]))
    assert [round(float(found[n].value), 6) for found in (at, other) for n in ("x", "y")] == [4.0, 1.0, -2.0, 3.0]
    # log p(y | x) at c = 1: y has the mean 2 * 1 - 1 and the variance 4 / 2 + 1.
    score = asked.score({"x": [[5.0]], "site": [[1.0]]}, {"y": [[2.0]]}, particles=20_000)
    exact = torch.distributions.Normal(1.0, 3.0**0.5).log_prob(torch.tensor(2.0))
    torch.testing.assert_close(score.log_p.squeeze(), exact, atol=0.02, rtol=0)
    by_prior = asked.score({"x": [[5.0]], "site": [[1.0]]}, {"y": [[2.0]]}, particles=20_000, prior_particles=20_000)
    torch.testing.assert_close(by_prior.log_p.squeeze(), exact, atol=0.05, rtol=0)


class Affine(nn.Module):
    """`x W^T + b` with constants."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(weight)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Nothing(nn.Module):
    """The second part of a head, without an effect."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 2)
