"""The multimodal VAE that a recipe's modalities make: experts, posterior for any subset, likelihoods."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from modalkit import registry
from modalkit.data import Batch
from modalkit.distributions import Gaussian, product_of_experts
from modalkit.errors import guard
from modalkit.nn import mixes_rows
from modalkit.plugin import CustomNetwork, Modality, Schema


class MultimodalVAE(nn.Module):
    """An encoder, a Gaussian head and a decoder for each modality, over one latent z with prior N(0, I).

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.

    Raises:
        InputError: a plugin raised or returned a wrong shape; names the modality, its kind and what was expected.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__()
        self.schemas, self.names, self.latent_dim = dict(schemas), tuple(schemas), latent_dim
        self._kinds: dict[str, Modality[Any]] = {n: registry.modality(s.kind) for n, s in schemas.items()}
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for name, schema in self.schemas.items():
            self._assemble(name, schema)
        # Decoders whose rows depend on each other must see one ELBO term at a time.
        self.mixes_rows = {name: mixes_rows(self.decoders[name]) for name in self.names}
        self.to(memory_format=torch.channels_last)  # the fastest convolutions

    def _assemble(self, name: str, schema: Schema) -> None:
        """Make one modality's networks and check their shapes on two rows of zeros."""
        kind, network = self._kinds[name], getattr(schema, "network", None)
        with self._blame(name, "encoder"):
            if isinstance(network, CustomNetwork):
                encoder = registry.import_object(network.encoder)(schema, **network.options)
            else:
                encoder = kind.encoder(schema)
            value = schema.unpack(torch.zeros(2, *schema.event_shape, dtype=getattr(torch, schema.dtype)))
            with torch.no_grad():
                features = encoder.eval()(value)
            if features.ndim != 2 or len(features) != 2:
                raise ValueError(f"returned {tuple(features.shape)} for 2 rows; it must return (rows, features)")
        with self._blame(name, "decoder"):
            if isinstance(network, CustomNetwork):
                decoder = registry.import_object(network.decoder)(schema, self.latent_dim, **network.options)
            else:
                decoder = kind.decoder(schema, self.latent_dim)
            with torch.no_grad():
                raw = decoder.eval()(torch.zeros(2, self.latent_dim))
        with self._blame(name, "likelihood"):
            made = kind.likelihood(schema, raw)
            if (made.batch_shape, made.event_shape) != ((2,), schema.event_shape):
                raise ValueError(
                    f"has batch_shape {tuple(made.batch_shape)} and event_shape {tuple(made.event_shape)} for 2 rows; "
                    f"they must be (2,) and {schema.event_shape}, the schema's (torch.distributions.Independent helps)"
                )
        self.encoders[name], self.decoders[name] = encoder.train(), decoder.train()
        self.heads[name] = nn.Linear(features.shape[1], 2 * self.latent_dim)

    def _blame(self, name: str, part: str) -> AbstractContextManager[None]:
        """Name the modality in whatever its plugin raises."""
        return guard(f"modality '{name}' (kind '{self.schemas[name].kind}'): its {part}")

    def encode(self, name: str, value: Tensor) -> Gaussian:
        """Return the experts q(z|x_m) of one modality.

        Args:
            name: the modality.
            value: `(rows, *event_shape)`, unpacked.

        Returns:
            `(rows, latent_dim)`.
        """
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        with self._blame(name, "encoder"):
            loc, log_variance = _full(self.heads[name](self.encoders[name](value))).chunk(2, -1)
        return Gaussian(loc, (-log_variance).exp())

    def observed(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the networks see of a batch: per modality the unpacked samples of the rows that have it.

        Args:
            batch: values on the model's device, columns of `present` in the order of `names`.

        Returns:
            Per modality `(rows in which it is present, *event_shape)`, in the networks' precision.
        """
        observed = {}
        for column, name in enumerate(self.names):
            stored = take(batch.values[name], batch.present[:, column].nonzero().squeeze(1))
            with self._blame(name, "unpack"):
                value = self.schemas[name].unpack(stored)
            observed[name] = value.to(self.dtype) if value.is_floating_point() else value
        return observed

    def posterior(self, observed: Mapping[str, Tensor], present: Tensor, given: Tensor) -> Gaussian:
        """Return q(z|X) for several subsets X of each row's modalities, encoding each modality once.

        Args:
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.
            given: bool `(terms, batch, modalities)`, on the CPU; nothing absent may be given.

        Returns:
            `(terms, batch, latent_dim)`.
        """
        locs, precisions = [], []
        for column, name in enumerate(self.names):
            rows = present[:, column].nonzero().squeeze(1)
            if len(rows):
                expert = self.encode(name, observed[name])
            else:
                expert = Gaussian(*torch.zeros(2, 0, self.latent_dim, device=self.device, dtype=self.dtype))
            locs.append(spread(expert.loc, rows, len(present)))
            precisions.append(spread(expert.precision, rows, len(present)))  # a precision of 0 says nothing
        with torch.autocast(self.device.type, enabled=False):  # products of many small numbers
            experts = Gaussian(torch.stack(locs, 1), torch.stack(precisions, 1))
            return product_of_experts(experts, given.to(self.device))

    def likelihood(self, name: str, z: Tensor) -> Distribution:
        """Return p(x_m|z) for `(rows, latent_dim)` draws of z."""
        with self._blame(name, "decoder"):
            raw = self.decoders[name](z)
        with self._blame(name, "likelihood"):
            return self._kinds[name].likelihood(self.schemas[name], _full(raw) if isinstance(raw, Tensor) else raw)

    def log_px(self, name: str, z: Tensor, value: Tensor) -> Tensor:
        """Return log p(x_m|z), one number a row, `(rows,)`.

        Args:
            name: the modality.
            z: `(rows, latent_dim)`.
            value: `(rows, *event_shape)`, unpacked.
        """
        likelihood = self.likelihood(name, z)
        with self._blame(name, "likelihood"):
            log_px = likelihood.log_prob(value)
            if log_px.shape != (len(z),):
                raise ValueError(f"log_prob returned {tuple(log_px.shape)} for {len(z)} rows; it must be (rows,)")
            return log_px

    def predict(self, name: str, z: Tensor) -> Tensor:
        """Return the value that stands for p(x_m|z), `(rows, *event_shape)`: its mean, for integer kinds its mode."""
        schema, likelihood = self.schemas[name], self.likelihood(name, z)
        floating = schema.unpack(torch.zeros(1, *schema.event_shape, dtype=getattr(torch, schema.dtype)))
        with self._blame(name, "likelihood"):
            return likelihood.mean if floating.is_floating_point() else likelihood.mode

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.heads.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.heads.parameters()).dtype


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` for sorted, distinct `rows` on the CPU, without a copy where that is all of them."""
    return values if len(rows) == len(values) else values.index_select(0, rows.to(values.device))


def spread(rows_of: Tensor, rows: Tensor, batch: int) -> Tensor:
    """Put the values of some rows at their place in a batch, zeros elsewhere.

    Args:
        rows_of: `(rows, ...)`.
        rows: their indices in the batch, int64 `(rows,)`, on the CPU.
        batch: number of rows of the result.

    Returns:
        `(batch, ...)`.
    """
    if len(rows) == batch:
        return rows_of
    return rows_of.new_zeros(batch, *rows_of.shape[1:]).index_copy(0, rows.to(rows_of.device), rows_of)


def _full(tensor: Tensor) -> Tensor:
    """Leave reduced precision, in which sums of thousands of log-likelihoods would drown."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
