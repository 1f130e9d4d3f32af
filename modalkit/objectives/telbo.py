"""TELBO: the joint posterior and the decoders first; then, with those frozen, a network for each modality alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from modalkit.distributions import Gaussian
from modalkit.model.vae import MultimodalVAE, gaussian, spread
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema


class TelboOptions(ObjectiveOptions):
    """Options of the `telbo` objective."""

    first_stage_epochs: int = Field(
        ge=1, description="Epochs for the joint posterior and the decoders; the rest is for the single modalities."
    )


class TwoStages(MultimodalVAE):
    """A model whose joint posterior is the product of experts, and whose single ones are networks of their own."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim)
        self.alone = nn.ModuleDict()
        for name, schema in schemas.items():
            encoder, features = self.make_encoder(name, schema)
            self.alone[name] = nn.Sequential(encoder, nn.Linear(features, 2 * latent_dim))
        self.to(memory_format=torch.channels_last)

    def posterior(self, observed: Mapping[str, Tensor], present: Tensor, given: Tensor) -> Gaussian:
        """Return q(z|X) for subsets of none, one, or all modalities; see `MultimodalVAE.posterior`."""
        joint = super().posterior(observed, present, given)
        assert isinstance(joint, Gaussian)
        loc, precision = joint.loc, joint.precision
        single = given.sum(-1) == 1  # (terms, batch)
        for column, name in enumerate(self.names):
            chosen = single & given[..., column]
            rows = present[:, column].nonzero().squeeze(1)
            if self.runs(self.alone[name], chosen.any()):
                own = gaussian(self.alone[name](observed[name]))
                here = chosen.unsqueeze(-1).to(self.device)
                loc = torch.where(here, spread(own.loc, rows, len(present)), loc)
                precision = torch.where(here, spread(own.precision, rows, len(present)), precision)
        return Gaussian(loc, precision)

    def allows(self, given: Tensor) -> Tensor:
        """Allow none, one, or all."""
        return (given.sum(-1) <= 1) | given.all(-1)


def plan_telbo(options: TelboOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the joint ELBO, of complete rows, in the first stage; in the second each modality's own as well.

    The joint one is equation 2 with the product of experts; each modality's is :math:`E_{q(z|x_m)} \lambda_m \log
    p(x_m|z) - \beta KL(q(z|x_m) \| p(z))`. Rows that lack a modality take part in the second stage alone.

    Source:
        Vedantam et al. 2017, the triplet ELBO, as Wu & Goodman 2018, section 3, describe it.
    """
    whole = (present & present.all(-1, keepdim=True))[None]
    if draws.epoch is not None and draws.epoch < options.first_stage_epochs:
        return Plan(("all",), whole, whole)
    alone = torch.eye(len(names), dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    given = torch.cat([whole, alone])
    return Plan(("all", *(f"only:{n}" for n in names)), given, given)


def check_telbo(options: TelboOptions, names: tuple[str, ...]) -> None:
    """Refuse a single modality."""
    if len(names) < 2:
        raise ValueError("telbo takes two modalities or more; for one, choose vae")


def frozen(options: TelboOptions, epoch: int) -> tuple[str, ...]:
    """Return what stays as it is: in the first stage the single networks, in the second everything else."""
    return ("alone.",) if epoch < options.first_stage_epochs else ("encoders.", "heads.", "decoders.")


TELBO = Objective(
    name="telbo",
    summary="joint posterior and decoders, then single inference networks: two stages (Vedantam et al. 2017)",
    options=TelboOptions,
    plan=plan_telbo,
    check=check_telbo,
    model=lambda options, schemas, latent_dim: TwoStages(schemas, latent_dim),
    frozen=frozen,
)
