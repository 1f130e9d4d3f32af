"""mmJSD: a mixture of experts, regularised by the Jensen-Shannon divergence of the experts and the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.distributions import Gaussian, Mixture
from modalkit.model.observed import Observed
from modalkit.objectives.mixtures import MixtureOfProducts, plan_all
from modalkit.plugin import Objective, ObjectiveOptions, Schema


@dataclass(frozen=True)
class RegularisedMixture(Mixture):
    """A mixture for which an objective charges a divergence of its own in place of KL(q || p).

    Attributes:
        divergence: what is charged, `(*batch_shape,)`.
    """

    divergence: Tensor | None = None

    def kl_to_prior(self, z: Tensor) -> Tensor:
        """Return the divergence for each component, `(components, *batch_shape)`; z has no part in it."""
        assert self.divergence is not None
        return self.divergence.expand(len(self.log_weight), *self.divergence.shape)


class MixtureWithDynamicPrior(MixtureOfProducts):
    """A model whose posterior is the mixture of its experts, kept close to their geometric mean with the prior."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim, torch.eye(len(schemas), dtype=torch.bool), convex=False)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> RegularisedMixture:
        """Return the mixture of the given modalities' experts; see `MultimodalVAE.posterior`."""
        mixture = super().posterior(observed, present, given)
        assert isinstance(mixture, Mixture) and isinstance(mixture.parts, Gaussian)
        with torch.autocast(self.device.type, enabled=False):
            divergence = jensen_shannon(mixture.parts, mixture.log_weight.isfinite())
        return RegularisedMixture(mixture.log_weight, mixture.parts, divergence=divergence)


def jensen_shannon(experts: Gaussian, there: Tensor) -> Tensor:
    r"""Return the Jensen-Shannon divergence, of geometric mean, of some experts and the prior p = N(0, I).

    .. math::
        \frac{1}{M + 1} \left(KL(p \| f) + \sum_m KL(q_m \| f)\right)
        \qquad f(z) \propto \left(p(z) \prod_m q_m(z)\right)^{1 / (M + 1)}

    f has the mean of the product of experts with the prior expert, and M + 1 times its variance.

    Args:
        experts: the Gaussians, `(experts, *batch_shape, latent_dim)`.
        there: the M of them that count, bool `(experts, *batch_shape)`.

    Returns:
        `(*batch_shape,)`.

    Source:
        Sutter et al. 2020, the multimodal Jensen-Shannon divergence with a dynamic prior, with equal weights.

    Example:
        >>> alike = Gaussian(torch.zeros(2, 1, 3), torch.ones(2, 1, 3))
        >>> jensen_shannon(alike, torch.ones(2, 1, dtype=torch.bool)).item()
        0.0
    """
    counted = there.unsqueeze(-1)  # (experts, *batch_shape, 1)
    precision = torch.where(counted, experts.precision, 0)
    total = 1 + precision.sum(0)  # (*batch_shape, latent_dim)
    count = 1 + there.sum(0).to(total)  # (*batch_shape,)
    mean = Gaussian((precision * experts.loc).sum(0) / total, total / count.unsqueeze(-1))
    prior = Gaussian(torch.zeros_like(mean.loc), torch.ones_like(mean.loc))
    apart = torch.where(there, experts.kl_to(mean), 0).sum(0)
    return (apart + prior.kl_to(mean)) / count


MMJSD = Objective(
    name="mmjsd",
    summary="mixture of experts, Jensen-Shannon divergence of experts and prior (Sutter et al. 2020)",
    options=ObjectiveOptions,
    plan=plan_all,
    model=lambda options, schemas, latent_dim: MixtureWithDynamicPrior(schemas, latent_dim),
)
r"""Sutter et al. 2020, the objective of mmJSD.

:math:`\frac1M \sum_m E_{q(z|x_m)} \sum_n \log p(x_n|z) - \beta JS(p, q(z|x_1), \dots, q(z|x_M))`, with one sample of
each expert, over the M modalities that a row has; see `jensen_shannon`.
"""
