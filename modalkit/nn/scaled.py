"""A decoder beside which a scale is learned that does not depend on z."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_RATE = 10.0


class Scaled(nn.Module):
    r"""A decoder whose raw parameters end with raw scales that are the same for every row.

    The raw scale is :math:`r = 10 \theta`, where :math:`\theta` is the parameter. Likelihoods take :math:`e^r` as the
    scale, so that a step of Adam with learning rate 0.001 changes it by about one per cent, ten times as much as
    without the factor.

    Args:
        decoder: the network, `(rows, inputs) -> (rows, *event_shape)`.
        event_shape: shape of a sample; it has at least one dimension.
        shared: whether there is one scale for all values; otherwise there is one for each.
        start: the raw scale before training.

    Attributes:
        log_scale: the parameter, a tenth of the raw scales.

    Example:
        >>> decoder = Scaled(nn.Linear(2, 5), (5,), shared=True)
        >>> decoder(torch.zeros(3, 2)).shape
        torch.Size([3, 6])
    """

    def __init__(
        self, decoder: nn.Module, event_shape: Sequence[int], *, shared: bool = False, start: float = 0.0
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.log_scale = nn.Parameter(torch.full([1] * len(event_shape) if shared else event_shape, start / _RATE))

    def forward(self, z: Tensor) -> Tensor:
        """Return raw parameters, in the form of `join_scale`."""
        return join_scale(self.decoder(z), self.raw_scale)

    @property
    def raw_scale(self) -> Tensor:
        """The raw scales, `(1, 1 or first, ...)`."""
        return _RATE * self.log_scale.unsqueeze(0)

    @torch.no_grad()
    def start_at(self, raw: Tensor) -> None:
        """Set the scales to those of raw parameters; their locations are not used.

        Args:
            raw: raw parameters of one row, in the form of `join_scale`.
        """
        first = tuple(slice(-size, None) if i == 0 else slice(size) for i, size in enumerate(self.log_scale.shape))
        self.log_scale.copy_(raw[0][first] / _RATE)


def join_scale(loc: Tensor, raw_scale: Tensor) -> Tensor:
    """Return raw parameters of a likelihood with a location and a scale, one tensor.

    Args:
        loc: locations, `(rows, first, ...)`.
        raw_scale: raw scales, `(1 or rows, 1 or first, ...)`; sizes of 1 are repeated.

    Returns:
        `(rows, first + (1 or first), ...)`: the raw scales stand after the locations.
    """
    repeated = raw_scale.expand(loc.shape[0], raw_scale.shape[1], *loc.shape[2:])
    return torch.cat([loc, repeated], 1)


def split_scale(raw: Tensor, event_shape: Sequence[int], *, shared: bool = False) -> tuple[Tensor, Tensor]:
    """Return locations and raw scales: the inverse of `join_scale`.

    Args:
        raw: raw parameters.
        event_shape: shape of a sample.
        shared: whether one raw scale is meant for all values of a row.

    Returns:
        Locations, `(rows, *event_shape)`; raw scales, the same shape, or `(rows, 1, ...)` if shared.

    Raises:
        ValueError: the raw parameters have another shape.
    """
    first = event_shape[0]
    expected = (first + (1 if shared else first), *event_shape[1:])
    if tuple(raw.shape[1:]) != expected:
        raise ValueError(
            f"got {tuple(raw.shape)} from the decoder, and this 'scale' needs (rows, {', '.join(map(str, expected))}): "
            f"locations, then raw scales along dimension 1; modalkit.nn.Scaled adds scales to a decoder of locations"
        )
    rest = raw[:, first:]
    return raw[:, :first], rest[(slice(None), *[slice(1)] * len(event_shape))] if shared else rest
