"""Networks that recipes choose from, and the building blocks they are made of.

Every hidden layer is followed by SiLU (Swish, the paper's activation). Encoders return features; the core
adds the Gaussian head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BeforeValidator, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from modalkit.nn.fast import batch_norm_by_parts, doubling_conv_transpose2d
from modalkit.plugin import CustomNetwork, Schema, Settings, as_tuple
from modalkit.util.processes import summed

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "CategoryEncoder",
    "Dcgan",
    "DcganDecoder",
    "DcganEncoder",
    "DenseNetwork",
    "ImageNetwork",
    "Mlp",
    "Reshape",
    "Stage",
    "Widths",
    "built_in",
    "by_name",
    "category_encoder",
    "decoder",
    "encoder",
    "mlp",
    "stages",
]

NetworkT = TypeVar("NetworkT", bound=Settings)
SchemaT = TypeVar("SchemaT", bound=Schema)

_KERNEL = 4
_SMALL = 32  # pictures whose smaller side is below this get the paper's small form


Widths = Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple)]
"""Widths of layers: a tuple of positive integers, or a list that is converted to one."""


class Mlp(Settings):
    """Fully connected networks."""

    type: Literal["mlp"] = "mlp"
    hidden: Widths = Field((512, 512), min_length=1, description="Widths of the encoder's layers.")
    decoder_hidden: Widths = Field((512, 512, 512), description="Widths of the decoder's layers.")
    batch_norm: bool = Field(False, description="Batch normalisation after every hidden layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after each of the encoder's hidden layers.")


class Dcgan(Settings):
    """Convolutional networks of DCGAN's kind, for pictures of any size.

    There are two forms, as in the paper. Below 32 pixels (28 in the paper): every convolution halves the sides.
    From 32 on (50 and 64 in the paper): they halve them until 6 to 11 pixels are left, and a last one ends at 2
    to 8. Fields left at None follow from the form.
    """

    type: Literal["dcgan"] = "dcgan"
    widths: Annotated[Widths, Field(min_length=1)] | None = Field(
        None, description="Channels after each of the encoder's convolutions; the decoder mirrors them."
    )
    hidden: PositiveInt = Field(512, description="Width of the encoder's dense layer.")
    decoder_hidden: Widths | None = Field(
        None, description="Widths of the decoder's dense layers before its first picture; small form (512,), else ()."
    )
    batch_norm: bool | None = Field(
        None, description="Batch normalisation of all convolutions but the encoder's first and the decoder's last."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout after the encoder's dense layer; small form 0, else 0.1."
    )


def by_name(network: Any) -> Any:
    """Let ``network: mlp`` stand for ``network: {type: mlp}``."""
    return {"type": network} if isinstance(network, str) else network


DenseNetwork = Annotated[
    Mlp | CustomNetwork,
    Field(discriminator="type", description="`mlp`, one with its settings, or your own."),
    BeforeValidator(by_name, json_schema_input_type=Literal["mlp"] | Mlp | CustomNetwork),
]
"""What a recipe may choose for vectors: ``network: mlp``, ``{type: mlp, …}`` or ``{type: custom, …}``."""

ImageNetwork = Annotated[
    Mlp | Dcgan | CustomNetwork,
    Field(discriminator="type", description="`mlp`, `dcgan`, one of them with its settings, or your own."),
    BeforeValidator(by_name, json_schema_input_type=Literal["mlp", "dcgan"] | Mlp | Dcgan | CustomNetwork),
]
"""What a recipe may choose for pictures."""


class _PartsApart(_BatchNorm):
    """Batch normalisation that a batch with one value per channel does not break, and that can part a batch.

    With modalities missing, a batch of a hundred may hold a single row that has this one. One value has no
    variance, so torch refuses it in training; here the running statistics stand in for the batch's.

    Attributes:
        sizes: rows of the parts of a batch that are normalised each by its own statistics; None for all at once.
    """

    sizes: Sequence[int] | None = None
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or (self.sizes is None and input.numel() > input.shape[1]):
            return super().forward(input)
        sizes = [size for size in self.sizes or [len(input)] if size]
        values = math.prod(input.shape[2:])  # of a row and channel
        self.num_batches_tracked.add_(sum(size * values > 1 for size in sizes))
        running = (self.running_mean, self.running_var)
        return batch_norm_by_parts(input, sizes, self.weight, self.bias, *running, self.momentum, self.eps)

    def weighted(self, input: Tensor, counts: Tensor) -> Tensor:
        """Normalise rows each of which stands for several alike.

        Args:
            input: `(rows, channels)`.
            counts: how many rows each stands for, `(rows,)`; at least 2 in all.
        """
        counts = counts.to(input.dtype)
        n = counts.sum()
        mean = counts @ input / n  # (channels,)
        variance = counts @ (input - mean).square() / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        return torch.addcmul(self.bias, input - mean, self.weight * (variance + self.eps).rsqrt())


class BatchNorm1d(_PartsApart, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` for `(rows, channels)`, any number of rows."""


