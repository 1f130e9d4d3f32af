"""DMVAE: a shared latent whose posterior is a product of experts, and a private latent for each modality."""

from __future__ import annotations

import torch
from torch import Tensor

from modalkit.model.private import PrivateVAE
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan


def plan_dmvae(options: ObjectiveOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return a term of all that a row has, and one of each single modality; every term explains all that it has.

    .. math::
        \sum_{S} \left(E \sum_n \lambda_n \log p(x_n|z, w_n) - \beta \left(KL(q(z|x_S) \| p(z))
        + \sum_n KL(q(w_n|x_n) \| p(w_n))\right)\right)

    S is the set of all modalities of the row, and each of them alone; the expectation is over :math:`q(z|x_S)` and
    over :math:`q(w_n|x_n)`, for all n. A row with one modality has one term.

    Args:
        options: without any of its own.
        names: the modalities.
        present: bool `(batch, modalities)`.
        draws: not used.

    Source:
        Lee & Pavlovic 2021, the objective of DMVAE: its joint and its cross-modal terms, with equal weights.
    """
    several = present.sum(1, keepdim=True) > 1  # (batch, 1)
    alone = torch.eye(len(names), dtype=torch.bool)[:, None] & present & several  # (modalities, batch, modalities)
    given = torch.cat([present[None], alone])
    explained = present & given.any(-1, keepdim=True)
    return Plan(("all", *(f"only:{name}" for name in names)), given, explained, private=explained)


def check_private(options: ObjectiveOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError(f"{options.name} takes two modalities or more; for one, choose vae")


DMVAE = Objective(
    name="dmvae",
    summary="a shared latent, a product of experts, and a private one for each modality (Lee & Pavlovic 2021)",
    options=ObjectiveOptions,
    plan=plan_dmvae,
    check=check_private,
    model=lambda options, schemas, latent_dim: PrivateVAE(schemas, latent_dim),
    covariates=True,
    private=True,
)
