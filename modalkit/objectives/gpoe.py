"""The MVAE with a weighted product of experts: a learned weight for each modality and latent dimension."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modalkit.distributions import Gaussian
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.precise import bounded_log
from modalkit.objectives.mvae import MvaeOptions, check_mvae, plan_mvae
from modalkit.plugin import Objective, Schema


class WeightedExperts(MultimodalVAE):
    r"""A model with :math:`q(z_d|X) \propto \prod_{m \in X} q(z_d|x_m)^{a_{md}}` in each latent dimension d.

    The weights a of the given modalities add up to 1: :math:`a_{md} \propto e^{w_{md}}`, with w learned.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.

    Attributes:
        expert_weights: w, `(modalities, latent_dim)`; 0 before training.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim, prior_expert=False)
        self.expert_weights = nn.Parameter(torch.zeros(len(schemas), latent_dim))

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Gaussian:
        """Return the weighted product; see `MultimodalVAE.posterior`."""
        experts = self.experts(observed, present)
        with torch.autocast(self.device.type, enabled=False):
            return weighted_product(experts, given.to(self.device, non_blocking=True), self.expert_weights)


def weighted_product(experts: Gaussian, given: Tensor, log_weight: Tensor) -> Gaussian:
    r"""Return products of experts with weights that add up to 1 over the modalities of each subset.

    The precision is :math:`T = \sum_m a_m T_m` and the mean :math:`\sum_m a_m T_m \mu_m / T`, in each latent dimension.
    If nothing is given, the posterior is the prior.

    Args:
        experts: one expert per row and modality, `(batch, modalities, latent_dim)`; a precision of 0 means absent.
        given: which experts enter each product, 0 or 1, `(terms, batch, modalities)`.
        log_weight: w, with :math:`a_m \propto e^{w_m}`, `(modalities, latent_dim)`; bounded by `bounded_log`.

    Returns:
        The posteriors, `(terms, batch, latent_dim)`.

    Source:
        Cao & Fleet 2014, the generalised product of experts.

    Example:
        >>> experts = Gaussian(torch.tensor([[[0.0], [4.0]]]), torch.ones(1, 2, 1))
        >>> made = weighted_product(experts, torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]), torch.zeros(2, 1))
        >>> made.loc.flatten().tolist(), made.precision.flatten().tolist()
        ([2.0, 4.0], [1.0, 1.0])
    """
    given = given.to(experts.precision)
    bounded = bounded_log(log_weight)
    share = (bounded - bounded.amax(0)).exp()  # (modalities, latent_dim), 1 for the largest
    nothing = 1 - given.amax(-1, keepdim=True)  # (terms, batch, 1)
    total = nothing + torch.einsum("tbm,ml->tbl", given, share)
    precision = nothing + torch.einsum("tbm,bml->tbl", given, share * experts.precision)
    weighted = torch.einsum("tbm,bml->tbl", given, share * experts.precision * experts.loc)
    return Gaussian(weighted / precision, precision / total)


GPOE = Objective(
    name="gpoe",
    summary="mvae whose product has a learned weight for each expert and latent dimension (Cao & Fleet 2014)",
    options=MvaeOptions,
    plan=plan_mvae,
    check=check_mvae,
    model=lambda options, schemas, latent_dim: WeightedExperts(schemas, latent_dim),
)
