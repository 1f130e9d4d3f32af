"""Losses, gradients and predictions stay finite at extreme outputs of networks, and weights and counts keep digits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.objectives import as_needed
from torch import Tensor, nn
from torch.distributions import Normal

from modalkit import registry
from modalkit.data import Batch
from modalkit.distributions import Mixture
from modalkit.model.correlated import correlate_experts
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.precise import bounded_log, smoothly_bounded
from modalkit.plugin import Draws, Schema

MLP = {"type": "mlp", "hidden": [3], "decoder_hidden": [3]}
PICTURE = {"size": 4, "channels": 1, "network": MLP}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vector": ("vector", {"size": 2, "network": MLP}),
    "vector, shared": ("vector", {"size": 2, "network": MLP, "scale": "shared"}),
    "laplace": ("vector", {"size": 2, "network": MLP, "likelihood": "laplace", "scale": "per_dimension"}),
    "positive": ("positive", {"size": 2, "network": MLP}),
    "positive, shared": ("positive", {"size": 2, "network": MLP, "scale": "shared"}),
    "poisson": ("counts", {"size": 2, "network": MLP}),
    "negative binomial": ("counts", {"size": 2, "network": MLP, "likelihood": "negative_binomial"}),
    "label": ("label", {"classes": 3, "network": MLP}),
    "ordinal": ("ordinal", {"classes": 4, "network": MLP}),
    "bit": ("bit", {"network": MLP}),
    "attributes": ("attributes", {"names": ["a", "b"], "network": MLP}),
    "bernoulli": ("image", PICTURE),
    "gaussian": ("image", {**PICTURE, "likelihood": "gaussian"}),
    "gaussian, predicted": ("image", {**PICTURE, "likelihood": "gaussian", "scale": "predicted"}),
    "logistic": ("image", {**PICTURE, "likelihood": "discretized_logistic"}),
    "logistic, predicted": ("image", {**PICTURE, "likelihood": "discretized_logistic", "scale": "predicted"}),
    "series": ("series", {"channels": 1, "length": 8}),
    "tokens": ("tokens", {"alphabet": "ab", "max_length": 2, "network": {"type": "gru", "embedding": 2, "hidden": 2}}),
}
SCHEMAS = {name: registry.schema(kind, **fields) for name, (kind, fields) in KINDS.items()}
MORE = {"telbo": {"first_stage_epochs": 1}}
OBJECTIVES = sorted(registry.names(registry.OBJECTIVES))


def values_of(schema: Schema, largest: float) -> Tensor:
    """Return one stored sample: the largest that the kind can hold, up to a number."""
    stored = schema.zeros(1)
    if schema.levels:
        return stored + schema.levels - 1
    if schema.kind == "tokens":
        return torch.tensor([[1, 3, 3]])
    if schema.dtype == "uint8":
        return stored + 255 if schema.kind == "image" else stored + 1
    return stored + torch.tensor(largest).to(stored.dtype)


def of_raw(schema: Schema, raw: Tensor) -> Any:
    """Return the likelihood of raw parameters of one row, with numbers taken from `raw` in turn."""
    kind = registry.modality(schema.kind)
    like = kind.decoder(schema, 2)(torch.zeros(1, 2))
    return kind.likelihood(schema, raw[torch.arange(like.numel()) % len(raw)].reshape(like.shape))


@pytest.mark.parametrize("name", [name for name in KINDS if name != "tokens"])
@given(st.lists(st.floats(-90, 90, width=32), min_size=1, max_size=4), st.sampled_from([1.0, 1e3, 1e6]))
@settings(max_examples=8, deadline=None)
def test_scores_of_any_raw_parameters_are_finite(name: str, raw: list[float], largest: float) -> None:
    schema = SCHEMAS[name]
    start = torch.tensor(raw, requires_grad=True)
    likelihood = of_raw(schema, start)
    log_px = likelihood.log_prob(schema.unpack(values_of(schema, largest)))
    (slope,) = torch.autograd.grad(log_px.sum(), start)
    assert log_px.isfinite().all() and slope.isfinite().all()
    if schema.unpack(schema.zeros(1)).is_floating_point():
        assert likelihood.mean.isfinite().all()


@pytest.mark.parametrize("raw", [-90.0, 90.0])
@pytest.mark.parametrize("name", ["vector, shared", "laplace", "poisson", "negative binomial", "positive", "gaussian"])
def test_a_bound_leaves_a_way_back(name: str, raw: float) -> None:
    schema = SCHEMAS[name]
    start = torch.full((1,), raw, requires_grad=True)
    log_px = of_raw(schema, start).log_prob(schema.unpack(values_of(schema, 1.0)))
    assert torch.autograd.grad(log_px.sum(), start)[0].abs() > 0


def extreme_model(objective: str, names: tuple[str, ...], bias: list[float], experts: str) -> tuple[Any, MultimodalVAE]:
    """Return an objective's options and its model, whose heads return the given numbers for every row."""
    plugin = registry.get(registry.OBJECTIVES, objective)
    options, schemas = (
        plugin.options(name=objective, **MORE.get(objective, {})),
        as_needed(objective, {name: SCHEMAS[name] for name in names}),
    )
    plugin.check(options, names)
    torch.manual_seed(0)
    model = plugin.model(options, schemas, 2) if plugin.model else MultimodalVAE(schemas, 2)
    if experts != "diagonal":
        correlate_experts(model, None, full=True, base=objective in ("mmvae", "mopoe"))
    for part in (module for key, module in model.named_children() if key not in ("encoders", "decoders")):
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.weight)
                with torch.no_grad():
                    layer.bias.copy_(torch.tensor(bias)[torch.arange(len(layer.bias)) % len(bias)])
    return options, model


