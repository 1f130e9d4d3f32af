"""Linear paths beside the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearFeatures(nn.Module):
    """An encoder whose features are those of a network and linear ones beside them, `[network(x), B x + b]`.

    Args:
        network: the network, `(rows, ...) -> (rows, features)`.
        inputs: how many numbers a row has.
        width: how many linear features to add; never more than `inputs`.

    Attributes:
        network: the argument.
        linear: the linear path.

    >>> LinearFeatures(nn.Linear(9, 5), 9, 4)(torch.zeros(2, 9)).shape
    torch.Size([2, 9])
    """

    def __init__(self, network: nn.Module, inputs: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.linear = nn.Linear(inputs, min(inputs, width))

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        flat = value.reshape(value.shape[0], self.linear.in_features)  # (rows, ...) -> (rows, inputs)
        return torch.cat([self.network(value), self.linear(flat)], 1)


class EmbeddedFeatures(nn.Module):
    """`LinearFeatures` of one integer: its linear path sees the one-hot vector, so it is an embedding.

    Args:
        network: the network, `(rows,) -> (rows, features)`.
        categories: the integers are below this.
        width: how many linear features to add.

    Attributes:
        network: the argument.
        linear: the linear path.
    """

    def __init__(self, network: nn.Module, categories: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.linear = nn.Embedding(categories, width)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        return torch.cat([self.network(value), self.linear(value)], 1)


class LinearDecoder(nn.Module):
    """A decoder that adds a linear path to a network, `A z + c + network(z)`.

    Args:
        network: the network, `(rows, inputs) -> (rows, *shape)`.
        inputs: how many numbers the network takes.
        shape: the shape of its output for a row.

    Attributes:
        network: the argument.
        linear: the linear path, whose output is flat.
    """

    def __init__(self, network: nn.Module, inputs: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.network, self.shape = network, tuple(shape)
        self.linear = nn.Linear(inputs, math.prod(shape))

    def forward(self, z: Tensor) -> Tensor:
        """Return raw parameters."""
        line = self.linear(z).reshape(z.shape[0], *self.shape)  # (rows, numbers) -> (rows, *shape)
        result: Tensor = self.network(z) + line
        return result
