"""JMVAE: a network for the joint posterior; each modality's own posterior is pulled towards it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from modalkit.distributions import Gaussian
from modalkit.model.observed import Observed
from modalkit.model.rows import gaussian, of_rows
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import NetworkDict, mlp
from modalkit.nn.networks import trunk
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema


class JmvaeOptions(ObjectiveOptions):
    """Options of the `jmvae` objective."""

    alpha: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="Weight of KL(q(z|all) || q(z|x_m)), for every modality."
    )
    hidden: int = Field(512, ge=1, description="Width of the layer in which the joint network joins the modalities.")


class JointNetwork(MultimodalVAE):
    """A model that has a network for the posterior given all modalities.

    The joint network joins each modality's encoder up to its first dense layer (`modalkit.nn.trunk`). One dense layer
    and a head follow. The posterior given one modality is its expert, without the prior expert.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        hidden: width of the dense layer.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, hidden: int) -> None:
        super().__init__(schemas, latent_dim, prior_expert=False)
        self.trunks, width = NetworkDict(), 0
        for name, schema in schemas.items():
            self.trunks[name], features = self.make_encoder(name, trunk(schema))
            width += features
        self.joint = mlp(width, [hidden], 2 * latent_dim)
        self.to(memory_format=torch.channels_last)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Gaussian:
        """Return q(z|X) for subsets of none, one, or all modalities; see `MultimodalVAE.posterior`."""
        own = super().posterior(observed, present, given)
        assert isinstance(own, Gaussian)
        whole = given.all(-1)  # (terms, batch)
        rows = whole.any(0).nonzero().squeeze(1)

        def encode_jointly() -> tuple[Tensor, Tensor]:
            parts = []
            for column, name in enumerate(self.names):
                with self.blame(name, "encoder"):
                    parts.append(self.trunks[name](of_rows(observed[name], present[:, column], rows)))
            joint = gaussian(self.joint(torch.cat(parts, 1)))
            return joint.loc, joint.precision

        found = self.run_on_rows(None, "encoder", self.trunks, rows, len(present), encode_jointly)
        if found is None:
            return own
        chosen = whole.unsqueeze(-1).to(self.device)
        loc, precision = found
        return Gaussian(torch.where(chosen, loc, own.loc), torch.where(chosen, precision, own.precision))

    def allows(self, given: Tensor) -> Tensor:
        """Allow none, one, or all."""
        return (given.sum(-1) <= 1) | given.all(-1)


def plan_jmvae(options: JmvaeOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the one term of JMVAE-kl.

    :math:`E_{q(z|x_1 … x_M)} \sum_m \lambda_m \log p(x_m|z) - \beta (KL(q(z|x_1 … x_M) \| p(z)) + \alpha \sum_m
    KL(q(z|x_1 … x_M) \| q(z|x_m)))`. During a warm-up, beta weights both kinds of KL.

    Source:
        Suzuki et al. 2016, the objective of JMVAE-kl.
    """
    whole = present & present.all(-1, keepdim=True)
    references = torch.full((1, *present.shape), options.alpha) * whole
    return Plan(("all",), whole[None], whole[None], references=references)


def check_jmvae(options: JmvaeOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("jmvae takes two modalities or more; for one, choose vae")


JMVAE = Objective(
    name="jmvae",
    summary="a joint inference network, and single ones pulled towards it; complete rows only (Suzuki et al. 2016)",
    options=JmvaeOptions,
    plan=plan_jmvae,
    check=check_jmvae,
    model=lambda options, schemas, latent_dim: JointNetwork(schemas, latent_dim, options.hidden),
    complete_rows=True,
)
