"""A decoder that sees only some columns of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Narrowed(nn.Module):
    """A network that sees some ranges of its input's columns, side by side.

    Args:
        network: sees these columns only, `(rows, columns seen)`.
        seen: the ranges, in their order.

    Example:
        >>> Narrowed(nn.Identity(), [slice(0, 1), slice(2, None)])(torch.tensor([[1, 2, 3, 4]])).tolist()
        [[1, 3, 4]]
    """

    def __init__(self, network: nn.Module, seen: Sequence[slice]) -> None:
        super().__init__()
        self.network, self.seen = network, tuple(seen)

    def forward(self, whole: Tensor) -> Any:
        """Return what the network returns for its columns of `whole`, `(rows, columns)`."""
        return self.network(torch.cat([whole[:, part] for part in self.seen], 1))
