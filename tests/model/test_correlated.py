"""Experts with precision matrices: closed forms, exactness for linear models, and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.test_engine import LATENT, MLP_NET, ROWS, gradients, random_batch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import modalkit
from modalkit.data import Batch
from modalkit.distributions import CorrelatedGaussian, Gaussian, Mixture, log_prior
from modalkit.model.correlated import correlate_experts
from modalkit.model.engine import evaluate_plan
from modalkit.model.groups import single_groups
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.patterns import Patterns
from modalkit.objectives.mixtures import MixtureOfProducts, all_subsets
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws, Plan, Schema


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_gaussian(index: torch.Tensor, patterns: int, size: int, seed: int = 0) -> CorrelatedGaussian:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(patterns, size, size, generator=g)
    precision = root @ root.mT + torch.eye(size)
    return CorrelatedGaussian.from_natural(torch.randn(*index.shape, size, generator=g), precision, Patterns(index))


def dense(made: CorrelatedGaussian) -> MultivariateNormal:
    precision = (made.factors @ made.factors.mT)[made.pattern.index]
    return MultivariateNormal(made.loc, precision_matrix=precision)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 3), st.sampled_from([(), (1,), (3,), (2, 1)]), st.data())
def test_products_with_shared_matrices_equal_products_row_by_row(
    rows: int, patterns: int, size: int, lead: tuple[int, ...], data: st.DataObject
) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, patterns - 1), min_size=2 * rows, max_size=2 * rows)))
    index = index.long().reshape(2, rows)
    matrices, vectors = torch.randn(patterns, size, size + 1), torch.randn(*lead, 2, rows, size)
    expected = torch.einsum("...i,...ij->...j", vectors, matrices[index])
    torch.testing.assert_close(Patterns(index).multiply(vectors, matrices), expected)
    one = torch.randn(2, 1, size)
    expected = torch.einsum("...i,...ij->...j", one.expand(2, rows, size), matrices[index])
    torch.testing.assert_close(Patterns(index).multiply(one, matrices), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 130), st.integers(0, 20), st.integers(0, 1000))
def test_patterns_are_the_distinct_masks(width: int, rows: int, seed: int) -> None:
    masks = torch.rand(2, rows, width, generator=torch.Generator().manual_seed(seed)) < 0.9
    patterns, distinct = Patterns.of(masks)
    assert torch.equal(distinct[patterns.index], masks)
    assert len(distinct) == len({tuple(one) for one in masks.flatten(0, 1).tolist()})


@pytest.mark.parametrize("patterns", [1, 3])
def test_a_gaussian_with_shared_matrices_equals_a_dense_one(patterns: int) -> None:
    index = torch.randint(patterns, (2, 7), generator=torch.Generator().manual_seed(1))
    made, other = random_gaussian(index, patterns, 4), random_gaussian(index.flip(1)[:1], patterns, 4, seed=5)
    plain, unit = dense(made), MultivariateNormal(torch.zeros(4), torch.eye(4))
    z = torch.randn(3, 2, 7, 4)
    torch.testing.assert_close(made.variance, plain.variance)
    torch.testing.assert_close(made.scale, plain.stddev)
    torch.testing.assert_close(made.log_prob(z), plain.log_prob(z))
    torch.testing.assert_close(made.kl_to_prior(), kl_divergence(plain, unit))
    torch.testing.assert_close(made.kl_to(other), kl_divergence(plain, dense(other).expand((2, 7))))
    torch.testing.assert_close(made[1].log_prob(z[:, 1]), plain.log_prob(z)[:, 1])
    torch.testing.assert_close(made[1:].unflatten((1, 1)).variance[0], plain.variance[1:])
    noise = torch.randn(200_000, 1, 1, 4)
    sampled = made[:1].rsample(noise)[:, 0, 0]
    torch.testing.assert_close(sampled.T.cov(), plain.covariance_matrix[0, 0], rtol=0.05, atol=0.02)


def test_a_mixture_of_them_equals_the_sum_of_densities() -> None:
    index = torch.tensor([[0, 1, 1], [2, 0, 2]])
    made = random_gaussian(index, 3, 2)
    weight = torch.tensor([[0.3, 1.0, 0.6], [0.7, 0.0, 0.4]])
    mixture, z = Mixture(weight.log(), made), torch.randn(2, 3, 2)
    expected = (weight * dense(made).log_prob(z[:, None]).exp()).sum(1).log()
    torch.testing.assert_close(mixture.log_prob(z), expected)
    noise, choice = torch.randn(5, 3, 2), torch.rand(5, 3)
    sampled, which = mixture.sample(noise, choice), (choice >= weight[0]).long()
    every = made.rsample(noise[:, None])  # (samples, components, rows, latent)
    torch.testing.assert_close(sampled, every.gather(1, which[:, None, :, None].expand(-1, 1, -1, 2))[:, 0])


def test_a_diagonal_gaussian_and_one_with_a_diagonal_matrix_are_the_same() -> None:
    loc, precision, z = torch.randn(5, 3), torch.rand(3) + 0.5, torch.randn(5, 3)
    plain = Gaussian(loc, precision.expand(5, 3))
    made = CorrelatedGaussian.from_natural(loc * precision, precision.diag()[None], Patterns(torch.zeros(5).long()))
    for ours, theirs in ((made.loc, loc), (made.variance, plain.variance), (made.kl_to_prior(), plain.kl_to_prior())):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(made.log_prob(z), plain.log_prob(z))
    torch.testing.assert_close(made.rsample(z), plain.rsample(z))


def small(*, bits: int = 9) -> dict[str, Schema]:
    made = {
        "label": modalkit.schema("label", classes=3, weight=10, network=MLP_NET),
        "position": modalkit.schema("vector", size=2, network=MLP_NET),
    }
    return made | {f"bit{i}": modalkit.schema("bit", network=MLP_NET) for i in range(bits)}


def test_ranks_follow_the_numbers_of_a_sample() -> None:
    model = MultimodalVAE(small(bits=1), LATENT)
    correlate_experts(model, None, full=False, base=False)
    assert {n: m.rank for n, m in model.measurements.items()} == {"label": 3, "position": 2, "bit0": 1}
    for settings_of, ranks in ({"rank": 2, "full": False}, [2, 2, 1]), ({"rank": None, "full": True}, [LATENT] * 3):
        model = MultimodalVAE(small(bits=1), LATENT)
        correlate_experts(model, base=True, **settings_of)  # type: ignore[arg-type]
        assert [m.rank for m in model.measurements.values()] == ranks


def test_a_linear_model_has_its_exact_posterior_and_evidence() -> None:
    """With U = W' / s and b = x / s, the posterior of any subset is exact, and the ELBO is the log-evidence."""
    sizes, scale = {"a": 2, "b": 3, "c": 1}, 0.4
    net = {"type": "mlp", "hidden": [2], "decoder_hidden": []}
    model = MultimodalVAE({n: modalkit.schema("vector", size=s, scale=scale, network=net) for n, s in sizes.items()}, 4)
    correlate_experts(model, None, full=False, base=False)
    weights = {}
    with torch.no_grad():
        for name, size in sizes.items():
            (decode,) = (part for part in model.decoders[name].modules() if isinstance(part, nn.Linear))
            decode.bias.zero_()
            weights[name] = decode.weight.clone()  # (size, latent_dim)
            model.encoders[name], model.heads[name] = nn.Identity(), nn.Linear(size, size)
            model.heads[name].weight.copy_(torch.eye(size) / scale)  # type: ignore[operator, union-attr]
            model.heads[name].bias.zero_()  # type: ignore[operator, union-attr]
            model.measurements[name].directions.copy_(weights[name].T / scale)  # type: ignore[operator, union-attr]
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    batch = random_batch(model.schemas, present)
    plan = Plan(("all",), present[None], present[None])
    posterior = model.posterior(model.observed(batch), present, present[None])
    total = sum(
        evaluate_plan(model, batch, plan, sign * noise).elbo[0]
        for noise in (2**0.5 * torch.eye(4)).mul(2**0.5)[:, None, None].expand(-1, 1, 3, -1)
        for sign in (1, -1)
    )  # these 8 points have the mean and covariance of a standard normal, so a quadratic's mean is exact
    for row in range(3):
        names = [n for n, here in zip(sizes, present[row].tolist(), strict=True) if here]
        w = torch.cat([weights[n] for n in names])
        x = torch.cat([batch.values[n][row].double() for n in names])
        precision = torch.eye(4) + w.T @ w / scale**2
        torch.testing.assert_close(posterior.loc[0, row], torch.linalg.solve(precision, w.T @ x / scale**2))
        torch.testing.assert_close(posterior.variance[0, row], precision.inverse().diagonal())
        evidence = MultivariateNormal(torch.zeros(len(x)), w @ w.T + scale**2 * torch.eye(len(x))).log_prob(x)
        torch.testing.assert_close(total[row] / 8, evidence)


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_loss_and_gradients_equal_a_plain_loop(missing: float, base: bool) -> None:
    made = small()
    torch.manual_seed(2)
    model = MultimodalVAE(made, LATENT, prior_expert=not base)
    correlate_experts(model, None, full=False, base=base)
    assert sorted(len(group.names) for group in model.groups)[-1] == 9
    present = torch.rand(ROWS, len(made), generator=torch.Generator().manual_seed(5)) >= missing
    if missing:
        present[:, [1, 4]] = False  # two are absent from every row, one of them of the stacked ones
        present[0] = False
    batch = random_batch(made, present)
    plan = plan_mvae(MvaeOptions(k=2), model.names, present, Draws(torch.Generator().manual_seed(3)))
    noise = torch.randn(len(plan.terms), ROWS, LATENT)
    fast = evaluate_plan(model, batch, plan, noise, 0.7).elbo.sum()
    ours = gradients(model, fast)
    slow = plain_elbo(model, batch, plan, noise, 0.7)
    theirs = gradients(model, slow)
    torch.testing.assert_close(fast, slow)
    absent = {name for name in theirs if name not in ours}
    assert all(float(theirs[name].abs().max()) == 0 for name in absent) and ours.keys() <= theirs.keys()
    assert not missing or {"measurements.position.directions", "measurements.bit2.directions"} <= absent
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-10, msg=name)


