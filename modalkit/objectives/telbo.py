"""TELBO: first the joint posterior and the decoders; then, with those frozen, an encoder for each modality alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from modalkit.distributions import Gaussian
from modalkit.model.observed import Observed
from modalkit.model.rows import gaussian
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import NetworkDict
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema


class TelboOptions(ObjectiveOptions):
    """Options of the `telbo` objective."""

    first_stage_epochs: int = Field(
        ge=1, description="Epochs for the joint posterior and the decoders; the others are for the single modalities."
    )


class TwoStages(MultimodalVAE):
    """A model whose joint posterior is the product of experts; the posterior given one modality is another network."""

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__(schemas, latent_dim)
        self.alone = NetworkDict()
        for name, schema in schemas.items():
            encoder, features = self.make_encoder(name, schema)
            self.alone[name] = nn.Sequential(encoder, nn.Linear(features, 2 * latent_dim))
        self.to(memory_format=torch.channels_last)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Gaussian:
        """Return q(z|X) for subsets of none, one, or all modalities; see `MultimodalVAE.posterior`."""
        joint = super().posterior(observed, present, given)
        assert isinstance(joint, Gaussian)
        loc, precision = joint.loc, joint.precision
        single = given.sum(-1) == 1  # (terms, batch)
        for column, name in enumerate(self.names):
            chosen = single & given[..., column]
            found = self._alone(name, observed, present[:, column], needed=bool(chosen.any()))
            if found is not None:
                here = chosen.unsqueeze(-1).to(self.device)
                loc, precision = torch.where(here, found[0], loc), torch.where(here, found[1], precision)
        return Gaussian(loc, precision)

    def _alone(self, name: str, observed: Observed, present: Tensor, *, needed: bool) -> tuple[Tensor, ...] | None:
        """Run the network of one modality alone on all rows that have it, if it must run."""

        def encode() -> tuple[Tensor, Tensor]:
            own = gaussian(self.alone[name](observed[name]))
            return own.loc, own.precision

        rows = present.nonzero().squeeze(1)
        return self.run_on_rows(name, "encoder", self.alone[name], rows, len(present), encode, needed=needed)

    def allows(self, given: Tensor) -> Tensor:
        """Allow none, one, or all."""
        return (given.sum(-1) <= 1) | given.all(-1)


def plan_telbo(options: TelboOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the joint ELBO, of complete rows, in the first stage; in the second each modality's own as well.

    The joint one is equation 2 with the product of experts; each modality's is :math:`E_{q(z|x_m)} \lambda_m \log
    p(x_m|z) - \beta KL(q(z|x_m) \| p(z))`. Rows that lack a modality take part only in the second stage.

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
    """Return the frozen networks: those of single modalities in the first stage, all others in the second."""
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
