from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from modalkit.distributions import Gaussian, Mixture, log_prior, product_of_experts


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4))
def test_product_is_proportional_to_the_densities_multiplied(seed: int, modalities: int, dim: int) -> None:
    """log q(z|X) - log p(z) - sum log q(z|x_m) must not depend on z: that is equation 3."""
    g = torch.Generator().manual_seed(seed)
    experts = Gaussian(
        torch.randn(3, modalities, dim, generator=g).double(),
        torch.rand(3, modalities, dim, generator=g).double() + 0.1,
    )
    members = torch.rand(4, 3, modalities, generator=g) < 0.5
    posterior = product_of_experts(experts, members)
    z = torch.randn(6, 1, 1, dim, generator=g).double() * 3
    each = Normal(experts.loc, experts.scale).log_prob(z.unsqueeze(-2))  # (6, 1, 3, modalities, dim)
    product = Normal(0, 1).log_prob(z) + (each * members[..., None]).sum(-2)
    gap = Normal(posterior.loc, posterior.scale).log_prob(z) - product
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-9)


def test_nothing_given_is_the_prior_and_absent_experts_say_nothing() -> None:
    experts = Gaussian(torch.randn(2, 3, 4), torch.rand(2, 3, 4))
    prior = product_of_experts(experts, torch.zeros(1, 2, 3))
    assert torch.equal(prior.loc, torch.zeros(1, 2, 4)) and torch.equal(prior.precision, torch.ones(1, 2, 4))
    assert torch.equal(prior.kl_to_prior(), torch.zeros(1, 2))
    silent = Gaussian(experts.loc, experts.precision * torch.tensor([1.0, 0.0, 1.0])[:, None])
    both, without = torch.ones(1, 2, 3), torch.tensor([1.0, 0.0, 1.0]).expand(1, 2, 3)
    torch.testing.assert_close(product_of_experts(silent, both).loc, product_of_experts(silent, without).loc)


def test_kl_and_draws_agree_with_torch() -> None:
    posterior = Gaussian(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.2)
    reference = kl_divergence(Normal(posterior.loc, posterior.scale), Normal(torch.zeros(()), 1.0)).sum(-1)
    torch.testing.assert_close(posterior.kl_to_prior(), reference)
    noise = torch.randn(5, 3).double()
    torch.testing.assert_close(posterior.rsample(noise), posterior.loc + noise / posterior.precision.sqrt())


def random_gaussian(*shape: int, seed: int = 0) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    return Gaussian(2 * torch.randn(shape, generator=g).double(), torch.rand(shape, generator=g).double() * 4 + 0.2)


def random_mixture(parts: int = 3, rows: int = 5, dim: int = 2, *, convex: bool = False) -> Mixture:
    """Return mixtures of which the first row's lacks a component."""
    log_weight = torch.randn(parts, rows, generator=torch.Generator().manual_seed(2)).double()
    log_weight[0, 0] = -torch.inf
    return Mixture(log_weight.log_softmax(0), random_gaussian(parts, rows, dim), convex=convex)


def torchs(mixture: Mixture) -> MixtureSameFamily:
    loc, scale = mixture.parts.loc.movedim(0, -2), mixture.parts.scale.movedim(0, -2)
    return MixtureSameFamily(Categorical(logits=mixture.log_weight.movedim(0, -1)), Independent(Normal(loc, scale), 1))


def test_kl_to_another_and_densities_agree_with_torch() -> None:
    one, other = random_gaussian(4, 5, 3), random_gaussian(5, 3, seed=1)
    reference = kl_divergence(Normal(one.loc, one.scale), Normal(other.loc, other.scale)).sum(-1)
    torch.testing.assert_close(one.kl_to(other), reference, rtol=1e-12, atol=1e-12)
    prior = Gaussian(torch.zeros(3).double(), torch.ones(3).double())
    torch.testing.assert_close(one.kl_to(prior), one.kl_to_prior(), rtol=1e-12, atol=1e-12)
    assert not one.kl_to(one).any()
    z = torch.randn(4, 5, 3).double()
    torch.testing.assert_close(one.log_prob(z), Normal(one.loc, one.scale).log_prob(z).sum(-1))
    torch.testing.assert_close(log_prior(z), Normal(0, 1).log_prob(z).sum(-1))
    noise = torch.randn(7, 4, 5, 3).double()
    assert torch.equal(one.sample(noise, torch.rand(7, 4, 5)), one.rsample(noise))


