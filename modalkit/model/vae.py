"""The multimodal VAE: experts, and a posterior for any subset of modalities."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import CorrelatedGaussian, Gaussian, Posterior, product_of_experts
from modalkit.model.correlated import Measurement, product_of_measurements
from modalkit.model.groups import NetworkGroup, fastest_groups
from modalkit.model.networks import ModalityNetworks
from modalkit.model.observed import Observed
from modalkit.nn.batch_norm import exclude_from_compiling
from modalkit.plugin import Schema


class MultimodalVAE(ModalityNetworks):
    """An encoder, a Gaussian head and a decoder for each modality, over one latent z with prior N(0, I).

    The posterior is a product of experts. An objective that trains other posteriors brings a subclass.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        prior_expert: whether the prior is a factor of every posterior; otherwise it is the posterior given nothing.

    Attributes:
        components: number of components of its mixtures; 1 if no posterior is a mixture.
        draws: samples of z that a plan's term takes of each component.
        own: by name, the dimensions of z that only this modality's decoder sees; empty but in a `PrivateVAE`.

    Raises:
        InputError: a plugin raised or returned a wrong shape; names the modality, its kind and what was expected.
    """

    components = 1
    draws = 1
    own: Mapping[str, slice] = MappingProxyType({})

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, *, prior_expert: bool = True) -> None:
        super().__init__(schemas, latent_dim)
        self.prior_expert = prior_expert

    @property
    def shared_dim(self) -> int:
        """Number of latent dimensions that all decoders see; they are the first."""
        return min((own.start for own in self.own.values()), default=self.latent_dim)

    @cached_property
    def groups(self) -> tuple[NetworkGroup, ...]:
        """All modalities, in groups whose networks run together."""
        return fastest_groups(self)

    def observed(self, batch: Batch) -> Observed:
        """Return the values that the networks see of a batch.

        Args:
            batch: values on the model's device, columns of `present` in the order of `names`.
        """
        return Observed(self, batch, [group.names for group in self.groups if len(group.names) > 1])

    def _each_expert(self, observed: Observed, present: Tensor) -> list[tuple[Tensor, ...]]:
        """Return what describes each modality's experts, encoding each once; see `ModalityNetworks.expert`."""
        found: dict[str, tuple[Tensor, ...]] = {}
        for group in self.groups:
            found |= zip(group.names, group.experts(observed, present), strict=True)
        return [found[name] for name in self.names]

    def experts(self, observed: Observed, present: Tensor) -> Gaussian:
        """Return every row's diagonal experts, encoding each modality once; a precision of 0 means absent.

        Args:
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.

        Returns:
            `(batch, modalities, latent_dim)`.
        """
        locs, precisions = zip(*self._each_expert(observed, present), strict=True)
        return Gaussian(torch.stack(locs, 1), torch.stack(precisions, 1))

    def products(self, observed: Observed, present: Tensor, given: Tensor) -> Gaussian | CorrelatedGaussian:
        """Return products of experts for several subsets of each row's modalities; see `posterior`."""
        if len(self.measurements):
            measured = [one for (one,) in self._each_expert(observed, present)]
            with torch.autocast(self.device.type, enabled=False):
                parts = [cast(Measurement, part) for part in self.measurements.values()]
                return product_of_measurements(parts, measured, given, prior_expert=self.prior_expert)
        experts = self.experts(observed, present)
        with torch.autocast(self.device.type, enabled=False):  # products of many small numbers
            return product_of_experts(experts, given.to(self.device, non_blocking=True), prior_expert=self.prior_expert)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Posterior:
        """Return q(z|X) for several subsets X of each row's modalities, encoding each modality once.

        Args:
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.
            given: bool `(terms, batch, modalities)`, on the CPU. What is absent must not be given, and `allows` must
                be true for every subset.

        Returns:
            `(terms, batch, latent_dim)`, of `components` components.
        """
        return self.products(observed, present, given)

    def posterior_of_terms(
        self, observed: Observed, present: Tensor, given: Tensor, private: Tensor | None
    ) -> Posterior:
        """Return the posteriors of a plan's terms: `posterior`, unless modalities have dimensions of their own.

        Args:
            observed: see `posterior`.
            present: see `posterior`.
            given: see `posterior`.
            private: the plan's `private` where present, bool `(terms, batch, modalities)`, on the CPU; None for
                what is given. Only a `PrivateVAE` looks at it.
        """
        return self.posterior(observed, present, given)

    def allows(self, given: Tensor) -> Tensor:
        """Tell for which subsets of modalities the model has posteriors, bool `(..., modalities) -> (...)`."""
        return torch.ones(given.shape[:-1], dtype=torch.bool)

    def decoder_inputs(self, z: Tensor, observed: Observed, present: Tensor) -> Tensor:
        """Return the decoders' input for samples of z: z itself, joined with the covariates if there are any.

        A subclass may add another condition.

        Args:
            z: `(..., batch, latent_dim)`.
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.
        """
        condition = observed.decoder_condition
        return z if condition is None else torch.cat([z, condition.expand(*z.shape[:-1], -1)], -1)

    def compile_networks(self, mode: str) -> None:
        """Compile the networks with `torch.compile`, once for any number of rows.

        Stacked networks stay as they are.

        Args:
            mode: torch's mode.
        """
        exclude_from_compiling()
        single = {name for group in self.groups if len(group.names) == 1 for name in group.names}
        networks = [part for parts in (self.encoders, self.decoders) for n, part in parts.items() if n in single]
        for network in networks:
            network.compile(mode=mode, dynamic=True)
        config = torch._dynamo.config
        config.allow_unspec_int_on_nn_module = True  # the numbers of rows of a batch norm's parts
        # Each network is compiled for training and for validation, and for any number of terms.
        config.recompile_limit = max(config.recompile_limit, 8 * len(networks))
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * len(networks))
