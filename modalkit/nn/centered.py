"""A decoder that adds to a constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modalkit.nn.modes import evaluating


class Centered(nn.Module):
    """A decoder whose raw parameters are a constant plus the output of a network.

    Args:
        decoder: the network, `(rows, inputs) -> (rows, *raw)`.
        inputs: how many numbers the network takes.

    Attributes:
        constant: `(1, *raw)`, never trained; zeros until `start_at` sets it.
    """

    constant: Tensor

    def __init__(self, decoder: nn.Module, inputs: int) -> None:
        super().__init__()
        self.decoder, self.inputs = decoder, inputs
        self.register_buffer("constant", torch.zeros_like(self._of(torch.zeros(1, inputs))))

    @torch.no_grad()
    def _of(self, z: Tensor) -> Tensor:
        """Return the network's own output, in evaluation mode."""
        with evaluating(self.decoder):
            raw: Tensor = self.decoder(z)
        return raw

    def start_at(self, raw: Tensor) -> None:
        """Set the constant so that this decoder, before training, returns `raw` for an input of zeros.

        Args:
            raw: raw parameters, `(1, *raw)`.

        Raises:
            ValueError: the network's output has another shape.
        """
        if raw.shape != self.constant.shape:
            raise ValueError(f"has shape {tuple(raw.shape)}, the decoder's output {tuple(self.constant.shape)}")
        self.constant.copy_(raw - self._of(self.constant.new_zeros(1, self.inputs)))

    def forward(self, z: Tensor) -> Tensor:
        """Return raw parameters."""
        raw: Tensor = self.decoder(z) + self.constant
        return raw
