"""A multimodal VAE in which modalities have private latents beside the shared one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalkit.distributions import Gaussian, Posterior, product_of_experts
from modalkit.model.groups import NetworkGroup, single_groups
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.narrowed import Narrowed
from modalkit.plugin import Schema


class PrivateVAE(MultimodalVAE):
    r"""A model of one shared latent z and a private latent w_m for each modality that has a `private_dim`.

    All of them side by side are the latent of `MultimodalVAE`, first z and then each w_m, with prior N(0, I). The
    posterior of z is a product of experts. That of w_m is :math:`q(w_m|x_m)`, a Gaussian that the modality's own
    encoder returns, where w_m is inferred; elsewhere it is the prior. The decoder of a modality sees z and its own w_m.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z, without the private latents.
        prior_expert: whether the prior is a factor of every posterior of z; see `MultimodalVAE`.

    Attributes:
        owner: the place of the modality whose private latent a dimension belongs to, `(private dimensions,)`.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, *, prior_expert: bool = True) -> None:
        sizes = [schema.private_dim for schema in schemas.values()]
        ends = (latent_dim + torch.tensor(sizes).cumsum(0)).tolist()
        self.own = {n: slice(end - size, end) for n, end, size in zip(schemas, ends, sizes, strict=True) if size}
        self.owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        super().__init__(schemas, latent_dim + sum(sizes), prior_expert=prior_expert)

    @cached_property
    def groups(self) -> tuple[NetworkGroup, ...]:
        """Each modality by itself, because decoders see different dimensions."""
        return single_groups(self)

    def add_networks(self, name: str, schema: Schema) -> None:
        """Build the networks of one modality; its head describes z and w_m side by side."""
        super().add_networks(name, schema)
        head = self.heads[name]
        assert isinstance(head, nn.Linear)
        self.heads[name] = nn.Linear(head.in_features, 2 * (self.shared_dim + schema.private_dim))

    def make_decoder(self, name: str, inputs: int) -> nn.Module:
        """Return a decoder that sees z, its own w_m, and what follows the latent dimensions."""
        own = [self.own[name]] if name in self.own else []
        hidden = self.latent_dim - self.shared_dim - self.schemas[name].private_dim
        decoder = super().make_decoder(name, inputs - hidden)
        self.decoder_widths[name] = inputs
        return Narrowed(decoder, [slice(self.shared_dim), *own, slice(self.latent_dim, None)])

    def no_experts(self, name: str, rows: int) -> tuple[Tensor, ...]:
        """Return zeros in the form of `expert`, for rows in which a modality is absent."""
        width = self.shared_dim + self.schemas[name].private_dim
        return torch.zeros(2, rows, width, device=self.device, dtype=self.dtype).unbind()

    def _each_expert(self, observed: Observed, present: Tensor) -> list[tuple[Tensor, ...]]:
        """Return each modality's expert of all latent dimensions, with precision 0 in those of other modalities."""
        return [self._widened(n, e) for n, e in zip(self.names, super()._each_expert(observed, present), strict=True)]

    def _widened(self, name: str, expert: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Put an expert of z and w_m, `(batch, ...)`, at its places among all latent dimensions."""
        own = self.own.get(name, slice(self.shared_dim, self.shared_dim))
        parts = [torch.split(part, [self.shared_dim, self.schemas[name].private_dim], 1) for part in expert]
        around = (own.start - self.shared_dim, self.latent_dim - own.stop)
        return tuple(torch.cat([shared, F.pad(private, around)], 1) for shared, private in parts)

    def products(
        self,
        observed: Observed,
        present: Tensor,
        given: Tensor,
        private: Tensor | None = None,
        elsewhere: Tensor | None = None,
    ) -> Gaussian:
        """Return the posteriors of z and of all w_m; see `posterior_of_terms`.

        Args:
            observed: see `posterior`.
            present: see `posterior`.
            given: see `posterior`.
            private: see `posterior_of_terms`.
            elsewhere: precision of private latents that are not inferred, `(private dimensions,)`; by default the
                prior's.
        """
        experts, shared = self.experts(observed, present), self.shared_dim
        known = given if private is None else given | private
        with torch.autocast(self.device.type, enabled=False):
            given, known = (mask.to(self.device, non_blocking=True) for mask in (given, known[..., self.owner]))
            of_z = Gaussian(experts.loc[..., :shared], experts.precision[..., :shared])
            z = product_of_experts(of_z, given, prior_expert=self.prior_expert)
            # A private dimension has one expert, and 0 of all others.
            loc, precision = (part[..., shared:].sum(1) for part in (experts.loc, experts.precision))
            loc = torch.where(known, loc, 0)  # (terms, batch, private dimensions)
            precision = torch.where(known, precision, 1 if elsewhere is None else elsewhere)
        return Gaussian(torch.cat([z.loc, loc], -1), torch.cat([z.precision, precision], -1))

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Posterior:
        """Return q(z, w|X), with the private latents of what is given; see `MultimodalVAE.posterior`."""
        return self.posterior_of_terms(observed, present, given, given)

    def posterior_of_terms(
        self, observed: Observed, present: Tensor, given: Tensor, private: Tensor | None
    ) -> Posterior:
        """Return q(z, w|X), with the private latents of `given` and `private`; see the method of `MultimodalVAE`."""
        return self.products(observed, present, given, private)