def test_without_the_prior_expert_one_factor_is_itself_and_none_is_the_prior() -> None:
    experts = random_gaussian(3, 4, 2)
    given = torch.stack([torch.eye(4)[m].expand(3, 4) for m in range(4)] + [torch.zeros(3, 4)])
    posterior = product_of_experts(experts, given, prior_expert=False)
    for m in range(4):
        torch.testing.assert_close(posterior.loc[m], experts.loc[:, m], rtol=1e-12, atol=1e-12)
        assert torch.equal(posterior.precision[m], experts.precision[:, m])
    assert not posterior.loc[4].any() and torch.equal(posterior.precision[4], torch.ones(3, 2).double())


def test_without_the_prior_expert_a_product_is_proportional_to_its_factors_alone() -> None:
    experts = random_gaussian(3, 4, 2)
    posterior = product_of_experts(experts, torch.ones(1, 3, 4), prior_expert=False)
    z = torch.randn(6, 1, 3, 2).double()
    factors = Normal(experts.loc, experts.scale).log_prob(z.unsqueeze(-2)).sum((-1, -2))
    gap = Normal(posterior.loc, posterior.scale).log_prob(z).sum(-1) - factors
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-9)


def test_a_mixtures_density_agrees_with_torch() -> None:
    mixture = random_mixture()
    z = 2 * torch.randn(7, 5, 2).double()
    torch.testing.assert_close(mixture.log_prob(z), torchs(mixture).log_prob(z), rtol=1e-12, atol=1e-12)
    assert mixture.log_prob(z).isfinite().all()


def test_a_mixtures_draws_have_its_moments() -> None:
    mixture, samples = random_mixture(), 40_000
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(samples, 5, 2, generator=g).double()
    drawn, reference = mixture.sample(noise, torch.rand(samples, 5, generator=g).double()), torchs(mixture)
    error = (reference.variance / samples).sqrt()
    assert ((drawn.mean(0) - reference.mean).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.var(0), reference.variance, rtol=0.06, atol=0)
    # Without noise a draw is its component's mean, as often as the component's weight says.
    means = mixture.sample(torch.zeros_like(noise), torch.rand(samples, 5, generator=g).double())
    which = (means.unsqueeze(1) == mixture.parts.loc).all(-1).double().mean(0)  # (parts, rows)
    weight = mixture.log_weight.exp()
    assert ((which - weight).abs() <= 5 * (weight * (1 - weight) / samples).sqrt()).all() and which[0, 0] == 0


def test_every_choice_in_its_range_picks_a_component_that_is_there() -> None:
    log_weight = torch.tensor([-torch.inf, 0.0, -torch.inf])[:, None]
    mixture = Mixture(log_weight, Gaussian(torch.arange(3.0)[:, None, None], torch.ones(3, 1, 1)))
    choice = torch.tensor([0.0, 0.5, 1 - 2**-24])[:, None]
    assert mixture.sample(torch.zeros(3, 1, 1), choice).flatten().tolist() == [1, 1, 1]


def test_a_mixtures_kl_is_its_parts_average_and_the_convex_one_bounds_it() -> None:
    samples = 20_000
    drawn, bound = random_mixture(), random_mixture(convex=True)
    noise = torch.randn(3, samples, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    z = drawn.parts.loc[:, None] + drawn.parts.scale[:, None] * noise  # (parts, samples, rows, latent)
    log_ratio = torchs(drawn).log_prob(z) - Normal(0, 1).log_prob(z).sum(-1)  # (parts, samples, rows)
    one = drawn.kl_to_prior(z[:, 0])
    torch.testing.assert_close(one, log_ratio[:, 0], rtol=1e-10, atol=1e-10)
    weight = drawn.log_weight.exp()
    kl, error = (weight * log_ratio.mean(1)).sum(0), (weight * log_ratio.std(1)).sum(0) / samples**0.5
    upper = (weight * bound.kl_to_prior(z[:, 0])).sum(0)
    assert (upper > kl - 5 * error).all() and (upper > kl + 5 * error).any()
    # It is above by the information that z has of the component, at most the weights' entropy.
    entropy = Categorical(probs=weight.T).entropy()
    assert (upper - kl < entropy + 5 * error).all()