def plain_elbo(model: MultimodalVAE, batch: Batch, plan: Plan, noise: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the ELBO, one row and one term at a time, with dense matrices."""
    total = noise.new_zeros(())
    model.groups = single_groups(model)
    observed = {n: model.unpack(n, v) for n, v in batch.values.items()}
    heads = {n: model.head_output(n, observed[n]) for n in model.names}
    for term in range(len(plan.terms)):
        for row in range(len(batch)):
            names = [n for n, here in zip(model.names, plan.given[term, row].tolist(), strict=True) if here]
            precision = torch.eye(LATENT) if model.prior_expert or not names else torch.zeros(LATENT, LATENT)
            weighted = torch.zeros(LATENT)
            for name in names:
                part = model.measurements[name]
                u = part.directions
                precision = precision + u @ u.T + (0 if part.log_base is None else part.log_base.exp().diag())  # type: ignore[operator, union-attr]
                weighted = weighted + u @ heads[name][row]  # type: ignore[operator]
            q = MultivariateNormal(torch.linalg.solve(precision, weighted), precision_matrix=precision)
            z = q.loc + torch.linalg.solve_triangular(
                torch.linalg.cholesky(precision).T, noise[term, row][:, None], upper=True
            ).squeeze(1)
            total = total - beta * kl_divergence(q, MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT)))
            for name, target in zip(model.names, plan.targets[term, row].tolist(), strict=True):
                if target:
                    log_px = model.log_px(name, z[None], observed[name][row : row + 1])
                    total = total + model.schemas[name].weight * log_px.sum()
    return total + 0 * sum(p.sum() for p in model.parameters())


@pytest.mark.parametrize("convex", [False, True])
def test_mixtures_of_products_are_their_parts(convex: bool) -> None:
    made = small(bits=1)
    subsets = all_subsets(3) if convex else torch.eye(3, dtype=torch.bool)
    model = MixtureOfProducts(made, LATENT, subsets, convex=convex)
    correlate_experts(model, 2, full=False, base=True)
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    batch = random_batch(made, present)
    found = model.posterior(model.observed(batch), present, present[None])
    for at, members in enumerate(subsets):
        part = model.products(model.observed(batch), present, (members & present)[None])
        here = (present | ~members).all(1)
        torch.testing.assert_close(found.parts.loc[at, 0, here], part.loc[0, here])
        torch.testing.assert_close(found.parts.variance[at, 0, here], part.variance[0, here])
    z = torch.randn(1, 3, LATENT)
    torch.testing.assert_close(found.log_prob(z)[0, 2], log_prior(z)[0, 2])
