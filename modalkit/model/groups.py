"""Groups of modalities whose networks run in one call: a modality by itself, or many alike as stacked networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from modalkit.model.covariates import ConditionedExpert
from modalkit.model.networks import ModalityNetworks
from modalkit.model.observed import Observed
from modalkit.model.rows import full, spread, take
from modalkit.nn.batch_norm import can_part, parted
from modalkit.nn.stacked import Chosen, Stacked, can_stack, together


class NetworkGroup(ABC):
    """Modalities whose networks run together.

    Args:
        networks: the networks of all modalities.
        names: the modalities of the group.

    Attributes:
        columns: places of these modalities among all.
    """

    def __init__(self, networks: ModalityNetworks, names: Sequence[str]) -> None:
        self.networks, self.names = networks, tuple(names)
        self.columns = torch.tensor([networks.names.index(name) for name in names])

    @abstractmethod
    def experts(self, observed: Observed, present: Tensor) -> list[tuple[Tensor, ...]]:
        """Return what describes each modality's experts, `(batch, ...)` as in `ModalityNetworks.expert`.

        Where a modality is absent there are zeros; a precision of 0 means absent.

        Args:
            observed: the values of the batch.
            present: bool `(batch, all modalities)`, on the CPU.
        """

    @abstractmethod
    def log_px(
        self, z: Tensor, observed: Observed, present: Tensor, targets: Tensor, trains: Tensor | None = None
    ) -> Tensor:
        """Return log p(x_m|z) of the (term, row) pairs in `targets`, and zeros elsewhere, `(terms, batch, members)`.

        Args:
            z: `(terms, batch, latent_dim)`.
            observed: the values of the batch.
            present: bool `(batch, all modalities)`, on the CPU.
            targets: bool `(terms, batch, members)`, on the CPU.
            trains: the targets that a decoder learns from, of the same shape; None for all. The others are decoded in a
                call of their own with constant parameters, which batch normalisation handles as another part.
        """

    @abstractmethod
    def weighted_sum(self, scores: Tensor, weight: Tensor) -> Tensor:
        """Return the sum over the modalities, weighted by each modality's weight and by `weight`.

        Args:
            scores: `(terms, batch, members)`.
            weight: of the terms and rows, broadcastable to `(terms, batch)`.
        """


class SingleGroup(NetworkGroup):
    """One modality, whose networks run on the rows that need them.

    Args:
        networks: the networks of all modalities.
        name: the modality.
    """

    def __init__(self, networks: ModalityNetworks, name: str) -> None:
        super().__init__(networks, [name])
        self.name, self.column = name, networks.names.index(name)

    def experts(self, observed: Observed, present: Tensor) -> list[tuple[Tensor, ...]]:
        """Encode the rows that have the modality; see `NetworkGroup.experts`."""
        networks, name, found = self.networks, self.name, None
        if name in networks.heads:
            condition = observed.condition_of(name)

            def encode() -> tuple[Tensor, ...]:
                return networks.encode(name, observed[name], condition)

            rows = present[:, self.column].nonzero().squeeze(1)
            found = networks.run_on_rows(name, "encoder", networks.encoders[name], rows, len(present), encode)
        return [networks.no_experts(name, len(present)) if found is None else found]

    def log_px(
        self, z: Tensor, observed: Observed, present: Tensor, targets: Tensor, trains: Tensor | None = None
    ) -> Tensor:
        """Decode in one call, or once a term if the decoder cannot keep the terms apart; see `NetworkGroup.log_px`."""
        if trains is None:
            return self._log_px(z, observed, present, targets)
        learned = self._log_px(z, observed, present, trains)
        return learned + self._log_px(z, observed, present, targets & ~trains, train=False)

    def _log_px(self, z: Tensor, observed: Observed, present: Tensor, targets: Tensor, *, train: bool = True) -> Tensor:
        """Decode pairs from all of which the decoder learns, or from none; see `NetworkGroup.log_px`."""
        networks, name, targets = self.networks, self.name, targets.squeeze(-1)
        terms, batch = targets.shape
        place = present[:, self.column].long().cumsum(0) - 1  # a row's place among the rows that have the modality
        parts = targets.sum(1).tolist() if networks.mixes_rows[name] else None
        once_a_term = parts is not None and not can_part(networks.decoders[name])
        calls = targets if once_a_term else targets.flatten()[None]
        samples = z if once_a_term else z.flatten(0, 1)[None]  # (1, terms * batch, latent_dim)
        runs = calls.any(1)
        if name in networks.decoders:
            runs = networks.must_run(networks.decoders[name], runs)
        scores = []
        for wanted, sample, run in zip(calls, samples, runs.tolist(), strict=True):
            pairs = wanted.nonzero().squeeze(1)
            if len(pairs):
                values = _take_any(observed[name], place[pairs % max(1, batch)])
                with nullcontext() if parts is None or once_a_term else parted(networks.decoders[name], parts):
                    log_px = networks.log_px(name, take(sample, pairs), values, train=train)
            else:
                log_px = networks.decode_no_rows(name, sample[:0], train=train) if run else z.new_zeros(0)
            scores.append(spread(log_px, pairs, len(sample)))
        return torch.stack(scores).reshape(terms, batch, 1)

    def weighted_sum(self, scores: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted scores of the one modality; see `NetworkGroup.weighted_sum`."""
        return weight * self.networks.schemas[self.name].weight * scores.squeeze(-1)


