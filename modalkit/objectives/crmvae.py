"""CRMVAE: the joint posterior is kept close to all experts and the prior alike, and experts reconstruct their own."""

from __future__ import annotations

import torch
from torch import Tensor

from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan


def plan_crmvae(options: ObjectiveOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the term of all M modalities that a row has, and a term for each of them alone.

    .. math::
        \frac{1}{2 (M + 1)} \sum_m \lambda_m \left(E_{q(z|X)} \log p(x_m|z) + E_{q(z|x_m)} \log p(x_m|z)\right)
        - \frac{\beta}{M + 1} \left(KL(q(z|X) \| p(z)) + \sum_m KL(q(z|X) \| q(z|x_m))\right)

    q(z|X) is the product of experts without the prior expert.

    Source:
        Suzuki & Matsuo 2023, CRMVAE, with the weights of its implementation in MultiVae 1.0.
    """
    alone = torch.eye(len(names), dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    given = torch.cat([present[None], alone])  # (1 + modalities, batch, modalities)
    share = 1 / (1 + present.sum(-1).to(torch.get_default_dtype()))  # (batch,)
    first = torch.tensor([1.0] + [0.0] * len(names))  # the complete term alone has KLs
    return Plan(
        ("all", *(f"only:{name}" for name in names)),
        given,
        given,
        weight=(share / 2).expand(len(given), -1),
        kl_weight=first[:, None] * share,
        references=first[:, None, None] * present * share[:, None],
    )


def check_crmvae(options: ObjectiveOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("crmvae takes two modalities or more; for one, choose vae")


CRMVAE = Objective(
    name="crmvae",
    summary="joint product of experts close to prior and experts; experts explain their own (Suzuki & Matsuo 2023)",
    options=ObjectiveOptions,
    plan=plan_crmvae,
    check=check_crmvae,
    model=lambda options, schemas, latent_dim: MultimodalVAE(schemas, latent_dim, prior_expert=False),
    correlated_experts=True,
)
