"""MMVM: a latent for each modality, kept close to those of the others by a prior that depends on the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from modalkit.distributions import Posterior
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.objectives.mixtures import MixtureOfProducts
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema


class MmvmOptions(ObjectiveOptions):
    """Options of the `mmvm` objective."""

    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="What a posterior is kept close to: the other modalities' posteriors (0), N(0, I) (1), or between.",
    )
    alpha_epochs: int = Field(0, ge=0, description="Epochs over which alpha falls from 1 to its value.")
    posterior: Literal["mixture", "product"] = Field(
        "mixture",
        description="Posterior given several modalities, which no term trains: a mixture of experts, or a product.",
    )


class ExpertOrMixture(MixtureOfProducts):
    """A model whose posterior is an expert given one modality, and the mixture of experts given several."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim, torch.eye(len(schemas), dtype=torch.bool), convex=False)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Posterior:
        """Return q(z|X), as Gaussians if no subset has two modalities; see `MultimodalVAE.posterior`."""
        if bool((given.sum(-1) > 1).any()):
            return super().posterior(observed, present, given)
        return self.products(observed, present, given)


def plan_mmvm(options: MmvmOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return a term for each modality m: its own posterior explains it, and is kept close to all n that are present.

    .. math::
        E_{q(z|x_m)} \lambda_m \log p(x_m|z) - \beta \left(\alpha KL(q(z|x_m) \| p(z))
        + \frac{1 - \alpha}{M} \sum_n KL(q(z|x_m) \| q(z|x_n))\right)

    M is the number of modalities that the row has, m itself included. With alpha 0, the sum of KLs is an upper bound
    of the KL to the mixture of the row's experts, because KL is convex in its second argument.

    Source:
        Sutter et al. 2024, the objective of MMVM; the bound by pairs is that of their released code.
    """
    given = torch.eye(len(names), dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    alpha = _alpha(options, draws.epoch)
    count = present.sum(-1).clamp(min=1).to(torch.get_default_dtype())  # (batch,)
    share = present * ((1 - alpha) / count)[:, None]  # (batch, modalities)
    return Plan(
        tuple(f"only:{name}" for name in names),
        given,
        given,
        kl_weight=torch.full(given.shape[:2], alpha),  # (modalities, batch)
        references=given.any(-1, keepdim=True) * share,  # (modalities, batch, modalities)
    )


def _alpha(options: MmvmOptions, epoch: int | None) -> float:
    """Return alpha of an epoch; of validation, its value after the fall."""
    if epoch is None or epoch >= options.alpha_epochs:
        return options.alpha
    return 1 - (1 - options.alpha) * epoch / options.alpha_epochs


def check_mmvm(options: MmvmOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("mmvm takes two modalities or more; for one, choose vae")


def model_of(options: MmvmOptions, schemas: Mapping[str, Schema], latent_dim: int) -> MultimodalVAE:
    """Return the model with the posterior that the options choose."""
    if options.posterior == "product":
        return MultimodalVAE(schemas, latent_dim, prior_expert=False)
    return ExpertOrMixture(schemas, latent_dim)


MMVM = Objective(
    name="mmvm",
    summary="a latent a modality, each kept close to those of the others (Sutter et al. 2024)",
    options=MmvmOptions,
    plan=plan_mmvm,
    check=check_mmvm,
    model=model_of,
    correlated_experts=True,
)
