"""A container of networks by modality name."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import cast

from torch import nn


class NetworkDict(nn.Module):
    """Networks by modality name, whatever the name: `torch.nn.ModuleDict` refuses names such as ``type`` and ``keys``.

    Networks are found by ``networks[name]`` alone, never as attributes. Parameters are named as in a `ModuleDict`.

    >>> networks = NetworkDict()
    >>> networks["keys"] = nn.Linear(1, 2)
    >>> list(networks), [name for name, _ in networks.named_parameters()]
    (['keys'], ['keys.weight', 'keys.bias'])
    """

    def __getitem__(self, name: str) -> nn.Module:
        return self._networks[name]

    def __setitem__(self, name: str, network: nn.Module) -> None:
        self._networks[name] = network

    def __contains__(self, name: object) -> bool:
        return name in self._networks

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._networks.keys()

    def values(self) -> ValuesView[nn.Module]:
        """Return the networks."""
        return self._networks.values()

    def items(self) -> ItemsView[str, nn.Module]:
        """Return the names with their networks."""
        return self._networks.items()

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return cast("dict[str, nn.Module]", self._modules)
