"""The networks of all modalities, and the guarded calls of what plugins provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from modalkit import registry
from modalkit.errors import guard
from modalkit.model.moments import point
from modalkit.model.rows import full, gaussian, spread
from modalkit.nn import NetworkDict, evaluating
from modalkit.nn.batch_norm import mixes_rows
from modalkit.nn.centered import Centered
from modalkit.plugin import CustomNetwork, Modality, Schema
from modalkit.util.processes import Processes

if TYPE_CHECKING:
    from modalkit.model.covariates import Covariates


class ModalityNetworks(nn.Module):
    """An encoder, a Gaussian head and a decoder for each modality.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.

    Attributes:
        names: the modalities' names, in order.
        kinds: the modalities' kinds, by name.
        processes: the processes that share the statistics of batch normalisation with this one; None if none do.
        mixes_rows: by name, whether a decoder's rows depend on each other in training, through batch normalisation.
            Such a decoder must normalise each ELBO term separately.
        measurements: by name, the `Measurement` of experts with a precision matrix; empty if experts are diagonal.
        covariates: the conditions that heads and decoders see beside features and z; None if there are none.

    Raises:
        InputError: a plugin raised or returned a wrong shape; names the modality, its kind and what was expected.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int) -> None:
        super().__init__()
        self.processes: Processes | None = None
        self.schemas, self.names, self.latent_dim = dict(schemas), tuple(schemas), latent_dim
        self.kinds: dict[str, Modality[Any]] = {n: registry.modality(s.kind) for n, s in schemas.items()}
        self.encoders, self.decoders, self.heads = NetworkDict(), NetworkDict(), NetworkDict()
        self.measurements = NetworkDict()
        self.covariates: Covariates | None = None
        self.decoder_widths: dict[str, int] = {}
        for name, schema in self.schemas.items():
            self.add_networks(name, schema)
        self.mixes_rows = {name: name in self.decoders and mixes_rows(self.decoders[name]) for name in self.names}
        self.to(memory_format=torch.channels_last)  # the fastest convolutions

    # Building

    def add_networks(self, name: str, schema: Schema) -> None:
        """Build the encoder, decoder and head of one modality; a subclass may build others.

        Args:
            name: the modality.
            schema: its schema.
        """
        self.encoders[name], features = self.make_encoder(name, schema)
        self.decoders[name] = self.make_decoder(name, self.latent_dim)
        self.heads[name] = nn.Linear(features, 2 * self.latent_dim)

    def make_encoder(self, name: str, schema: Schema) -> tuple[nn.Module, int]:
        """Return an encoder of a modality, and its number of features.

        Args:
            name: the modality.
            schema: describes the encoder; it may differ from the modality's schema in its network.

        Raises:
            InputError: the encoder fails on two rows of zeros, or returns another shape than `(rows, features)`.
        """
        network = getattr(schema, "network", None)
        with self.blame(name, "encoder"):
            if isinstance(network, CustomNetwork):
                encoder: nn.Module = registry.import_object(network.encoder)(schema, **network.options)
            else:
                encoder = self.kinds[name].encoder(schema)
            value = schema.unpack(schema.zeros(2))
            with evaluating(encoder), torch.no_grad():
                features = encoder(value)
            if features.ndim != 2 or len(features) != 2:
                raise ValueError(f"returned {tuple(features.shape)} for 2 rows; it must return (rows, features)")
        return encoder, features.shape[1]

    def make_decoder(self, name: str, inputs: int) -> nn.Module:
        """Return a decoder of a modality.

        Args:
            name: the modality.
            inputs: width of the decoder's input.

        Raises:
            InputError: the decoder or the likelihood fails on two rows of zeros, or has a wrong shape.
        """
        kind, schema = self.kinds[name], self.schemas[name]
        network = getattr(schema, "network", None)
        with self.blame(name, "decoder"):
            if isinstance(network, CustomNetwork):
                decoder: nn.Module = registry.import_object(network.decoder)(schema, inputs, **network.options)
            else:
                decoder = kind.decoder(schema, inputs)
            with evaluating(decoder), torch.no_grad():
                raw = decoder(torch.zeros(2, inputs))
        self.decoder_widths[name] = inputs
        with self.blame(name, "likelihood"):
            made = kind.likelihood(schema, raw)
            if (made.batch_shape, made.event_shape) != ((2,), schema.event_shape):
                raise ValueError(
                    f"has batch_shape {tuple(made.batch_shape)} and event_shape {tuple(made.event_shape)} for 2 rows; "
                    f"they must be (2,) and {schema.event_shape}, the schema's (torch.distributions.Independent helps)"
                )
        return decoder

    @property
    def covariate_schemas(self) -> dict[str, Schema]:
        """The covariates by name; none if there are none."""
        return {} if self.covariates is None else self.covariates.schemas

    def center(self) -> None:
        """Replace each decoder by a `Centered` one if its kind has a `marginal` and its output is one tensor.

        Raises:
            InputError: a plugin raised.
        """
        for name, decoder in self.decoders.items():
            inputs = self.decoder_widths[name]
            with self.blame(name, "decoder"), evaluating(decoder), torch.no_grad():
                one = isinstance(decoder(torch.zeros(2, inputs)), Tensor)
            if one and self.kinds[name].marginal is not None:
                self.decoders[name] = Centered(decoder, inputs)

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each expert (encoder and head), each decoder, and of all other parts."""
        parts: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            part, _, rest = name.partition(".")
            of = f".{rest.split('.')[0]}" if part in ("encoders", "heads", "measurements", "decoders") else ""
            key = f"{'decoder' if part == 'decoders' else 'expert' if of else part}{of}"
            parts[key] = parts.get(key, 0) + parameter.numel()
        return parts

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self._a_parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the parameters."""
        return self._a_parameter.dtype

    @property
    def _a_parameter(self) -> nn.Parameter:
        """A parameter of a head, or of any network if a subclass has no heads."""
        return next((self.heads if len(self.heads) else self).parameters())

    # Running

    def blame(self, name: str, part: str) -> AbstractContextManager[None]:
        """Turn whatever a plugin raises in a ``with`` block into an `InputError` that names the modality.

        Args:
            name: the modality.
            part: what runs in the block, such as ``"encoder"``.
        """
        return guard(f"modality '{name}' (kind '{self.schemas[name].kind}'): its {part}")

    def must_run(self, network: nn.Module, here: Tensor) -> Tensor:
        """Tell whether a network must run.

        Processes that share the statistics of batch normalisation must all run a network with batch normalisation if
        one of them has rows for it. So every process must ask this question for the same networks in the same order.

        Args:
            network: the network.
            here: whether this process has rows for it, bool of any shape, on the CPU.

        Returns:
            bool of the same shape.
        """
        shared = self.processes is not None and self.training and mixes_rows(network)
        return self.processes.most(here).bool() if shared and self.processes else here

    def run_on_rows(
        self,
        name: str | None,
        part: str,
        network: nn.Module,
        rows: Tensor,
        batch: int,
        call: Callable[[], tuple[Tensor, ...]],
        *,
        needed: bool = True,
    ) -> tuple[Tensor, ...] | None:
        """Run a network on those rows of a batch that have its input, if it must run.

        Args:
            name: the modality that an error names; None for a network of several modalities, in which `call` itself
                uses `blame`.
            part: the part of the modality that an error names, such as ``"encoder"``.
            network: the network; see `must_run`.
            rows: indices in the batch of the rows that `call` handles, sorted, on the CPU. There may be none.
            batch: number of rows of the batch.
            call: runs the network and returns tensors `(rows, ...)`.
            needed: whether any result is used here. Without rows none is.

        Returns:
            The tensors, `(batch, ...)` each, with zeros in all other rows; None if the network need not run.
        """
        if not self.must_run(network, torch.tensor(needed and len(rows) > 0)):
            return None
        if name is None:
            results = call()
        else:
            with self.blame(name, part):
                results = call()
        return tuple(spread(result, rows, batch) for result in results)

    def unpack(self, name: str, stored: Tensor) -> Tensor:
        """Return a modality's stored samples, `(rows, *event_shape)`, as values in the networks' precision."""
        with self.blame(name, "unpack"):
            value = self.schemas[name].unpack(stored)
        return value.to(self.dtype) if value.is_floating_point() else value

    def encode(self, name: str, value: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the experts q(z|x_m) of one modality; see `expert`.

        Args:
            name: the modality.
            value: `(rows, *event_shape)`, unpacked.
            condition: see `head_output`.
        """
        return self.expert(self.head_output(name, value, condition))

    def expert(self, head: Tensor) -> tuple[Tensor, ...]:
        """Return what describes the experts, from a head's output `(rows, ...)`.

        Returns:
            Mean and precision, `(rows, latent_dim)` each. Of experts with a precision matrix, what they measured,
            `(rows, rank)`.
        """
        if len(self.measurements):
            return (full(head),)
        made = gaussian(head)
        return made.loc, made.precision

    def no_experts(self, name: str, rows: int) -> tuple[Tensor, ...]:
        """Return zeros in the form of `expert`, for rows in which a modality is absent."""
        rank = getattr(self.measurements[name], "rank", 0) if len(self.measurements) else 0
        shape = (1, rows, rank) if rank else (2, rows, self.latent_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype).unbind()

    def head_output(self, name: str, value: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the output of a modality's head, which describes its experts, `(rows, ...)`.

        Args:
            name: the modality.
            value: `(rows, *event_shape)`, unpacked.
            condition: of these rows, `(rows, width)`; see `Observed.condition_of`.
        """
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        with self.blame(name, "encoder"):
            seen = (self.encoders[name](value), *(() if condition is None else (condition,)))
            output: Tensor = self.heads[name](*seen)
        return output

    def likelihood(self, name: str, z: Tensor, *, train: bool = True) -> Distribution:
        """Return p(x_m|z).

        Args:
            name: the modality.
            z: `(rows, latent_dim)`.
            train: whether the decoder learns from these rows; otherwise gradients reach only z.
        """
        with self.blame(name, "decoder"):
            raw = self._decode(name, z, train)
        with self.blame(name, "likelihood"):
            return self.kinds[name].likelihood(self.schemas[name], full(raw) if isinstance(raw, Tensor) else raw)

    def _decode(self, name: str, z: Tensor, train: bool) -> Any:
        """Return a decoder's output, from its parameters as constants unless it learns; see `likelihood`."""
        decoder = self.decoders[name]
        if train:
            return decoder(z)
        return functional_call(decoder, {n: p.detach() for n, p in decoder.named_parameters()}, (z,))

    def log_px(self, name: str, z: Tensor, value: Tensor, *, train: bool = True) -> Tensor:
        """Return log p(x_m|z), one number per row, `(rows,)`.

        Args:
            name: the modality.
            z: `(rows, latent_dim)`.
            value: `(rows, *event_shape)`, unpacked.
            train: whether the decoder learns from these rows; otherwise gradients reach only z.
        """
        likelihood = self.likelihood(name, z, train=train)
        with self.blame(name, "likelihood"):
            log_px = likelihood.log_prob(value)
            if log_px.shape != (len(z),):
                raise ValueError(f"log_prob returned {tuple(log_px.shape)} for {len(z)} rows; it must be (rows,)")
            return log_px

    def decode_no_rows(self, name: str, z: Tensor, *, train: bool = True) -> Tensor:
        """Run a decoder on no rows because another process must run it on its rows; see `must_run`.

        Args:
            name: the modality.
            z: `(0, latent_dim)`.
            train: whether the decoder learns in this call; see `log_px`.

        Returns:
            The log-likelihoods of no rows, `(0,)`.
        """
        if not train and not z.requires_grad:  # all processes must take part in the backward pass too
            z = z.detach().requires_grad_()
        with self.blame(name, "decoder"):
            return torch.cat([part.flatten() for part in tree_leaves(self._decode(name, z, train))])

    def predict(self, name: str, z: Tensor) -> Tensor:
        """Return the value that stands for p(x_m|z), `(rows, *event_shape)`; see `modalkit.model.moments.point`."""
        schema, likelihood = self.schemas[name], self.likelihood(name, z)
        floating = schema.unpack(schema.zeros(1))
        with self.blame(name, "likelihood"):
            return point(self.kinds[name].outcome, likelihood, floating.is_floating_point())
