"""Gaussians, their products, mixtures and KL divergences; Bernoulli distributions of pictures and bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from modalkit.nn.fast import bernoulli_log_prob
from modalkit.nn.patterns import Patterns

__all__ = [
    "Bernoullis",
    "CorrelatedGaussian",
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

    @property
    def variance(self) -> Tensor:
        """Variance, `(*batch_shape, latent_dim)`."""
        return self.precision.reciprocal()

    def __getitem__(self, index: int | slice) -> Gaussian:
        """Return a part of the first batch dimension."""
        return Gaussian(self.loc[index], self.precision[index])

    def unflatten(self, shape: tuple[int, ...]) -> Gaussian:
        """Return the same Gaussians with the first batch dimension expanded to `shape`."""
        return Gaussian(torch.unflatten(self.loc, 0, shape), torch.unflatten(self.precision, 0, shape))

    def pick(self, index: Tensor) -> Gaussian:
        """Return one of several Gaussians for each sample.

        Args:
            index: index of the first batch dimension, int64 `(samples, *batch_shape[1:])`.
        """
        index = index.unsqueeze(-1).expand(*index.shape, self.loc.shape[-1])
        return Gaussian(self.loc.gather(0, index), self.precision.gather(0, index))

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
class CorrelatedGaussian:
    r"""A Gaussian :math:`N(loc, \Lambda^{-1})` with any precision matrix, of which many rows share a few.

    It has the methods of `Gaussian`. Each distinct matrix is factorised once. It has no `precision`: `variance` and
    `scale` describe each dimension alone, and `factors` the matrices.

    Attributes:
        loc: mean, `(*batch_shape, latent_dim)`.
        factors: Cholesky factors L of the distinct precision matrices, :math:`\Lambda = L L^\top`, lower triangular,
            `(patterns, latent_dim, latent_dim)`.
        inverses: their inverses, the same shape.
        pattern: which of the matrices each row has, `(*batch_shape,)`.
    """

    loc: Tensor
    factors: Tensor
    inverses: Tensor
    pattern: Patterns

    @classmethod
    def from_natural(cls, weighted: Tensor, precision: Tensor, pattern: Patterns) -> CorrelatedGaussian:
        r"""Return the Gaussians whose log-densities are :math:`\eta^\top z - \frac12 z^\top \Lambda z` + const.

        Args:
            weighted: :math:`\eta = \Lambda \mu`, `(*batch_shape, latent_dim)`.
            precision: the distinct :math:`\Lambda`, symmetric and positive definite, `(patterns, latent_dim,
                latent_dim)`. A matrix that is not gives NaN.
            pattern: which of the matrices each row has.

        Example:
            >>> one = Patterns(torch.zeros(1, dtype=torch.long))
            >>> made = CorrelatedGaussian.from_natural(torch.ones(1, 2), torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), one)
            >>> made.loc.tolist(), made.variance.tolist()
            ([[0.3333..., 0.3333...]], [[0.6666..., 0.6666...]])
        """
        factors, failed = torch.linalg.cholesky_ex(precision)
        factors = factors.masked_fill((failed > 0)[:, None, None], math.nan)
        eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        inverses = torch.linalg.solve_triangular(factors, eye.expand_as(factors), upper=False)
        loc = pattern.multiply(pattern.multiply(weighted, inverses.mT), inverses)
        return cls(loc, factors, inverses, pattern)

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, over the values of all others, `(*batch_shape, latent_dim)`."""
        return self.pattern.gather(self.inverses.square().sum(-2))

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each dimension, over the values of all others, `(*batch_shape, latent_dim)`."""
        return self.variance.sqrt()

    def __getitem__(self, index: int | slice) -> CorrelatedGaussian:
        """Return a part of the first batch dimension."""
        return replace(self, loc=self.loc[index], pattern=Patterns(self.pattern.index[index]))

    def unflatten(self, shape: tuple[int, ...]) -> CorrelatedGaussian:
        """Return the same Gaussians with the first batch dimension expanded to `shape`."""
        index = torch.unflatten(self.pattern.index, 0, shape)
        return replace(self, loc=torch.unflatten(self.loc, 0, shape), pattern=Patterns(index))

    def pick(self, index: Tensor) -> CorrelatedGaussian:
        """Return one of several Gaussians for each sample; see `Gaussian.pick`."""
        pattern = self.pattern.index.gather(0, index.cpu())
        loc = self.loc.gather(0, index.unsqueeze(-1).expand(*index.shape, self.loc.shape[-1]))
        return replace(self, loc=loc, pattern=Patterns(pattern))

    def rsample(self, noise: Tensor) -> Tensor:
        r"""Return the reparameterised sample :math:`loc + L^{-\top} noise`.

        Args:
            noise: standard normal, broadcastable to `(*samples, *batch_shape, latent_dim)`.
        """
        return self.loc + self.pattern.multiply(noise, self.inverses)

    def sample(self, noise: Tensor, choice: Tensor) -> Tensor:
        """Return `rsample` of the noise; only a `Mixture` uses `choice`."""
        return self.rsample(noise)

    def kl_to_prior(self) -> Tensor:
        r"""Return :math:`KL(N(loc, \Lambda^{-1}) \| N(0, I))`, `(*batch_shape,)`.

        It is :math:`\frac12 (|loc|^2 + tr \Lambda^{-1} - n + \log \det \Lambda)` for n latent dimensions.
        """
        trace = self.inverses.square().sum((-2, -1))
        return 0.5 * (self.loc.square().sum(-1) + self.pattern.gather(trace - self.loc.shape[-1] + self._log_det()))

    def kl_to(self, other: CorrelatedGaussian) -> Tensor:
        r"""Return :math:`KL(N(\mu, \Lambda^{-1}) \| N(\nu, S^{-1}))`.

        It is :math:`\frac12 ((\mu - \nu)^\top S (\mu - \nu) + tr(S \Lambda^{-1}) - n + \log \det \Lambda
        - \log \det S)`.

        Args:
            other: with a `batch_shape` that broadcasts with this one's.

        Returns:
            `(*batch_shape,)`.
        """
        square = other.pattern.multiply(self.loc - other.loc, other.factors).square().sum(-1)
        both = self.pattern.index * len(other.factors) + other.pattern.index
        pairs, which = torch.unique(both, return_inverse=True)
        one, two = (part.to(self.loc.device) for part in (pairs // len(other.factors), pairs % len(other.factors)))
        trace = (self.inverses[one] @ other.factors[two]).square().sum((-2, -1))  # (pairs,)
        rest = trace - self.loc.shape[-1] + self._log_det()[one] - other._log_det()[two]
        return 0.5 * (square + Patterns(which).gather(rest))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density at `z`, broadcast with `(*batch_shape, latent_dim)`, without the last dimension."""
        square = self.pattern.multiply(z - self.loc, self.factors).square().sum(-1)
        constant = self.loc.shape[-1] * math.log(2 * math.pi)
        return -0.5 * (square - self.pattern.gather(self._log_det()) + constant)

    def _log_det(self) -> Tensor:
        """Return the log-determinants of the distinct precision matrices, `(patterns,)`."""
        return 2 * self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True)
