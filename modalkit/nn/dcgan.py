"""Convolutional networks in the style of DCGAN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from modalkit.nn.batch_norm import BatchNorm2d
from modalkit.nn.dense import mlp
from modalkit.nn.fast import Doubling
from modalkit.nn.settings import Dcgan

_KERNEL = 4
_SMALL = 32  # a picture whose smaller side is below this gets the paper's small form


@dataclass(frozen=True)
class Stage:
    """One of a DCGAN's convolutions, with 4x4 kernels.

    Attributes:
        width: channels after it.
        stride: 1 or 2.
        padding: 0 or 1.
        before: height and width of its input.
        after: height and width of its output, `floor((before + 2 padding - 4) / stride) + 1`.
    """

    width: int
    stride: int
    padding: int
    before: tuple[int, int]
    after: tuple[int, int]

    @property
    def mirror_kernel(self) -> tuple[int, int]:
        """Kernel of the transposed convolution from `after` back to `before`: 4, or 5 if halving lost a pixel."""
        height, width = (
            large - (small - 1) * self.stride + 2 * self.padding
            for large, small in zip(self.before, self.after, strict=True)
        )
        return height, width


def stages(size: Sequence[int], widths: Sequence[int] | None = None) -> list[Stage]:
    """Return the convolutions that an encoder applies to a picture and that a decoder reverses.

    Args:
        size: the picture's height and width in pixels; the smaller side decides.
        widths: channels after each convolution; by default those of the paper, see `Dcgan`.

    Raises:
        ValueError: the picture is too small for that many convolutions.

    >>> [(s.width, *s.after) for s in stages((64, 64))]
    [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 5, 5)]
    >>> [s.mirror_kernel for s in stages((50, 50))]
    [(4, 4), (5, 5), (4, 4), (4, 4)]
    """
    small = min(size) < _SMALL
    if widths is None:
        halvings = (min(size) // 6).bit_length() - 1  # 6 to 11 pixels are left
        widths = (64, 128) if small else [*(min(32 << i, 256) for i in range(halvings)), 256]
    found: list[Stage] = []
    before = (size[0], size[1])
    for index, width in enumerate(widths):
        last = not small and index == len(widths) - 1
        stride, padding = (1 if min(before) >= 8 else 2, 0) if last else (2, 1)
        if min(before) + 2 * padding < _KERNEL:
            raise ValueError(
                f"a picture of {size[0]} x {size[1]} is too small for {len(widths)} convolutions; "
                f"make it larger, give fewer 'widths', or write 'network: mlp'"
            )
        height, across = ((side + 2 * padding - _KERNEL) // stride + 1 for side in before)
        found.append(Stage(width, stride, padding, before, (height, across)))
        before = (height, across)
    return found


class DcganEncoder(nn.Module):
    """Pictures `(rows, channels, height, width)` to features `(rows, network.hidden)`.

    Args:
        shape: channels, height, width.
        network: its settings.
    """

    def __init__(self, shape: Sequence[int], network: Dcgan) -> None:
        super().__init__()
        channels, *size = shape
        large = min(size) >= _SMALL
        batch_norm = large if network.batch_norm is None else network.batch_norm
        dropout = 0.1 * large if network.dropout is None else network.dropout
        layers: list[nn.Module] = []
        for stage in stages(size, network.widths):
            layers.append(nn.Conv2d(channels, stage.width, _KERNEL, stage.stride, stage.padding, bias=False))
            layers += [BatchNorm2d(stage.width)] if batch_norm and len(layers) > 1 else []
            layers.append(nn.SiLU())
            channels = stage.width
        self.convolutions = nn.Sequential(*layers)
        self.dense = mlp(channels * math.prod(stage.after), [network.hidden], dropout=dropout)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.dense(self.convolutions(value).flatten(1))  # (rows, C, h, w) -> (rows, C*h*w)
        return features


class DcganDecoder(nn.Module):
    """Latents `(rows, latent_dim)` to pictures `(rows, channels, height, width)` of logits: the encoder's mirror.

    Args:
        latent_dim: size of z.
        shape: channels, height, width.
        network: its settings.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], network: Dcgan) -> None:
        super().__init__()
        channels, *size = shape
        large = min(size) >= _SMALL
        batch_norm = large if network.batch_norm is None else network.batch_norm
        hidden = (() if large else (512,)) if network.decoder_hidden is None else network.decoder_hidden
        chain = stages(size, network.widths)
        self.start = (chain[-1].width, *chain[-1].after)
        self.dense = mlp(latent_dim, [*hidden, math.prod(self.start)])
        layers: list[nn.Module] = []
        for stage, width in zip(chain[::-1], [*(s.width for s in chain[-2::-1]), channels], strict=True):
            layers += [BatchNorm2d(stage.width)] if batch_norm and layers else []
            layers += [nn.SiLU()] if layers else []
            doubles = (stage.mirror_kernel, stage.stride, stage.padding) == ((4, 4), 2, 1)
            layers.append(
                Doubling(stage.width, width, 4, 2, 1, bias=False)
                if doubles
                else nn.ConvTranspose2d(
                    stage.width, width, stage.mirror_kernel, stage.stride, stage.padding, bias=False
                )
            )
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits."""
        picture: Tensor = self.convolutions(self.dense(z).unflatten(1, self.start))  # (rows, C*h*w) -> (rows, C, h, w)
        return picture
