"""Mixtures of products of experts, and MoPoE, which mixes the products of all subsets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modalkit.distributions import Mixture, Posterior
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema

_MOST_COMPONENTS = 255


class MixtureOfProducts(MultimodalVAE):
    r"""A model with :math:`q(z|X) = \frac1K \sum_{S \in C, S \subseteq X} q_S(z)`, each part a product of experts.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        subsets: the collection C, bool `(components, modalities)`.
        convex: see `modalkit.distributions.Mixture`.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, subsets: Tensor, *, convex: bool) -> None:
        super().__init__(schemas, latent_dim, prior_expert=False)
        self.subsets, self.components, self.convex = subsets, len(subsets), convex

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Posterior:
        """Return the mixture of the parts whose modalities are all given; see `MultimodalVAE.posterior`."""
        factors, log_weight = equal_parts(self.subsets, given, self.dtype)
        # (components, terms, batch, modalities) -> (components * terms, batch, modalities)
        parts = self.products(observed, present, factors.flatten(0, 1)).unflatten(factors.shape[:2])
        return Mixture(log_weight.to(parts.loc), parts, convex=self.convex)


def equal_parts(subsets: Tensor, given: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the parts of mixtures whose modalities are all given, with equal weights.

    Args:
        subsets: the modalities of each part, bool `(components, modalities)`.
        given: bool `(terms, batch, modalities)`.
        dtype: of the weights.

    Returns:
        Which experts enter each part, bool `(components, terms, batch, modalities)`, and the log-weights, `(components,
        terms, batch)`. Given nothing, the first part has no experts and all of the weight.
    """
    members = subsets[:, None, None]  # (components, 1, 1, modalities)
    there = (given | ~members).all(-1)  # (components, terms, batch)
    there[0] |= ~given.any(-1)
    log_weight = torch.where(there, -there.sum(0).to(dtype).log(), -torch.inf)
    return members & given & there.unsqueeze(-1), log_weight


def plan_all(options: ObjectiveOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    """Return one term: the posterior given all that a row has explains all that it has."""
    return Plan(("all",), present[None], present[None])


def all_subsets(modalities: int) -> Tensor:
    """Return every non-empty subset, bool `(2^modalities - 1, modalities)`."""
    codes = torch.arange(1, 2**modalities)
    return (codes[:, None] >> torch.arange(modalities)) & 1 == 1


def check_mopoe(options: ObjectiveOptions, names: tuple[str, ...]) -> None:
    """Refuse more modalities than whose subsets can be decoded."""
    if 2 ** len(names) - 1 > _MOST_COMPONENTS:
        raise ValueError(
            f"mopoe decodes a sample of each of the 2^{len(names)} - 1 subsets; use mvae or mmvae above 8 modalities"
        )


MOPOE = Objective(
    name="mopoe",
    summary="mixture of the products of all subsets' experts (Sutter et al. 2021)",
    options=ObjectiveOptions,
    plan=plan_all,
    check=check_mopoe,
    model=lambda options, schemas, latent_dim: MixtureOfProducts(
        schemas, latent_dim, all_subsets(len(schemas)), convex=True
    ),
    correlated_experts=True,
    covariates=True,
)
r"""Sutter et al. 2021, the objective of MoPoE.

:math:`E_{q(z|X)} \sum_n \log p(x_n|z) - KL(q(z|X) \| p(z))`, where q is the mixture of all non-empty subsets' products.
KL is convex, so the mean of the parts' KLs bounds it from above.
"""
