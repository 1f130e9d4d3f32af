"""The MVAE with experts that are mixtures of Gaussians, which its paper leaves to future work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from modalkit.distributions import Gaussian, Mixture
from modalkit.model.observed import Observed
from modalkit.model.rows import full
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.precise import bounded_log, precise
from modalkit.objectives.mvae import MvaeOptions, check_mvae, plan_mvae
from modalkit.plugin import Objective, Schema

_MOST_COMPONENTS = 256


class MixtureMvaeOptions(MvaeOptions):
    """Options of the `mixture-mvae` objective."""

    components: int = Field(2, ge=1, description="Gaussians in each modality's expert.")


class ProductOfMixtures(MultimodalVAE):
    r"""A model with :math:`q(z|X) \propto p(z) \prod_{m \in X} \sum_c w_{mc} N(z; \mu_{mc}, 1 / T_{mc})`.

    Multiplied out, it is a mixture with one part for each choice of one component from every expert. A part is the
    product of Gaussians that `modalkit.distributions.product_of_experts` returns. Its weight is proportional to
    :math:`\prod_m w_{mc_m}` times the integral of that product,

    .. math::
        \log \int p(z) \prod_m N(z; \mu_m, 1 / T_m) dz
        = \frac12 \sum_d \left(\sum_m \log T_m - \log T + T \mu^2 - \sum_m T_m \mu_m^2\right) + \text{const}

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        components: Gaussians in each expert.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, components: int) -> None:
        super().__init__(schemas, latent_dim)
        self.each = components
        for name, head in list(self.heads.items()):
            assert isinstance(head, nn.Linear)
            self.heads[name] = nn.Linear(head.in_features, components * (2 * latent_dim + 1))
        self.choices = torch.tensor(list(itertools.product(range(components), repeat=len(schemas))))
        self.components = len(self.choices)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Mixture:
        """Return the product, multiplied out; see `MultimodalVAE.posterior`."""
        log_w, loc, precision = self._mixtures(observed, present)
        with torch.autocast(self.device.type, enabled=False):
            pick = self.choices.to(self.device)  # (components, modalities)
            # Parts that differ only in modalities that are not given are equal, so only the first of them counts.
            first = (given | (self.choices[:, None, None] == 0)).all(-1).to(self.device)  # (components, terms, batch)
            # In float64: the terms of a weight are as large as the precisions, and all but cancel.
            dtype, (log_w, loc, precision) = loc.dtype, map(precise, (log_w, loc, precision))
            given = given.to(loc)  # (terms, batch, modalities)
            of = [
                (log_w[:, m, pick[:, m]], loc[:, m, pick[:, m]], precision[:, m, pick[:, m]])
                for m in range(given.shape[-1])
            ]
            log_wp = torch.stack([w for w, _, _ in of], -1)  # (batch, components, modalities)
            mu, t = (torch.stack([one[i] for one in of], -2) for i in (1, 2))  # (batch, components, modalities, latent)
            inside = log_wp + 0.5 * (t.clamp(min=1e-30).log() - t * mu.square()).sum(-1)
            total = 1 + torch.einsum("tbm,bkml->ktbl", given, t)
            mean = torch.einsum("tbm,bkml->ktbl", given, t * mu) / total
            log_weight = torch.einsum("tbm,bkm->ktb", given, inside)
            log_weight = log_weight + 0.5 * (total * mean.square() - total.log()).sum(-1)
            log_weight = log_weight.masked_fill(~first, -torch.inf).log_softmax(0)
        return Mixture(log_weight.to(dtype), Gaussian(mean.to(dtype), total.to(dtype)))

    def _mixtures(self, observed: Observed, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log weights `(batch, modalities, each)`, locs and precisions `(batch, modalities, each, latent)`."""
        found = [self._mixture(name, observed, present[:, column]) for column, name in enumerate(self.names)]
        log_w, loc, precision = (torch.stack([one[i] for one in found], 1) for i in range(3))
        return log_w, loc, precision

    def _mixture(self, name: str, observed: Observed, present: Tensor) -> tuple[Tensor, ...]:
        """Return the log weights, locs and precisions of one modality's experts, zeros where it is absent."""
        condition = observed.condition_of(name)

        def encode() -> tuple[Tensor, Tensor, Tensor]:
            head = self.head_output(name, observed[name], condition)
            raw = torch.unflatten(full(head), 1, (self.each, -1))
            loc, log_variance, logits = torch.split(raw, [self.latent_dim, self.latent_dim, 1], -1)
            return logits.squeeze(-1).log_softmax(-1), loc, (-bounded_log(log_variance)).exp()

        rows = present.nonzero().squeeze(1)
        found = self.run_on_rows(name, "encoder", self.encoders[name], rows, len(present), encode)
        if found is None:
            zeros = torch.zeros(len(present), self.each, self.latent_dim, device=self.device, dtype=self.dtype)
            return zeros[..., 0], zeros, zeros
        return found


def check_mixture_mvae(options: MixtureMvaeOptions, names: tuple[str, ...]) -> None:
    """Refuse a mixture with too many parts to decode."""
    check_mvae(options, names)
    if options.components ** len(names) > _MOST_COMPONENTS:
        raise ValueError(
            f"components: {options.components} in each of {len(names)} experts multiply out to "
            f"{options.components}^{len(names)} parts, above {_MOST_COMPONENTS}; use fewer, or mvae"
        )


MIXTURE_MVAE = Objective(
    name="mixture-mvae",
    summary="mvae whose experts are mixtures of Gaussians (left as future work by Wu & Goodman 2018, section 8)",
    options=MixtureMvaeOptions,
    plan=plan_mvae,
    check=check_mixture_mvae,
    model=lambda options, schemas, latent_dim: ProductOfMixtures(schemas, latent_dim, options.components),
    covariates=True,
)
