"""The multimodal VAE that a recipe's modalities make: experts, posterior for any subset, likelihoods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves

from modalkit import registry
from modalkit.data import Batch
from modalkit.distributions import Gaussian, Posterior, product_of_experts
from modalkit.errors import guard
from modalkit.nn import Centered, mixes_rows
from modalkit.nn.stacked import Chosen, Stacked, can_stack, together
from modalkit.plugin import CustomNetwork, Modality, Objective, Schema
from modalkit.recipe.sections import Recipe
from modalkit.util.processes import Processes
from modalkit.util.randomness import derived_seed


@dataclass(frozen=True)
class Group:
    """Modalities that are alike: their schemas but for the weight, and the structure of their networks.

    Attributes:
        names: of the modalities.
        columns: their places among all.
        experts: their encoders with the heads.
        decoders: their decoders.
    """

    names: tuple[str, ...]
    columns: Tensor
    experts: Stacked
    decoders: Stacked


class Observed(Mapping[str, Tensor]):
    """What the networks see of a batch: per modality the unpacked samples of the rows that have it.

    Each is `(rows in which it is present, *event_shape)`, in the networks' precision, and made when first asked for.
    """

    def __init__(self, model: MultimodalVAE, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._made: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        self._place = {name: (group, i) for group in model.groups for i, name in enumerate(group.names)}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            rows = self._batch.present[:, self._model.names.index(name)].nonzero().squeeze(1)
            if name in self._place:
                group, place = self._place[name]
                self._made[name] = take(self.whole(group)[place], rows)
            else:
                self._made[name] = self._model.unpack(name, take(self._batch.values[name], rows))
        return self._made[name]

    def whole(self, group: Group) -> Tensor:
        """Return all rows of a group's modalities, `(members, batch, *event_shape)`; zeros unpacked where absent."""
        first = group.names[0]
        if first not in self._whole:
            stored = torch.stack([self._batch.values[name] for name in group.names])
            # (members, batch, ...) -> (members * batch, ...) and back
            self._whole[first] = torch.unflatten(self._model.unpack(first, stored.flatten(0, 1)), 0, stored.shape[:2])
        return self._whole[first]

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.names)

    def __len__(self) -> int:
        return len(self._model.names)


