"""The velocity field of a conditional flow from Gaussian noise to a latent space."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_FREQUENCIES = 8


class VelocityField(nn.Module):
    r"""A velocity :math:`f(u, t, c)` whose flow turns standard normal noise into samples of z given a subset.

    The condition c is the mean and the standard deviation of q(z|x_S), and which modalities S holds. The field is that
    of the Gaussian with this mean m and standard deviation s, plus a residual network that starts at zero:

    .. math:: f(u, t, c) = m + \frac{t s^2 - (1 - t)}{(1 - t)^2 + t^2 s^2} (u - t m) + r(u, t, c)

    An untrained field thus samples from q(z|x_S) as if its dimensions were independent.

    Args:
        latent_dim: size of z.
        modalities: number of modalities.
        width: width of the residual network.
        blocks: number of its residual blocks.

    Source:
        Lipman et al. 2023, Flow matching for generative modeling, for fields of Gaussians and the loss.

    >>> field = VelocityField(3, 2, 16, 2)
    >>> field(torch.zeros(5, 3), torch.ones(5, 1), torch.ones(5, 3), torch.ones(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    frequencies: Tensor

    def __init__(self, latent_dim: int, modalities: int, width: int, blocks: int) -> None:
        super().__init__()
        features = 3 * latent_dim + modalities + 2 * _FREQUENCIES
        self.first = nn.Linear(features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.last = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("frequencies", math.pi * torch.arange(1, _FREQUENCIES + 1), persistent=False)

    def forward(self, u: Tensor, t: Tensor, loc: Tensor, scale: Tensor, given: Tensor) -> Tensor:
        """Return velocities, `(rows, latent_dim)`.

        Args:
            u: points on the way from noise to z, `(rows, latent_dim)`.
            t: how far each has come, from 0 (noise) to 1 (z), `(rows, 1)`.
            loc: mean of q(z|x_S) in the units of `u`, `(rows, latent_dim)`.
            scale: its standard deviation, above 0, `(rows, latent_dim)`.
            given: which modalities S holds, 0 or 1, `(rows, modalities)`.
        """
        variance, rest = scale.square(), 1 - t
        gaussian = loc + (t * variance - rest) / (rest.square() + t.square() * variance) * (u - t * loc)
        angles = t * self.frequencies
        hidden = self.first(torch.cat([u, loc, scale.log(), given, angles.sin(), angles.cos()], -1))
        for block in self.blocks:
            hidden = block(hidden)
        residual: Tensor = self.last(nn.functional.silu(hidden))
        return gaussian + residual


class _Block(nn.Module):
    """A residual block, `(rows, width) -> (rows, width)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.outer(nn.functional.silu(self.inner(self.norm(x))))
        return x + inner
