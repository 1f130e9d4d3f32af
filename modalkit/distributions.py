"""Diagonal Gaussians, their products, mixtures and KL divergences; Bernoulli distributions of pictures and bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from modalkit.nn.fast import bernoulli_log_prob

__all__ = [
    "Bernoullis",
    "Gaussian",
    "Mixture",
    "Posterior",
    "inverse_softplus",
    "log_prior",
    "product_of_experts",
]


class Bernoullis(Independent):  # type: ignore[type-arg]  # not generic in every torch
    """Independent Bernoulli distributions with log-probability `x log p + (1 - x) log(1 - p)` for any x in [0, 1].

    Args:
        logits: of p, `(*batch_shape, *event_shape)`.
        event_dims: number of dimensions of an event.
    """

    def __init__(self, logits: Tensor, event_dims: int) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), event_dims, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number per event."""
        return bernoulli_log_prob(self.base_dist.logits, value, len(self.event_shape))


@dataclass(frozen=True)
class Gaussian:
    r"""A diagonal Gaussian :math:`N(loc, 1 / precision)`, in the parameters in which products are simple.

    Attributes:
        loc: mean, `(*batch_shape, latent_dim)`.
        precision: inverse variance, above 0, same shape.
    """

    loc: Tensor
    precision: Tensor

    @property
    def scale(self) -> Tensor:
        """Standard deviation, `(*batch_shape, latent_dim)`."""
        return self.precision.rsqrt()

    def rsample(self, noise: Tensor) -> Tensor:
        r"""Return the reparameterised sample :math:`loc + scale \cdot noise`.

        Args:
            noise: standard normal, broadcastable to `(*batch_shape, latent_dim)`.
        """
        return self.loc + self.scale * noise

    def sample(self, noise: Tensor, choice: Tensor) -> Tensor:
        """Return `rsample` of the noise; only a `Mixture` uses `choice`."""
        return self.rsample(noise)

    def kl_to_prior(self) -> Tensor:
        r"""Return :math:`KL(N(loc, 1/T) \| N(0, I)) = \frac12 \sum (loc^2 + 1/T - 1 + \log T)`, `(*batch_shape,)`.

        Example:
            >>> Gaussian(torch.zeros(3), torch.ones(3)).kl_to_prior().item()
            0.0
        """
        return 0.5 * (self.loc.square() + self.precision.reciprocal() - 1 + self.precision.log()).sum(-1)

    def kl_to(self, other: Gaussian) -> Tensor:
        r"""Return :math:`KL(N(\mu, 1/T) \| N(\nu, 1/S)) = \frac12 \sum (S (\mu - \nu)^2 + S/T - 1 + \log T/S)`.

        Args:
            other: with a `batch_shape` that broadcasts with this one's.

        Returns:
            `(*batch_shape,)`.
        """
        ratio = other.precision / self.precision
        return 0.5 * (other.precision * (self.loc - other.loc).square() + ratio - 1 - ratio.log()).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density at `z`, broadcast with `(*batch_shape, latent_dim)`, without the last dimension."""
        square = self.precision * (z - self.loc).square()
        return -0.5 * (square - self.precision.log() + math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class Mixture:
    r"""A mixture of diagonal Gaussians, :math:`q(z) = \sum_k w_k N(z; loc_k, 1 / precision_k)`.

    Attributes:
        log_weight: log of the weights, `(components, *batch_shape)`; minus infinity leaves a component out. The weights
            add up to 1.
        parts: the components, `(components, *batch_shape, latent_dim)`.
        convex: use the upper bound :math:`\sum_k w_k KL(q_k \| p)` for KL(q || p), which needs no samples.
    """

    log_weight: Tensor
    parts: Gaussian
    convex: bool = False

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density at `z`, broadcast with `(*batch_shape, latent_dim)`, without the last dimension."""
        parts = zip(self.log_weight, self.parts.loc, self.parts.precision, strict=True)
        return torch.stack([w + Gaussian(loc, t).log_prob(z) for w, loc, t in parts]).logsumexp(0)

    def kl_to_prior(self, z: Tensor) -> Tensor:
        r"""Return the terms of :math:`KL(q \| p) = \sum_k w_k E_{q_k} \log q(z) / p(z)`, without their weights.

        Args:
            z: a sample of each component, `(components, *batch_shape, latent_dim)`; it estimates the expectation.

        Returns:
            `(components, *batch_shape)`.
        """
        return self.parts.kl_to_prior() if self.convex else self.log_prob(z) - log_prior(z)

    def sample(self, noise: Tensor, choice: Tensor) -> Tensor:
        """Sample from the mixture.

        Args:
            noise: standard normal, `(samples, *batch_shape, latent_dim)`.
            choice: uniform in [0, 1), `(samples, *batch_shape)`; selects the components.

        Returns:
            `(samples, *batch_shape, latent_dim)`.
        """
        upper = self.log_weight.exp().cumsum(0)  # (components, *batch_shape)
        index = (choice.unsqueeze(1) * upper[-1] >= upper).sum(1).clamp(max=len(upper) - 1)  # (samples, *batch_shape)
        index = index.unsqueeze(-1).expand(noise.shape)
        return Gaussian(self.parts.loc.gather(0, index), self.parts.precision.gather(0, index)).rsample(noise)


Posterior = Gaussian | Mixture
"""What a posterior q(z|x) may be."""


def inverse_softplus(value: Tensor) -> Tensor:
    """Return x with `log(1 + exp(x)) = value`, for positive values.

    >>> torch.nn.functional.softplus(inverse_softplus(torch.tensor([0.01, 1.0, 100.0])))
    tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """
    return value + (-value).expm1().neg().log()


def log_prior(z: Tensor) -> Tensor:
    """Return log p(z) of the prior N(0, I), `(..., latent_dim) -> (...)`."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def product_of_experts(experts: Gaussian, given: Tensor, *, prior_expert: bool = True) -> Gaussian:
    r"""Return the posteriors :math:`q(z|X) \propto p(z) \prod_{m \in X} q(z|x_m)` for many subsets at once.

    A product of Gaussians has precision :math:`T = 1 + \sum_m T_m` and mean :math:`\sum_m T_m \mu_m / T`; the 1
    is the prior expert :math:`N(0, I)`. If nothing is given, the posterior is the prior.

    Args:
        experts: one expert per row and modality, `(batch, modalities, latent_dim)`; a precision of 0 means absent.
        given: which experts enter each product, 0 or 1, `(terms, batch, modalities)`.
        prior_expert: whether the prior is a factor of every product. Otherwise it is the posterior only if nothing is
            given, and the posterior given one modality is its expert.

    Returns:
        The posteriors, `(terms, batch, latent_dim)`.

    Source:
        Wu & Goodman 2018, equation 3 and section 2.3.

    Example:
        >>> experts = Gaussian(torch.full((1, 2, 1), 3.0), torch.ones(1, 2, 1))
        >>> posterior = product_of_experts(experts, torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]))
        >>> posterior.loc.flatten().tolist(), posterior.precision.flatten().tolist()
        ([2.0, 0.0], [3.0, 1.0])
    """
    given = given.to(experts.precision)
    prior = 1.0 if prior_expert else 1 - given.amax(-1, keepdim=True)
    precision = prior + torch.einsum("tbm,bml->tbl", given, experts.precision)
    weighted = torch.einsum("tbm,bml->tbl", given, experts.precision * experts.loc)
    return Gaussian(weighted / precision, precision)
