"""Networks of one structure, such as those of a thousand bits, run as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modalkit.nn import Centered

_FEWEST = 8
"""Of fewer, each runs by itself: on two cores 18 of width 512 gained nothing, and 100 of width 64 a factor of 2.4."""


class Stacked:
    """Networks of one structure, whose parameters are stacked each time they are called.

    So each keeps its own, and one that takes no part in a step gets no gradient, as if each were called alone.

    Args:
        networks: of which `can_stack` is true.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.one = networks[0]
        self.tensors: dict[str, list[Tensor]] = defaultdict(list)
        for network in networks:
            for name, tensor in chain(network.named_parameters(), network.named_buffers()):
                self.tensors[name].append(tensor)

    def __call__(self, members: Sequence[int], inputs: Tensor) -> Tensor:
        """Call some of the networks.

        Args:
            members: which.
            inputs: `(members, rows, ...)`.

        Returns:
            `(members, rows, ...)`.
        """

        def call(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(self.one, tensors, (x,))
            return result

        stacked = {name: torch.stack([own[m] for m in members]) for name, own in self.tensors.items()}
        result: Tensor = vmap(call, randomness="different")(stacked, inputs)
        return result


def can_stack(networks: Sequence[nn.Module], example: Tensor) -> bool:
    """Tell whether networks can be `Stacked`: of dense layers and embeddings, no batch norm, and seen to be equal so.

    A plugin's network may look at its values, or hold something beside its parameters; then each runs by itself.

    Args:
        networks: of modalities whose schemas are alike.
        example: rows that each of them takes, `(rows, ...)`.
    """
    plain = all(
        isinstance(part, (nn.Linear, nn.Embedding, Centered))
        or not [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        for part in networks[0].modules()
    )
    if not plain or any(str(other) != str(networks[0]) for other in networks):
        return False
    modes = {part: part.training for network in networks for part in network.modules()}
    try:
        with torch.no_grad(), torch.autocast(example.device.type, enabled=False):
            each = torch.stack([network.eval()(example) for network in networks])
            inputs = example.expand(len(networks), *example.shape)
            return torch.allclose(Stacked(networks)(range(len(networks)), inputs), each, rtol=1e-4, atol=1e-5)
    except Exception:  # what torch raises for what it cannot run as one, and whatever a plugin raises
        return False
    finally:
        for part, training in modes.items():
            part.training = training


@dataclass(frozen=True)
class Chosen:
    """Some rows of each of several members, the same number of each for the sake of one call.

    Attributes:
        members: those that have any, `(g,)`.
        rows: indices, `(g, most)`, each member's own in order and then its first again.
        member: of each that counts, its place in `members`, `(n,)`.
        place: of each that counts, its place in the member's `rows`, `(n,)`.
    """

    members: Tensor
    rows: Tensor
    member: Tensor
    place: Tensor

    @classmethod
    def of(cls, wanted: Tensor) -> Chosen:
        """Choose, by a mask `(rows, members)` on the CPU.

        >>> chosen = Chosen.of(torch.tensor([[True, False, True], [True, False, False]]))
        >>> chosen.members.tolist(), chosen.rows.tolist(), chosen.member.tolist(), chosen.place.tolist()
        ([0, 2], [[0, 1], [0, 0]], [0, 0, 1], [0, 1, 0])
        """
        counts = wanted.sum(0)
        members = counts.nonzero().squeeze(1)
        counts = counts[members]
        member, row = wanted.t()[members].nonzero(as_tuple=True)
        first = counts.cumsum(0) - counts  # where each member's rows begin
        place = torch.arange(len(row)) - first[member]
        rows = row[first][:, None].repeat(1, int(counts.max()) if len(counts) else 0)  # (g, most)
        rows[member, place] = row
        return cls(members, rows, member, place)

    def take(self, values: Tensor) -> Tensor:
        """Return the members' chosen rows, `(all members, rows, ...) -> (g, most, ...)`."""
        return values[_on(self.members, values)[:, None], _on(self.rows, values)]

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Put the chosen rows' values at their places, zeros elsewhere, `(g, most, ...) -> (all members, rows, ...)`.

        Args:
            values: one for each of the chosen rows.
            shape: rows and members.
        """
        if len(self.member) == shape.numel():  # all of all
            return values
        where = (_on(self.members[self.member], values), _on(self.rows[self.member, self.place], values))
        counted = values[_on(self.member, values), _on(self.place, values)]
        return values.new_zeros(shape[1], shape[0], *values.shape[2:]).index_put(where, counted)


def _on(indices: Tensor, values: Tensor) -> Tensor:
    """Return indices where values are, without waiting for the device."""
    return indices.to(values.device, non_blocking=True)


def together(keys: Mapping[str, Any]) -> list[list[str]]:
    """Return the names that have a key in common, where there are as many as pay.

    >>> [len(names) for names in together({f"bit{i}": "bit" for i in range(9)} | {"image": "image"})]
    [9]
    """
    found: dict[Any, list[str]] = defaultdict(list)
    for name, key in keys.items():
        found[key].append(name)
    return [names for names in found.values() if len(names) >= _FEWEST]
