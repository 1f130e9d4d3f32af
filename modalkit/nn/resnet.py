"""Residual convolutional networks for pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from modalkit.nn.batch_norm import BatchNorm2d
from modalkit.nn.dense import mlp
from modalkit.nn.fast import Doubling
from modalkit.nn.settings import Resnet

_FIRST, _MOST = 32, 256  # default channels of the first stage, and of any
_SMALL = 8  # by default, stages halve a picture until its smaller side is below this
_GROUP = 8  # fewest channels of a group that group normalisation forms, if there are as many


@dataclass(frozen=True)
class ResidualStage:
    """One of the stages of a residual network, each of which halves the picture.

    Attributes:
        width: channels after it.
        before: height and width of its input.
        after: height and width of its output, half of `before`, rounded up.
    """

    width: int
    before: tuple[int, int]
    after: tuple[int, int]


def residual_stages(size: Sequence[int], channels: Sequence[int] | None = None) -> list[ResidualStage]:
    """Return the stages of an encoder, which a decoder reverses.

    Args:
        size: the picture's height and width in pixels.
        channels: channels after each stage; None for the default, see `Resnet`.

    Raises:
        ValueError: the picture is too small for that many stages: fewer than 2 x 2 pixels would be left.

    >>> [(s.width, *s.after) for s in residual_stages((50, 64))]
    [(32, 25, 32), (64, 13, 16), (128, 7, 8)]
    """
    if channels is None:
        count = next(i for i in range(1, 64) if min(size) <= (_SMALL - 1) << i)
        channels = [min(_FIRST << i, _MOST) for i in range(count)]
    found: list[ResidualStage] = []
    before = (size[0], size[1])
    for width in channels:
        after = (math.ceil(before[0] / 2), math.ceil(before[1] / 2))
        if min(after) < 2:
            raise ValueError(
                f"a picture of {size[0]} x {size[1]} is too small for {len(channels)} stages of 'resnet': each halves "
                f"it, and at least 2 x 2 pixels must be left; give fewer 'channels', or write 'network: mlp'"
            )
        found.append(ResidualStage(width, before, after))
        before = after
    return found


class ResidualBlock(nn.Module):
    r"""A pre-activation residual block, :math:`U S x + W_2 \, U \sigma(N_2(W_1 \, \sigma(N_1(x))))`.

    :math:`W_1` and :math:`W_2` are 3x3 convolutions, :math:`N_1` and :math:`N_2` normalisations, and :math:`\sigma` is
    SiLU. S is the identity, or a 1x1 convolution if the number of channels changes. U is the identity, or repeats each
    pixel if the block doubles the picture. In a block that halves it, :math:`W_1` has stride 2, and S is preceded by
    means of 2x2 pixels.

    Args:
        inputs: channels of its input.
        width: channels of its output.
        norm: the normalisation, see `Resnet`.
        resize: whether the block halves or doubles the picture; None keeps its size.

    Source:
        He, Zhang, Ren & Sun 2016, "Identity mappings in deep residual networks".
    """

    def __init__(
        self, inputs: int, width: int, norm: Literal["group", "batch"], resize: Literal["halve", "double"] | None = None
    ) -> None:
        super().__init__()
        stride = 2 if resize == "halve" else 1
        self.before = nn.Sequential(
            _norm(norm, inputs), nn.SiLU(), nn.Conv2d(inputs, width, 3, stride, 1, bias=False), _norm(norm, width)
        )
        self.after = nn.Conv2d(width, width, 3, padding=1, bias=False)
        # Not a 1x1 convolution with stride 2: oneDNN's crashes in the backward pass for few channels, torch 2.14.
        pool = [nn.AvgPool2d(2, ceil_mode=True)] if resize == "halve" else []
        mix = [nn.Conv2d(inputs, width, 1, bias=False)] if inputs != width else []
        self.shortcut = nn.Sequential(*pool, *mix)
        self.activation = nn.SiLU()
        self.enlarge = nn.Upsample(scale_factor=2) if resize == "double" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return features, `(rows, inputs, height, width) -> (rows, width, new height, new width)`."""
        branch = self.after(self.enlarge(self.activation(self.before(x))))
        result: Tensor = self.enlarge(self.shortcut(x)) + branch
        return result


class ResnetEncoder(nn.Module):
    """Pictures `(rows, channels, height, width)` to features `(rows, network.hidden)`.

    Args:
        shape: channels, height, width.
        network: its settings.
    """

    def __init__(self, shape: Sequence[int], network: Resnet) -> None:
        super().__init__()
        channels, *size = shape
        chain = residual_stages(size, network.channels)
        width = chain[0].width
        odd = [side % 2 for side in size]
        # A 4x4 kernel sees each pixel of an even side equally often; a 3x3 one rounds half an odd side up.
        kernel = (3 if odd[0] else 4, 3 if odd[1] else 4)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel, 2, 1, bias=False)]
        layers += [ResidualBlock(width, width, network.norm) for _ in range(network.blocks)]
        for stage in chain[1:]:
            layers.append(ResidualBlock(width, stage.width, network.norm, "halve"))
            width = stage.width
            layers += [ResidualBlock(width, width, network.norm) for _ in range(network.blocks - 1)]
        self.convolutions = nn.Sequential(*layers, _norm(network.norm, width), nn.SiLU())
        self.dense = mlp(width * math.prod(chain[-1].after), [network.hidden], dropout=network.dropout)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.dense(self.convolutions(value).flatten(1))  # (rows, C, h, w) -> (rows, C*h*w)
        return features


class ResnetDecoder(nn.Module):
    """Latents `(rows, latent_dim)` to pictures `(rows, channels, height, width)` of logits: the encoder's mirror.

    Args:
        latent_dim: size of z.
        shape: channels, height, width.
        network: its settings.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], network: Resnet) -> None:
        super().__init__()
        channels, *size = shape
        chain = residual_stages(size, network.channels)
        width = chain[-1].width
        self.start = (width, *chain[-1].after)
        self.dense = mlp(latent_dim, [*network.decoder_hidden, math.prod(self.start)])
        layers: list[nn.Module] = []
        for stage, smaller in zip(chain[-2::-1], chain[:0:-1], strict=True):
            layers += [ResidualBlock(width, width, network.norm) for _ in range(network.blocks - 1)]
            layers += [ResidualBlock(width, stage.width, network.norm, "double"), _Crop(smaller.before)]
            width = stage.width
        layers += [ResidualBlock(width, width, network.norm) for _ in range(network.blocks)]
        layers += [_norm(network.norm, width), nn.SiLU(), Doubling(width, channels, 4, 2, 1, bias=False)]
        self.convolutions = nn.Sequential(*layers, _Crop(size))

    def forward(self, z: Tensor) -> Tensor:
        """Return logits."""
        picture: Tensor = self.convolutions(self.dense(z).unflatten(1, self.start))  # (rows, C*h*w) -> (rows, C, h, w)
        return picture


class _Crop(nn.Module):
    """Leaves out the last row and column of pixels of a doubled picture where the size to reach is odd."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.height, : self.width]


def _norm(norm: Literal["group", "batch"], width: int) -> nn.Module:
    if norm == "batch":
        return BatchNorm2d(width)
    return nn.GroupNorm(math.gcd(width, max(1, width // _GROUP)), width)
