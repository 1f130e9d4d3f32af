"""MMVAE: a mixture of experts, with the ELBO or a tighter bound by several samples of each expert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from modalkit.distributions import Gaussian, Mixture, log_prior
from modalkit.model.observed import Observed
from modalkit.objectives.mixtures import MixtureOfProducts, plan_all
from modalkit.plugin import Objective, ObjectiveOptions, Schema


class MmvaeOptions(ObjectiveOptions):
    """Options of the `mmvae` objective."""

    samples: int = Field(1, ge=1, description="Samples of z a step of each modality's expert.")
    bound: Literal["elbo", "iwae", "dreg"] = Field(
        "elbo",
        description="elbo: the mean over the samples; iwae: the log of their mean weight, a tighter bound; dreg: iwae, "
        "with gradients of the encoders that vary less.",
    )


@dataclass(frozen=True)
class ImportanceWeighted(Mixture):
    r"""A mixture whose bound is that of importance weighting, :math:`\sum_k w_k \log \frac1K \sum_s e^{l_{ks}}`.

    Here l are the terms of K draws of each component.

    Attributes:
        doubly: use the doubly reparameterised estimate of the gradient of the posterior's parameters.
    """

    doubly: bool = False

    def kl_to_prior(self, z: Tensor) -> Tensor:
        """Return log q(z) - log p(z) of each sample; if `doubly`, it depends on the posterior through z alone."""
        return self.fixed().log_prob(z) - log_prior(z)

    def fixed(self) -> Mixture:
        """Return the mixture whose density enters the bound: if `doubly`, with constant parameters."""
        if not self.doubly:
            return self
        if isinstance(self.parts, Gaussian):
            parts = Gaussian(self.parts.loc.detach(), self.parts.precision.detach())
            return Mixture(self.log_weight.detach(), parts)
        fixed = replace(self.parts, loc=self.parts.loc.detach(), factors=self.parts.factors.detach())
        return Mixture(self.log_weight.detach(), fixed)

    def again(self, weights: Tensor) -> Tensor:
        """Return what `doubly` multiplies the gradient of z with.

        Args:
            weights: normalised weights of a component's draws, `(draws, components, *batch_shape)`.

        Returns:
            `(draws, components, *batch_shape, latent_dim)`, or what broadcasts to it.
        """
        return weights.unsqueeze(-1)

    def bound(self, each: Tensor, z: Tensor) -> Tensor:
        r"""Return the bound; see `Mixture.bound`.

        The gradient with respect to a decoder is :math:`\sum_s v_s \nabla l_s`, with the normalised weights v of a
        component's draws. If `doubly`, that with respect to the posterior is
        :math:`\sum_s v_s^2 \frac{\partial l_s}{\partial z_s} \nabla z_s`: the gradient of z is weighted once more.

        Source:
            Shi et al. 2019, the IWAE objective of MMVAE; Tucker et al. 2019, the DReG estimate for IWAE.
        """
        if self.doubly and z.requires_grad:
            again = self.again(each.detach().softmax(0)).flatten(0, 2)  # (draws * components * terms, batch, …)
            z.register_hook(lambda gradient: gradient * again)  # type: ignore[no-untyped-call]
        return (self.log_weight.exp() * (each.logsumexp(0) - math.log(len(each)))).sum(0)


class MixtureOfExperts(MixtureOfProducts):
    """A model whose posterior is the mixture of the given modalities' experts.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        options: how many samples, and which bound.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, options: MmvaeOptions) -> None:
        super().__init__(schemas, latent_dim, torch.eye(len(schemas), dtype=torch.bool), convex=False)
        self.draws, self.bound = options.samples, options.bound

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Mixture:
        """Return the mixture of experts; see `MultimodalVAE.posterior`."""
        mixture = super().posterior(observed, present, given)
        assert isinstance(mixture, Mixture)
        if self.bound == "elbo":
            return mixture
        return ImportanceWeighted(mixture.log_weight, mixture.parts, doubly=self.bound == "dreg")


MMVAE = Objective(
    name="mmvae",
    summary="mixture of experts, a stratified sample of each, their mixture's density in the KL (Shi et al. 2019)",
    options=MmvaeOptions,
    plan=plan_all,
    model=lambda options, schemas, latent_dim: MixtureOfExperts(schemas, latent_dim, options),
    correlated_experts=True,
    covariates=True,
)
r"""Shi et al. 2019, the ELBO of MMVAE, or its importance-weighted bound.

:math:`\frac1M \sum_m E_{q(z|x_m)} (\sum_n \log p(x_n|z) - \log q(z|X) / p(z))`, with one sample of each expert, where
:math:`q(z|X) = \frac1M \sum_m q(z|x_m)` is the mixture of the experts that a row has. With K samples and the other
bound, :math:`\frac1M \sum_m E \log \frac1K \sum_k p(z_k) p(X|z_k) / q(z_k|X)`.
"""