class Mixture:
    r"""A mixture of Gaussians, :math:`q(z) = \sum_k w_k q_k(z)`.

    Attributes:
        log_weight: log of the weights, `(components, *batch_shape)`; minus infinity leaves a component out. The weights
            add up to 1.
        parts: the components, `(components, *batch_shape, latent_dim)`.
        convex: use the upper bound :math:`\sum_k w_k KL(q_k \| p)` for KL(q || p), which needs no samples.
    """

    log_weight: Tensor
    parts: Gaussian | CorrelatedGaussian
    convex: bool = False

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density at `z`, broadcast with `(*batch_shape, latent_dim)`, without the last dimension."""
        return torch.stack([w + self.parts[k].log_prob(z) for k, w in enumerate(self.log_weight)]).logsumexp(0)

    def kl_to_prior(self, z: Tensor) -> Tensor:
        r"""Return the terms of :math:`KL(q \| p) = \sum_k w_k E_{q_k} \log q(z) / p(z)`, without their weights.

        Args:
            z: samples of each component, `(draws, components, *batch_shape, latent_dim)`; they estimate the
                expectation. The first dimension may be absent.

        Returns:
            `(draws, components, *batch_shape)`, or what broadcasts to it.
        """
        return self.parts.kl_to_prior() if self.convex else self.log_prob(z) - log_prior(z)

    def bound(self, each: Tensor, z: Tensor) -> Tensor:
        r"""Return a lower bound of the evidence from the terms of each sample: here their mean, the ELBO.

        Args:
            each: log-likelihoods minus the divergence of each sample, `(draws, components, *batch_shape)`.
            z: the samples, `(draws * components * terms, batch, latent_dim)`, through which all gradients to the
                posterior's parameters pass but those of the divergence.

        Returns:
            `(*batch_shape,)`.
        """
        return (self.log_weight.exp() * each.mean(0)).sum(0)

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
        return self.parts.pick(index).rsample(noise)


Posterior = Gaussian | CorrelatedGaussian | Mixture
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
