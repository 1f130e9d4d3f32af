"""Batch normalisation for batches of any number of rows, of several parts, and spread over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modalkit.nn.fast import batch_norm_by_parts
from modalkit.util.processes import summed


class PartedBatchNorm(_BatchNorm):
    """Batch normalisation that accepts one value per channel, and that can normalise the parts of a batch separately.

    If modalities are missing, a batch of a hundred rows may hold a single row with this modality. One value has no
    variance, so torch refuses it in training. This class normalises it by the running statistics instead.

    Attributes:
        sizes: numbers of rows of the parts of a batch, each normalised by its own statistics; None for one part.
        shared: whether all processes share the statistics of a batch in training; see `share_statistics`.
    """

    sizes: Sequence[int] | None = None
    shared: bool = False
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised batch, of the same shape."""
        if self.training and self.shared:
            return _normalise_over_processes(self, input)
        if not self.training or (self.sizes is None and input.numel() > input.shape[1]):
            output: Tensor = super().forward(input)
            return output
        sizes = [size for size in self.sizes or [len(input)] if size]
        values = math.prod(input.shape[2:])  # of a row and channel
        self.num_batches_tracked.add_(sum(size * values > 1 for size in sizes))
        running = (self.running_mean, self.running_var)
        return batch_norm_by_parts(input, sizes, self.weight, self.bias, *running, self.momentum, self.eps)

    def weighted(self, input: Tensor, counts: Tensor) -> Tensor:
        """Normalise rows each of which stands for several equal rows.

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


class BatchNorm1d(PartedBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` for `(rows, channels)`, any number of rows."""


class BatchNorm2d(PartedBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` for `(rows, channels, height, width)`, any number of rows."""


def mixes_rows(module: nn.Module) -> bool:
    """Tell whether a row's output depends on the other rows in training: whether the module has batch normalisation.

    >>> mixes_rows(nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4))), mixes_rows(nn.Linear(3, 4))
    (True, False)
    """
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def can_part(module: nn.Module) -> bool:
    """Tell whether `parted` works for all of a network's batch normalisations."""
    normalisations = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    return all(isinstance(part, PartedBatchNorm) and not part.shared for part in normalisations)


@contextmanager
def parted(module: nn.Module, sizes: Sequence[int]) -> Iterator[None]:
    """Let a network process a batch of several parts as if it were called for one part after another.

    Args:
        module: a network for which `can_part` is true.
        sizes: numbers of rows of the parts, in order.
    """
    parts = [part for part in module.modules() if isinstance(part, PartedBatchNorm)]
    for part in parts:
        part.sizes = sizes
    try:
        yield
    finally:
        for part in parts:
            part.sizes = None


def share_statistics(module: nn.Module) -> bool:
    """Compute the statistics of every batch normalisation in a module over the rows of all processes.

    In training, all processes must then run each network that has batch normalisation equally often and in the same
    order; a process without rows runs it on none. A batch normalisation of torch, in a user's network, has no switch,
    so its `forward` is replaced in training.

    Returns:
        Whether the module has batch normalisation at all.
    """
    found = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for part in found:
        if isinstance(part, PartedBatchNorm):
            part.shared = True
        else:
            part.forward = MethodType(_forward_with_shared_statistics, part)  # type: ignore[method-assign]
    return bool(found)


def _forward_with_shared_statistics(norm: _BatchNorm, input: Tensor) -> Tensor:
    """Stand in for the `forward` of a batch normalisation that is not ours."""
    return _normalise_over_processes(norm, input) if norm.training else _BatchNorm.forward(norm, input)


def exclude_from_compiling() -> None:
    """Keep torch's compiler out of what sums over processes.

    This is not a decorator, because that would import the compiler, which takes seconds, wherever it is not needed.
    """
    global _normalise_over_processes
    if not hasattr(_normalise_over_processes, "_torchdynamo_disable"):
        _normalise_over_processes = torch.compiler.disable(_normalise_over_processes)  # type: ignore[no-untyped-call]


def _normalise_over_processes(norm: _BatchNorm, input: Tensor) -> Tensor:
    """Normalise a batch by the statistics of the rows of all processes, any of which may have none.

    If there is one value per channel among all of them, the running statistics normalise it.
    """
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    rest, here = [0, *range(2, input.ndim)], input.numel() // input.shape[1]
    shape = (1, -1, *[1] * (input.ndim - 2))  # broadcasts one number per channel over the input
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
    lone = count < 2  # computed on the device, so that nothing waits for it
    used_mean, used_variance = mean, variance
    if norm.running_mean is not None and norm.running_var is not None:
        used_mean = torch.where(lone, norm.running_mean.double(), mean)
        used_variance = torch.where(lone, norm.running_var.double(), variance)
        _track(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1), lone)
    scale = (used_variance + norm.eps).rsqrt().to(wide.dtype)
    scale = scale if norm.weight is None else scale * norm.weight
    output = (wide - used_mean.to(wide.dtype).view(shape)) * scale.view(shape)
    return (output if norm.bias is None else output + norm.bias.view(shape)).to(input.dtype)


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor, lone: Tensor) -> None:
    """Move the running statistics towards those of a batch, unless it held one value per channel."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked += ~lone.squeeze()
    share = 1 / norm.num_batches_tracked.clamp(min=1) if norm.momentum is None else norm.momentum
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
        running += torch.where(lone, 0, share * (now.to(running.dtype) - running))
