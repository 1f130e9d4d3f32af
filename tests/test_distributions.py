from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from modalkit.distributions import Gaussian, product_of_experts


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
