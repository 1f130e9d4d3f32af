"""MMVAE+: a shared latent whose posterior is a mixture of experts, and a private latent for each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalkit.distributions import Gaussian, Mixture, Posterior, log_prior
from modalkit.model.observed import Observed
from modalkit.model.private import PrivateVAE
from modalkit.nn.precise import bounded_log
from modalkit.objectives.dmvae import check_private
from modalkit.objectives.mixtures import equal_parts
from modalkit.objectives.mmvae import ImportanceWeighted, MmvaeOptions
from modalkit.plugin import Draws, Objective, Plan, Schema


@dataclass(frozen=True)
class PrivateMixture(ImportanceWeighted):
    r"""A mixture over z and private latents, which charges for what was inferred of a row alone.

    The divergence of a sample of component k is :math:`\log q(z) / p(z) + \sum_m \log q_k(w_m) / p(w_m)`. Here q(z) is
    the mixture of the components, and the sum is over the private latents that component k has inferred. The others
    are noise from an auxiliary prior, for which nothing is charged.

    Attributes:
        inferred: which private dimensions each component has inferred, bool `(components, *batch_shape, private
            dimensions)`.
        weighted: whether the bound is that of importance weighting, or else the ELBO.
    """

    inferred: Tensor | None = None
    weighted: bool = False

    def kl_to_prior(self, z: Tensor) -> Tensor:
        """Return the divergence of each sample, `(draws, components, *batch_shape)`; see the class."""
        fixed = self.fixed()
        assert isinstance(fixed.parts, Gaussian) and self.inferred is not None
        loc, precision = fixed.parts.loc, fixed.parts.precision
        first = z.shape[-1] - self.inferred.shape[-1]
        shared = Mixture(fixed.log_weight, Gaussian(loc[..., :first], precision[..., :first]))
        of_z = shared.log_prob(z[..., :first]) - log_prior(z[..., :first])
        # Each dimension as a Gaussian of its own; the constants of the two densities cancel.
        w, loc, precision = z[..., first:], loc[..., first:], precision[..., first:]
        of_w = 0.5 * (precision.log() - precision * (w - loc).square() + w.square())
        return of_z + torch.where(self.inferred, of_w, 0).sum(-1)

    def again(self, weights: Tensor) -> Tensor:
        """Return the weights for what was inferred, and 1 for noise from an auxiliary prior, which has no density."""
        assert self.inferred is not None
        always = torch.ones_like(self.parts.loc, dtype=torch.bool)[..., self.inferred.shape[-1] :]  # for z
        inferred = torch.cat([always, self.inferred], -1)  # (components, *batch_shape, latent_dim)
        return torch.where(inferred, weights.unsqueeze(-1), 1)

    def bound(self, each: Tensor, z: Tensor) -> Tensor:
        """Return the bound that was chosen; see `Mixture.bound`."""
        return super().bound(each, z) if self.weighted else Mixture.bound(self, each, z)


class PrivateMixtureOfExperts(PrivateVAE):
    r"""A model whose posterior is a mixture of experts of the shared latent z, with private latents beside them.

    Given some modalities, :math:`q(z, w|x_S) = \frac1{|S|} \sum_{m \in S} q(z|x_m) \prod_n q(w_n)`. Here
    :math:`q(w_n) = q(w_n|x_n)` if n is given, and otherwise the prior. Terms of the objective infer only w_m in
    component m, and take each other w_n from an auxiliary prior :math:`r_n(w_n) = N(0, s_n^2)`, whose scales are
    learned. So z has to carry what other modalities share with m.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        options: how many samples, and which bound.

    Attributes:
        log_scale: log of s, `(private dimensions,)`; 0 before training.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, options: MmvaeOptions) -> None:
        super().__init__(schemas, latent_dim, prior_expert=False)
        self.components, self.draws, self.bound_name = len(schemas), options.samples, options.bound
        self.subsets = torch.eye(len(schemas), dtype=torch.bool)
        self.log_scale = nn.Parameter(torch.zeros(len(self.owner)))

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Posterior:
        """Return the mixture, with the private latents of all that is given; see `MultimodalVAE.posterior`."""
        return self._mixture(observed, present, given, given, None)

    def posterior_of_terms(
        self, observed: Observed, present: Tensor, given: Tensor, private: Tensor | None
    ) -> Posterior:
        """Return the mixture with the auxiliary priors; each component also infers the private latents of `private`."""
        return self._mixture(observed, present, given, private, (-2 * bounded_log(self.log_scale)).exp())

    def _mixture(
        self, observed: Observed, present: Tensor, given: Tensor, private: Tensor | None, elsewhere: Tensor | None
    ) -> PrivateMixture:
        """Return the mixture; see `PrivateVAE.products`."""
        factors, log_weight = equal_parts(self.subsets, given, self.dtype)
        inferred = factors if private is None else factors | private
        # (components, terms, batch, modalities) -> (components * terms, batch, modalities)
        parts = self.products(observed, present, factors.flatten(0, 1), inferred.flatten(0, 1), elsewhere)
        return PrivateMixture(
            log_weight.to(parts.loc),
            parts.unflatten(factors.shape[:2]),
            doubly=self.bound_name == "dreg",
            inferred=inferred[..., self.owner].to(self.device, non_blocking=True),
            weighted=self.bound_name != "elbo",
        )


def plan_mmvae_plus(options: MmvaeOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the one term of MMVAE+ over the M modalities that a row has.

    .. math::
        \frac1M \sum_m E \left(\log p(x_m|z, w_m) + \sum_{n \ne m} \log p(x_n|z, \tilde w_n)
        - \log \frac{q(z|X)\, q(w_m|x_m)}{p(z)\, p(w_m)}\right)

    The expectation is over :math:`q(z|x_m)`, :math:`q(w_m|x_m)` and :math:`r_n(\tilde w_n)`, with one sample each,
    where :math:`q(z|X) = \frac1M \sum_m q(z|x_m)`. With K samples and another bound, it is the logarithm of the mean of
    K such weights, as in `mmvae`.

    Source:
        Palumbo et al. 2023, the objective of MMVAE+ and its importance-weighted form.
    """
    return Plan(("all",), present[None], present[None], private=torch.zeros_like(present)[None])


MMVAE_PLUS = Objective(
    name="mmvae-plus",
    summary="mmvae with a private latent for each modality, sampled anew for all others (Palumbo et al. 2023)",
    options=MmvaeOptions,
    plan=plan_mmvae_plus,
    check=check_private,
    model=lambda options, schemas, latent_dim: PrivateMixtureOfExperts(schemas, latent_dim, options),
    covariates=True,
    private=True,
)