def loss_of(options: Any, model: MultimodalVAE, batch: Batch) -> Tensor:
    plan = registry.get(registry.OBJECTIVES, options.name).plan(
        options, model.names, batch.present, Draws(torch.Generator().manual_seed(0), None)
    )
    shape = (model.components * len(plan.terms), len(batch), model.latent_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    loss: Tensor = -evaluate_plan(model, batch, plan, noise, 1.0).elbo.sum()
    return loss


@pytest.mark.parametrize("rows", ["one", "one without anything", "several"])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "mvae, full", "mmvae, full"])
def test_losses_at_extreme_heads_are_finite(objective: str, rows: str) -> None:
    objective, _, experts = objective.partition(", ")
    names = ("vector",) if objective == "vae" else ("vector", "label")
    present = {"one": [[True] * 2], "one without anything": [[False] * 2]}.get(
        rows, [[True, True], [False, False], [True, False], [False, True]]
    )
    for bias, largest in itertools.product(([90.0], [-90.0], [90.0, -90.0, -90.0]), (1.0, 1e6)):
        options, model = extreme_model(objective, names, bias, experts or "diagonal")
        values = {
            n: values_of(SCHEMAS[n], largest).repeat(len(present), *[1] * len(SCHEMAS[n].event_shape)) for n in names
        }
        loss = loss_of(options, model, Batch(values, torch.tensor(present)[:, : len(names)]))
        assert loss.isfinite(), (bias, largest)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), (bias, largest)


@pytest.mark.parametrize("log_variance", [-15.0, -9.0, 0.0, 15.0])
def test_weights_of_products_of_mixtures_keep_their_digits(log_variance: float) -> None:
    locs = [3.0, 3.2, -7.0, -7.1]
    _, model = extreme_model("mixture-mvae", ("vector", "label"), [0.0], "diagonal")
    for name, (a, b) in zip(("vector", "label"), (locs[:2], locs[2:]), strict=True):
        bias = [a, a, log_variance, log_variance, 0.0, b, b, log_variance, log_variance, 0.0]
        model.heads[name].bias.data.copy_(torch.tensor(bias))
    batch = Batch({n: values_of(SCHEMAS[n], 1.0) for n in model.names}, torch.ones(1, 2, dtype=torch.bool))
    found = model.posterior(model.observed(batch), batch.present, batch.present[None])
    assert isinstance(found, Mixture)
    # The integral of N(z; 0, 1) N(z; a, v) N(z; b, v), by the density of (a, b) = z + noise;
    # the two dimensions are alike.
    v = math.exp(log_variance)
    covariance = torch.tensor([[1 + v, 1.0], [1.0, 1 + v]], dtype=torch.float64)
    exact = []
    for a, b in itertools.product(locs[:2], locs[2:]):
        at = torch.tensor([a, b], dtype=torch.float32).double()
        log_det = math.log(2 * v + v * v)
        exact.append(-(at @ torch.linalg.solve(covariance, at) + log_det))
    log_weight = torch.stack(exact).log_softmax(0)
    torch.testing.assert_close(found.log_weight.flatten().double(), log_weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mean", [900.0, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("log_count", [None, -5.0, 0.0, 7.0])
def test_large_counts_are_scored_exactly(mean: float, log_count: float | None) -> None:
    schema = SCHEMAS["poisson" if log_count is None else "negative binomial"]
    numbers = [math.log(mean)] * 2 + ([] if log_count is None else [log_count] * 2)
    counts = torch.tensor([[round(mean), round(mean * 1.001)]])
    found = of_raw(schema, torch.tensor(numbers)).log_prob(counts)
    exact = of_raw(schema, torch.tensor(numbers).double()).log_prob(counts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=2e-3)
    if log_count is None and mean > 1e3:  # far from 0, a Poisson is a Gaussian
        gaussian = Normal(torch.tensor(mean).double(), math.sqrt(mean)).log_prob(counts.double()).sum(1)
        torch.testing.assert_close(exact, gaussian, rtol=0.03, atol=0.01)


def test_small_counts_beside_large_ones_keep_their_scores() -> None:
    raw = torch.tensor([[1.0, 14.0]])
    likelihood = registry.modality("counts").likelihood
    alone = likelihood(registry.schema("counts", size=1), raw[:, :1]).log_prob(torch.tensor([[3]]))
    exact = likelihood(SCHEMAS["poisson"], raw.double()).log_prob(torch.tensor([[3, 1_202_604]]))
    torch.testing.assert_close(alone, torch.tensor([3 - math.e - math.log(6)]))
    both = likelihood(SCHEMAS["poisson"], raw).log_prob(torch.tensor([[3, 1_202_604]]))
    torch.testing.assert_close(both.double(), exact, rtol=1e-5, atol=1e-5)


@given(st.floats(-15, 15, width=32), st.floats(-1e30, 1e30))
@settings(max_examples=30, deadline=None)
def test_bounds_are_the_identity_up_to_15_and_smooth_beyond(ordinary: float, any_number: float) -> None:
    assert bounded_log(torch.tensor(ordinary)).item() == ordinary
    assert abs(bounded_log(torch.tensor(any_number)).item()) <= 32
    start = torch.tensor([math.nextafter(5, 0), math.nextafter(5, 9)], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smoothly_bounded(start, 5.0, 6.0).sum(), start)
    torch.testing.assert_close(slope, torch.ones(2).double())