class MultimodalVAE(nn.Module):
    """An encoder, a Gaussian head and a decoder for each modality, over one latent z with prior N(0, I).

    Objectives whose posteriors are made in another way subclass it.

    Args:
        schemas: the modalities by name.
        latent_dim: size of z.
        prior_expert: whether the prior is a factor of every posterior, or stands only where nothing is given.

    Attributes:
        components: of its posteriors; 1 if they are Gaussian.

    Raises:
        InputError: a plugin raised or returned a wrong shape; names the modality, its kind and what was expected.
    """

    components = 1

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, *, prior_expert: bool = True) -> None:
        super().__init__()
        self.prior_expert = prior_expert
        self.processes: Processes | None = None  # those that share statistics with this one, if there are any
        self.schemas, self.names, self.latent_dim = dict(schemas), tuple(schemas), latent_dim
        self._kinds: dict[str, Modality[Any]] = {n: registry.modality(s.kind) for n, s in schemas.items()}
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self._inputs: dict[str, int] = {}  # numbers that each decoder takes
        self.heads = nn.ModuleDict()
        for name, schema in self.schemas.items():
            self._assemble(name, schema)
        # Decoders whose rows depend on each other must see one ELBO term at a time.
        self.mixes_rows = {name: mixes_rows(decoder) for name, decoder in self.decoders.items()}
        self.to(memory_format=torch.channels_last)  # the fastest convolutions

    def _assemble(self, name: str, schema: Schema) -> None:
        """Make one modality's networks."""
        self.encoders[name], features = self.make_encoder(name, schema)
        self.decoders[name] = self.make_decoder(name, self.latent_dim)
        self.heads[name] = nn.Linear(features, 2 * self.latent_dim)

    def make_encoder(self, name: str, schema: Schema) -> tuple[nn.Module, int]:
        """Return a modality's encoder, as this schema describes it, and how many features it gives.

        Raises:
            InputError: it fails on two rows of zeros, or returns another shape than `(rows, features)`.
        """
        network = getattr(schema, "network", None)
        with self._blame(name, "encoder"):
            if isinstance(network, CustomNetwork):
                encoder: nn.Module = registry.import_object(network.encoder)(schema, **network.options)
            else:
                encoder = self._kinds[name].encoder(schema)
            value = schema.unpack(schema.zeros(2))
            with torch.no_grad():
                features = encoder.eval()(value)
            if features.ndim != 2 or len(features) != 2:
                raise ValueError(f"returned {tuple(features.shape)} for 2 rows; it must return (rows, features)")
        return encoder.train(), features.shape[1]

    def make_decoder(self, name: str, inputs: int) -> nn.Module:
        """Return a modality's decoder of vectors of `inputs` numbers.

        Raises:
            InputError: it or the likelihood fails on two rows of zeros, or gives a wrong shape.
        """
        kind, schema = self._kinds[name], self.schemas[name]
        network = getattr(schema, "network", None)
        with self._blame(name, "decoder"):
            if isinstance(network, CustomNetwork):
                decoder: nn.Module = registry.import_object(network.decoder)(schema, inputs, **network.options)
            else:
                decoder = kind.decoder(schema, inputs)
            with torch.no_grad():
                raw = decoder.eval()(torch.zeros(2, inputs))
        self._inputs[name] = inputs
        with self._blame(name, "likelihood"):
            made = kind.likelihood(schema, raw)
            if (made.batch_shape, made.event_shape) != ((2,), schema.event_shape):
                raise ValueError(
                    f"has batch_shape {tuple(made.batch_shape)} and event_shape {tuple(made.event_shape)} for 2 rows; "
                    f"they must be (2,) and {schema.event_shape}, the schema's (torch.distributions.Independent helps)"
                )
        return decoder.train()

    def center(self) -> None:
        """Let decoders add to a constant, where their kind has a `marginal` and their output is one tensor.

        Raises:
            InputError: a plugin raised.
        """
        for name, decoder in self.decoders.items():
            with self._blame(name, "decoder"), torch.no_grad():
                one = isinstance(decoder.eval()(torch.zeros(2, self._inputs[name])), Tensor)
            if one and self._kinds[name].marginal is not None:
                self.decoders[name] = Centered(decoder.train(), self._inputs[name])

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
            return gaussian(self.heads[name](self.encoders[name](value)))

    def runs(self, network: nn.Module, here: Tensor) -> Tensor:
        """Tell whether a network runs, given whether there are rows for it here, bool on the CPU of any shape.

        Where processes share the statistics of its batch normalisation, it runs if there are rows for it in any.
        """
        shared = self.processes is not None and self.training and mixes_rows(network)
        return self.processes.most(here).bool() if shared and self.processes else here

    def observed(self, batch: Batch) -> Observed:
        """Return what the networks see of a batch.

        Args:
            batch: values on the model's device, columns of `present` in the order of `names`.
        """
        return Observed(self, batch)

    def unpack(self, name: str, stored: Tensor) -> Tensor:
        """Return a modality's stored samples, `(rows, *event_shape)`, as values in the networks' precision."""
        with self._blame(name, "unpack"):
            value = self.schemas[name].unpack(stored)
        return value.to(self.dtype) if value.is_floating_point() else value

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The modalities that are alike, where there are so many that running them as one pays."""
        found = []
        whole = {n: s for n, s in self.schemas.items() if n in self.encoders and n in self.decoders and n in self.heads}
        for names in together({n: s.model_copy(update={"weight": 1.0}).model_dump_json() for n, s in whole.items()}):
            experts = [nn.Sequential(self.encoders[n], self.heads[n]) for n in names]
            decoders = [self.decoders[n] for n in names]
            schema = self.schemas[names[0]]
            stored = schema.zeros(2, self.device)
            z = torch.zeros(2, self.latent_dim, dtype=self.dtype, device=self.device)
            if can_stack(experts, self.unpack(names[0], stored)) and can_stack(decoders, z):
                columns = torch.tensor([self.names.index(n) for n in names])
                found.append(Group(tuple(names), columns, Stacked(experts), Stacked(decoders)))
        return tuple(found)

    def compile_networks(self, mode: str) -> None:
        """Have `torch.compile` write the networks' kernels, once for any number of rows.

        Modalities that are alike run as one network, which stays as it is.

        Args:
            mode: torch's.
        """
        alike = {name for group in self.groups for name in group.names}
        networks = [part for parts in (self.encoders, self.decoders) for n, part in parts.items() if n not in alike]
        for network in networks:
            network.compile(mode=mode, dynamic=True)
        config = torch._dynamo.config
        config.allow_unspec_int_on_nn_module = True  # the rows of a batch norm's parts
        # Each is compiled for training and for validation, and for any number of terms.
        config.recompile_limit = max(config.recompile_limit, 8 * len(networks))
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * len(networks))

    def experts(self, observed: Mapping[str, Tensor], present: Tensor) -> Gaussian:
        """Return every row's experts, encoding each modality once; a precision of 0 says absent.

        Args:
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.

        Returns:
            `(batch, modalities, latent_dim)`.
        """
        parts: dict[str, Gaussian] = {}
        if isinstance(observed, Observed):
            for group in self.groups:
                experts = self._experts_of(group, observed.whole(group), present[:, group.columns])
                parts |= {n: Gaussian(*part) for n, *part in zip(group.names, *map(torch.unbind, experts), strict=True)}
        for column, name in enumerate(self.names):
            if name in parts:
                continue
            rows = present[:, column].nonzero().squeeze(1)
            if name in self.heads and self.runs(self.encoders[name], torch.tensor(len(rows) > 0)):
                expert = self.encode(name, observed[name])
            else:
                rows = rows[:0]
                expert = Gaussian(*torch.zeros(2, 0, self.latent_dim, device=self.device, dtype=self.dtype))
            parts[name] = Gaussian(*(spread(part, rows, len(present)) for part in (expert.loc, expert.precision)))
        ordered = [parts[name] for name in self.names]
        return Gaussian(torch.stack([e.loc for e in ordered], 1), torch.stack([e.precision for e in ordered], 1))

    def _experts_of(self, group: Group, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and precision of a group's experts, `(members, batch, latent_dim)` each, 0 where absent.

        Args:
            group: the modalities.
            values: `(members, batch, *event_shape)`, unpacked.
            present: bool `(batch, members)`, on the CPU.
        """
        chosen = Chosen.of(present)
        if not len(chosen.members):
            nothing = torch.zeros(len(group.names), len(present), self.latent_dim, device=self.device, dtype=self.dtype)
            return nothing, nothing
        with self._blame(group.names[0], "encoder"):
            expert = gaussian(group.experts(chosen.members.tolist(), chosen.take(values)))
        return chosen.spread(expert.loc, present.shape), chosen.spread(expert.precision, present.shape)

    def posterior(self, observed: Mapping[str, Tensor], present: Tensor, given: Tensor) -> Posterior:
        """Return q(z|X) for several subsets X of each row's modalities, encoding each modality once.

        Args:
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.
            given: bool `(terms, batch, modalities)`, on the CPU; nothing absent may be given, and only subsets that
                `allows` allows.

        Returns:
            `(terms, batch, latent_dim)`, of `components` components.
        """
        experts = self.experts(observed, present)
        with torch.autocast(self.device.type, enabled=False):  # products of many small numbers
            return product_of_experts(experts, given.to(self.device, non_blocking=True), prior_expert=self.prior_expert)

    def allows(self, given: Tensor) -> Tensor:
        """Tell which subsets of modalities the model has posteriors of, bool `(..., modalities) -> (...)`."""
        return torch.ones(given.shape[:-1], dtype=torch.bool)

    def decoder_inputs(self, z: Tensor, observed: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return what decoders see for draws of z, `(..., batch, latent_dim)`: z itself, unless a model conditions.

        Args:
            z: draws.
            observed: what `observed` returned.
            present: bool `(batch, modalities)`, on the CPU.
        """
        return z

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters each part has: every expert (encoder and head), decoder, and what is beside."""
        parts: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            part, _, rest = name.partition(".")
            of = f".{rest.split('.')[0]}" if part in ("encoders", "heads", "decoders") else ""
            key = f"{'decoder' if part == 'decoders' else 'expert' if of else part}{of}"
            parts[key] = parts.get(key, 0) + parameter.numel()
        return parts

    def likelihood(self, name: str, z: Tensor) -> Distribution:
        """Return p(x_m|z) for `(rows, latent_dim)` draws of z."""
        with self._blame(name, "decoder"):
            raw = self.decoders[name](z)
        with self._blame(name, "likelihood"):
            return self._kinds[name].likelihood(self.schemas[name], full(raw) if isinstance(raw, Tensor) else raw)

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

    def log_px_of(self, group: Group, members: list[int], z: Tensor, values: Tensor) -> Tensor:
        """Return log p(x_m|z) of some members of a group, `(members, rows)`.

        Args:
            group: the modalities.
            members: which of them.
            z: `(members, rows, latent_dim)`.
            values: `(members, rows, *event_shape)`, unpacked.
        """
        name = group.names[0]
        with self._blame(name, "decoder"):
            raw = full(group.decoders(members, z))
        with self._blame(name, "likelihood"):
            # (members, rows, ...) -> (members * rows, ...) and back
            likelihood = self._kinds[name].likelihood(self.schemas[name], raw.flatten(0, 1))
            return torch.unflatten(likelihood.log_prob(values.flatten(0, 1)), 0, z.shape[:2])

    def idle(self, name: str, z: Tensor) -> Tensor:
        """Run a decoder on no rows, `(0, latent_dim)`, as another process runs it on its own; return `(0,)`."""
        with self._blame(name, "decoder"):
            return torch.cat([part.flatten() for part in tree_leaves(self.decoders[name](z))])

    def predict(self, name: str, z: Tensor) -> Tensor:
        """Return the value that stands for p(x_m|z), `(rows, *event_shape)`: its mean, for integer kinds its mode."""
        schema, likelihood = self.schemas[name], self.likelihood(name, z)
        floating = schema.unpack(schema.zeros(1))
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


def assemble(recipe: Recipe) -> MultimodalVAE:
    """Return the model of a recipe's modalities whose posteriors its objective trains, freshly drawn from its seed.

    Raises:
        InputError: a plugin does not keep its contract, or the objective cannot be had of these kinds.
    """
    objective: Objective[Any] = registry.get(registry.OBJECTIVES, recipe.objective.name)
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    if objective.model is None:
        model = MultimodalVAE(recipe.modalities, recipe.model.latent_dim)
    else:
        with guard(f"objective '{objective.name}': its model"):
            made = objective.model(recipe.objective, recipe.modalities, recipe.model.latent_dim)
            if not isinstance(made, MultimodalVAE):
                raise TypeError(f"is a {type(made).__name__}, not a modalkit.model.MultimodalVAE")
            model = made
    if recipe.model.centered:
        model.center()
    return model


def gaussian(head: Tensor) -> Gaussian:
    """Return the expert that a head's output, loc and log-variance `(rows, 2 * latent_dim)`, describes."""
    loc, log_variance = full(head).chunk(2, -1)
    return Gaussian(loc, (-log_variance).exp())


def of_rows(observed: Tensor, present: Tensor, rows: Tensor) -> Tensor:
    """Return the samples of some rows out of those of all rows that have them.

    Args:
        observed: `(rows in which it is present, *event_shape)`.
        present: bool `(batch,)`, on the CPU.
        rows: sorted, distinct indices in the batch, all present, on the CPU.
    """
    return take(observed, present.long().cumsum(0)[rows] - 1)


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` for sorted, distinct `rows` on the CPU, without a copy where that is all of them."""
    return values if len(rows) == len(values) else values.index_select(0, rows.to(values.device, non_blocking=True))


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
    return rows_of.new_zeros(batch, *rows_of.shape[1:]).index_copy(
        0, rows.to(rows_of.device, non_blocking=True), rows_of
    )


def full(tensor: Tensor) -> Tensor:
    """Leave reduced precision, in which sums of thousands of log-likelihoods would drown."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
