"""Posteriors given one modality: the VAE of a single modality, and BiVCCA of several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema


class OwnPosteriors(MultimodalVAE):
    """A model with posteriors given one modality (its expert) or given none (the prior), but not given several."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim, prior_expert=False)

    def allows(self, given: Tensor) -> Tensor:
        """Allow at most one modality."""
        return given.sum(-1) <= 1


def plan_vae(options: ObjectiveOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the one term :math:`E_{q(z|x)} \lambda \log p(x|z) - \beta KL(q(z|x) \| p(z))`.

    Source:
        Kingma & Welling 2013, equation 3; Wu & Goodman 2018, equation 1.
    """
    return Plan(("all",), present[None], present[None])


def check_vae(options: ObjectiveOptions, names: tuple[str, ...]) -> None:
    """Refuse more than one modality."""
    if len(names) != 1:
        raise ValueError(
            f"vae takes one modality, and this recipe has {len(names)} ({', '.join(names)}); "
            f"remove the others (`{names[-1]}: null`), or choose an objective for several, such as mvae"
        )


class BivccaOptions(ObjectiveOptions):
    """Options of the `bivcca` objective."""

    mu: float = Field(
        0.5, ge=0, le=1, description="Weight of the first modality's term; the others share the rest equally."
    )


def plan_bivcca(options: BivccaOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return a term for each modality: its own posterior must explain all modalities that are present.

    With two modalities it is :math:`\mu ELBO_x + (1 - \mu) ELBO_y`, where :math:`ELBO_x = E_{q(z|x)} (\lambda_x \log
    p(x|z) + \lambda_y \log p(y|z)) - \beta KL(q(z|x) \| p(z))`. A row takes part in the terms of the modalities
    that it has, with their weights.

    Source:
        Wang et al. 2016, the objective of bi-VCCA; extended to more than two modalities with weights that add up to
        1.
    """
    given = torch.eye(len(names), dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    weights = torch.tensor([options.mu, *[(1 - options.mu) / max(1, len(names) - 1)] * (len(names) - 1)])
    weight = weights[:, None].expand(-1, len(present))  # (modalities, batch)
    return Plan(tuple(f"from:{n}" for n in names), given, present & given.any(-1, keepdim=True), weight)


def check_bivcca(options: BivccaOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("bivcca takes two modalities or more; for one, choose vae")


VAE = Objective(
    name="vae",
    summary="one modality's variational autoencoder (Kingma & Welling 2013)",
    options=ObjectiveOptions,
    plan=plan_vae,
    check=check_vae,
    model=lambda options, schemas, latent_dim: OwnPosteriors(schemas, latent_dim),
    correlated_experts=True,
    covariates=True,
)
BIVCCA = Objective(
    name="bivcca",
    summary="each modality's own posterior explains all of them (Wang et al. 2016)",
    options=BivccaOptions,
    plan=plan_bivcca,
    check=check_bivcca,
    model=lambda options, schemas, latent_dim: OwnPosteriors(schemas, latent_dim),
    correlated_experts=True,
    covariates=True,
)
