"""MVTCAE: a bound on total correlation keeps the joint posterior close to each modality's own."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan


class MvtcaeOptions(ObjectiveOptions):
    """Options of the `mvtcae` objective."""

    beta: float = Field(2.5, ge=0, allow_inf_nan=False, description="Weight of the KL terms after the warm-up.")
    alpha: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Interpolates between the ELBO (0) and the conditional form of total correlation (1).",
    )


def plan_mvtcae(options: MvtcaeOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the one term of MVTCAE over the M modalities that a row has.

    :math:`\frac{M - \alpha}{M} E_{q(z|X)} \sum_m \log p(x_m|z) - \beta ((1 - \alpha) KL(q(z|X) \| p(z)) +
    \frac{\alpha}{M} \sum_m KL(q(z|X) \| q(z|x_m)))`, where q(z|X) is the product of experts without the prior expert.

    Source:
        Hwang et al. 2021, the objective of MVTCAE.
    """
    count = present.sum(-1).clamp(min=1).to(torch.get_default_dtype())  # (batch,)
    return Plan(
        ("all",),
        present[None],
        present[None],
        weight=((count - options.alpha) / count)[None],
        kl_weight=torch.full((1, len(present)), 1 - options.alpha),
        references=(present * (options.alpha / count)[:, None])[None],
    )


def check_mvtcae(options: MvtcaeOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("mvtcae takes two modalities or more; for one, choose vae")


MVTCAE = Objective(
    name="mvtcae",
    summary="joint product of experts, kept close to each modality's own by total correlation (Hwang et al. 2021)",
    options=MvtcaeOptions,
    plan=plan_mvtcae,
    check=check_mvtcae,
    model=lambda options, schemas, latent_dim: MultimodalVAE(schemas, latent_dim, prior_expert=False),
    correlated_experts=True,
    covariates=True,
)