class BatchNorm2d(_PartsApart, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` for `(rows, channels, height, width)`, any number of rows."""


class _OverProcesses(_BatchNorm):
    """Batch normalisation over the rows of all processes, any of which may have none; made by `share_statistics`.

    One value per channel among all of them is normalised by the running statistics, as `_PartsApart` does.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        rest, here = [0, *range(2, input.ndim)], input.numel() // input.shape[1]
        shape = (1, -1, *[1] * (input.ndim - 2))  # of a number per channel beside the input
        # Squares are summed about this process's mean, then moved to 0 and added up in double precision.
        total = wide.sum(rest)
        centre = total.detach() / max(1, here)
        square = (wide - centre.view(shape)).square().sum(rest).double()
        total, centre = total.double(), centre.double()
        square = square + 2 * centre * total - here * centre.square()
        parts = summed(torch.cat([total.new_full((1,), here), total, square]))
        count, total, square = torch.split(parts, [1, len(total), len(total)])
        mean = total / count.clamp(min=1)
        variance = (square / count.clamp(min=1) - mean.square()).clamp(min=0)
        lone = count < 2  # asked on the device, so that nothing waits for it
        used_mean, used_variance = mean, variance
        if self.running_mean is not None and self.running_var is not None:
            used_mean = torch.where(lone, self.running_mean.double(), mean)
            used_variance = torch.where(lone, self.running_var.double(), variance)
            self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1), lone)
        scale = (used_variance + self.eps).rsqrt().to(wide.dtype)
        scale = scale if self.weight is None else scale * self.weight
        output = (wide - used_mean.to(wide.dtype).view(shape)) * scale.view(shape)
        return (output if self.bias is None else output + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, lone: Tensor) -> None:
        """Move the running statistics towards a batch's, unless it was a lone value."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += ~lone.squeeze()
        share = 1 / self.num_batches_tracked.clamp(min=1) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running += torch.where(lone, 0, share * (now.to(running.dtype) - running))


def share_statistics(module: nn.Module) -> bool:
    """Let every batch normalisation in a module see the rows of all processes; tell whether there is one.

    In training, all processes must then run each network that has one equally often, in the same order, with no rows
    where they have none.
    """
    found = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for part in found:
        part.__class__ = _OverProcesses
    return bool(found)


def trunk(schema: SchemaT) -> SchemaT:
    """Return a schema whose encoder ends after its first dense layer, what JMVAE joins; without batch normalisation.

    Convolutions end in their only dense layer anyway; a network of another kind stays whole.
    """
    network = getattr(schema, "network", None)
    if not isinstance(network, Mlp):
        return schema
    first = network.model_copy(update={"hidden": network.hidden[:1], "batch_norm": False})
    return schema.model_copy(update={"network": first})


def mixes_rows(module: nn.Module) -> bool:
    """Tell whether a row's output depends on the other rows while training: whether batch norm is in it.

    >>> mixes_rows(mlp(3, [4], batch_norm=True)), mixes_rows(mlp(3, [4]))
    (True, False)
    """
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def can_part(module: nn.Module) -> bool:
    """Tell whether `parted` has all of a network's batch normalisations normalise the parts of a batch apart."""
    return all(isinstance(part, _PartsApart) for part in module.modules() if isinstance(part, _BatchNorm))


@contextmanager
def parted(module: nn.Module, sizes: Sequence[int]) -> Iterator[None]:
    """Have a network take a batch of several parts as it would take one after another.

    Args:
        module: a network of which `can_part` is true.
        sizes: rows of each part, in order.
    """
    parts = [part for part in module.modules() if isinstance(part, _PartsApart)]
    for part in parts:
        part.sizes = sizes
    try:
        yield
    finally:
        for part in parts:
            part.sizes = None


def _after(width: int, batch_norm: bool, dropout: float) -> list[nn.Module]:
    """Return what follows a hidden layer."""
    norm = [BatchNorm1d(width)] if batch_norm else []
    return [*norm, nn.SiLU(), *([nn.Dropout(dropout)] if dropout else [])]


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int | None = None, *, batch_norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Return a fully connected network, `(rows, inputs) -> (rows, outputs)`.

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of a last linear layer; None ends after the last hidden one.
        batch_norm: normalise after every hidden layer, before its SiLU.
        dropout: probability of dropping a unit, after every hidden layer.

    >>> import torch
    >>> mlp(784, [512, 512], 10)(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), *_after(width, batch_norm, dropout)]
        inputs = width
    return nn.Sequential(*layers, *([] if outputs is None else [nn.Linear(inputs, outputs)]))


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
        """Kernel of the transposed convolution from `after` back to `before`: 4, or 5 where halving lost a pixel."""
        height, width = (
            large - (small - 1) * self.stride + 2 * self.padding
            for large, small in zip(self.before, self.after, strict=True)
        )
        return height, width


def stages(size: Sequence[int], widths: Sequence[int] | None = None) -> list[Stage]:
    """Return the convolutions that an encoder applies to a picture, and a decoder undoes in reverse.

    Args:
        size: the picture's height and width, pixels; the smaller decides.
        widths: channels after each convolution; by default as in the paper, see `Dcgan`.

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


class _Doubling(nn.ConvTranspose2d):
    """A transposed convolution to twice the size, fast for the few channels of a picture."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return doubling_conv_transpose2d(input, self.weight)


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
                _Doubling(stage.width, width, 4, 2, 1, bias=False)
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


class Centered(nn.Module):
    """A decoder of deviations: raw parameters are a constant and what a network adds to it.

    Args:
        decoder: the network, `(rows, inputs) -> (rows, *raw)`.
        inputs: how many numbers it takes.

    Attributes:
        constant: `(1, *raw)`, never trained; zeros until `start_at`.
    """

    constant: Tensor

    def __init__(self, decoder: nn.Module, inputs: int) -> None:
        super().__init__()
        self.decoder, self.inputs = decoder, inputs
        self.register_buffer("constant", torch.zeros_like(self._of(torch.zeros(1, inputs))))

    @torch.no_grad()
    def _of(self, z: Tensor) -> Tensor:
        training = self.decoder.training
        raw: Tensor = self.decoder.eval()(z)
        self.decoder.train(training)
        return raw

    def start_at(self, raw: Tensor) -> None:
        """Set the constant such that a decoder that is not trained yet gives `raw`, `(1, *raw)`, of an input of zeros.

        Raises:
            ValueError: the decoder's output has another shape.
        """
        if raw.shape != self.constant.shape:
            raise ValueError(f"has shape {tuple(raw.shape)}, the decoder's output {tuple(self.constant.shape)}")
        self.constant.copy_(raw - self._of(self.constant.new_zeros(1, self.inputs)))

    def forward(self, z: Tensor) -> Tensor:
        """Return raw parameters."""
        raw: Tensor = self.decoder(z) + self.constant
        return raw


def built_in(network: NetworkT | CustomNetwork) -> NetworkT:
    """Return a kind's own settings, which are all that a kind ever builds from.

    Raises:
        TypeError: they are a custom network's; the core builds that from its reference.
    """
    if isinstance(network, CustomNetwork):
        raise TypeError("a custom network is built by the core, never by the kind")
    return network


class Reshape(nn.Module):
    """`(rows, ...) -> (rows, *shape)`."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, each row in the new shape."""
        return x.reshape(x.shape[0], *self.shape)  # len(x) would fix the number of rows of an exported graph


def encoder(network: Mlp | Dcgan | CustomNetwork, shape: Sequence[int]) -> nn.Module:
    """Return an encoder of real values, `(rows, *shape) -> (rows, features)`.

    Args:
        network: the schema's choice; `Dcgan` needs a shape of channels, height and width.
        shape: the shape of a row.
    """
    if isinstance(network, Dcgan):
        return DcganEncoder(shape, network)
    network, width = built_in(network), math.prod(shape)
    layers = mlp(width, network.hidden, batch_norm=network.batch_norm, dropout=network.dropout)
    return layers if len(shape) == 1 else nn.Sequential(Reshape((width,)), *layers)


class CategoryEncoder(nn.Sequential):
    """An encoder of one integer, `(rows,) -> (rows, features)`, that encodes each category once, not each row.

    Batch normalisation counts each category as often as the rows that have it.

    Args:
        categories: the integers are below this.
        layers: what takes `(rows,)` to features.

    Attributes:
        apart: encode every row, as dropout among the layers asks for, and whatever makes rows of a category differ.
    """

    def __init__(self, categories: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.categories = categories
        self.apart = any(isinstance(layer, nn.Dropout) for layer in layers)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        each = self.apart or (self.training and not can_part(self))
        if each or len(value) <= self.categories:
            features: Tensor = super().forward(value)  # type: ignore[no-untyped-call]
            return features
        features = torch.arange(self.categories, device=value.device)
        for layer in self:
            if self.training and isinstance(layer, _PartsApart):
                features = layer.weighted(features, torch.bincount(value, minlength=self.categories))
            else:
                features = layer(features)
        return functional.embedding(value, features)


def category_encoder(network: Mlp | CustomNetwork, categories: int) -> CategoryEncoder:
    """Return an encoder of one integer below `categories`, `(rows,) -> (rows, features)`.

    An embedding is the first hidden layer's matrix: the same as `encoder` of a one-hot vector, without bias.
    """
    network = built_in(network)
    first, *rest = network.hidden
    tail = mlp(first, rest, batch_norm=network.batch_norm, dropout=network.dropout)
    embedding = nn.Embedding(categories, first)
    return CategoryEncoder(categories, embedding, *_after(first, network.batch_norm, network.dropout), *tail)


def decoder(network: Mlp | Dcgan | CustomNetwork, latent_dim: int, shape: Sequence[int]) -> nn.Module:
    """Return a decoder, `(rows, latent_dim) -> (rows, *shape)`."""
    if isinstance(network, Dcgan):
        return DcganDecoder(latent_dim, shape, network)
    network = built_in(network)
    layers = mlp(latent_dim, network.decoder_hidden, math.prod(shape), batch_norm=network.batch_norm)
    return layers if len(shape) == 1 else nn.Sequential(*layers, Reshape(shape))