class StackedGroup(NetworkGroup):
    """Modalities that are alike: their schemas are equal but for the weight, and their networks run as one.

    Args:
        networks: the networks of all modalities.
        names: the modalities of the group.
        experts: their encoders, each with its head.
        decoders: their decoders.
    """

    def __init__(
        self,
        networks: ModalityNetworks,
        names: Sequence[str],
        experts: Sequence[nn.Module],
        decoders: Sequence[nn.Module],
    ) -> None:
        super().__init__(networks, names)
        self._experts, self._decoders = Stacked(experts), Stacked(decoders)

    def experts(self, observed: Observed, present: Tensor) -> list[tuple[Tensor, ...]]:
        """Encode the modalities of which any row is present; see `NetworkGroup.experts`."""
        networks, name = self.networks, self.names[0]
        present = present[:, self.columns]  # (batch, members)
        chosen = Chosen.of(present)
        if not len(chosen.members):
            return [networks.no_experts(name, len(present))] * len(self.names)
        with networks.blame(name, "encoder"):
            seen = [chosen.take(observed.all_rows(self.names))]
            if observed.condition is not None:
                seen.append(chosen.take(observed.condition.expand(len(self.names), -1, -1)))
            expert = networks.expert(self._experts(chosen.members.tolist(), *seen))
        parts = [chosen.spread(part, present.shape) for part in expert]
        return list(zip(*map(torch.unbind, parts), strict=True))

    def log_px(
        self, z: Tensor, observed: Observed, present: Tensor, targets: Tensor, trains: Tensor | None = None
    ) -> Tensor:
        """Decode the modalities that any pair asks for; see `NetworkGroup.log_px`."""
        if trains is None:
            return self._log_px(z, observed, targets)
        return self._log_px(z, observed, trains) + self._log_px(z, observed, targets & ~trains, train=False)

    def _log_px(self, z: Tensor, observed: Observed, targets: Tensor, *, train: bool = True) -> Tensor:
        """Decode pairs from all of which the decoders learn, or from none; see `NetworkGroup.log_px`."""
        terms, batch, members = targets.shape
        chosen = Chosen.of(targets.flatten(0, 1))  # rows are (term, row) pairs
        if not len(chosen.members):
            return z.new_zeros(targets.shape)
        pairs = chosen.rows.to(z.device)
        values = observed.all_rows(self.names)[chosen.members.to(z.device)[:, None], pairs % max(1, batch)]
        log_px = self._score(chosen.members.tolist(), z.flatten(0, 1)[pairs], values, train)
        spread_out = chosen.spread(log_px, torch.Size((terms * batch, members)))
        return spread_out.reshape(members, terms, batch).permute(1, 2, 0)

    def _score(self, members: list[int], z: Tensor, values: Tensor, train: bool) -> Tensor:
        """Return log p(x_m|z) of some members, `(members, rows)`.

        Args:
            members: indices of the members.
            z: `(members, rows, latent_dim)`.
            values: `(members, rows, *event_shape)`, unpacked.
            train: whether the decoders learn from these rows.
        """
        networks, name = self.networks, self.names[0]
        with networks.blame(name, "decoder"):
            raw = full(self._decoders(members, z, train=train))
        with networks.blame(name, "likelihood"):
            # (members, rows, ...) -> (members * rows, ...) and back
            likelihood = networks.kinds[name].likelihood(networks.schemas[name], raw.flatten(0, 1))
            return torch.unflatten(likelihood.log_prob(values.flatten(0, 1)), 0, z.shape[:2])

    def weighted_sum(self, scores: Tensor, weight: Tensor) -> Tensor:
        """Return one matrix product with the modalities' weights; see `NetworkGroup.weighted_sum`."""
        weights = scores.new_tensor([self.networks.schemas[name].weight for name in self.names])
        return weight * (scores @ weights)


def single_groups(networks: ModalityNetworks) -> tuple[NetworkGroup, ...]:
    """Return a group for each modality, none of them stacked."""
    return tuple(SingleGroup(networks, name) for name in networks.names)


def fastest_groups(networks: ModalityNetworks) -> tuple[NetworkGroup, ...]:
    """Return all modalities in groups: those that can be stacked first, then each other modality by itself."""
    stacked = []
    parts = (networks.encoders, networks.decoders, networks.heads)
    whole = {n: s for n, s in networks.schemas.items() if all(n in part for part in parts)}
    for names in together({n: s.model_copy(update={"weight": 1.0}).model_dump_json() for n, s in whole.items()}):
        whole_expert = nn.Sequential if networks.covariates is None else ConditionedExpert
        experts = [whole_expert(networks.encoders[n], networks.heads[n]) for n in names]
        decoders = [networks.decoders[n] for n in names]
        example = [networks.unpack(names[0], networks.schemas[names[0]].zeros(2, networks.device))]
        z = torch.zeros(2, networks.decoder_widths[names[0]], dtype=networks.dtype, device=networks.device)
        if networks.covariates is not None:
            example.append(z[:, networks.latent_dim :])
        if can_stack(experts, *example) and can_stack(decoders, z):
            stacked.append(StackedGroup(networks, names, experts, decoders))
    grouped = {name for group in stacked for name in group.names}
    return (*stacked, *(group for group in single_groups(networks) if group.names[0] not in grouped))


def _take_any(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` for any indices on the CPU, without a copy if these are all rows in order."""
    same = len(rows) == len(values) and torch.equal(rows, torch.arange(len(values)))
    return values if same else values.index_select(0, rows.to(values.device, non_blocking=True))
