"""Operations that are faster than torch's own; values and gradients are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEW_CHANNELS = 4


def bernoulli_log_prob(logits: Tensor, value: Tensor, event_dims: int) -> Tensor:
    r"""Return :math:`\sum_i x_i \log p_i + (1 - x_i) \log (1 - p_i)`, summed over the event.

    The terms of the sum are not kept in memory.

    Args:
        logits: of p, `(*batch_shape, *event_shape)`.
        value: x in [0, 1], broadcastable with `logits`.
        event_dims: number of dimensions of an event.

    Returns:
        `(*batch_shape,)`, broadcast.

    >>> bernoulli_log_prob(torch.zeros(2, 3), torch.ones(3), 1).exp()
    tensor([0.1250, 0.1250])
    """
    if logits.shape != value.shape:
        shape = torch.broadcast_shapes(logits.shape, value.shape)  # type: ignore[no-untyped-call]
        logits, value = logits.expand(shape), value.expand(shape)
    result: Tensor = _BernoulliLogProb.apply(logits, value, event_dims)
    return result


class _BernoulliLogProb(torch.autograd.Function):
    """x l - log(1 + exp l), with the logarithm as max(l, 0) + log(1 + exp(-|l|)).

    On a CPU, torch's log1p is many times slower than its log. The log loses no more precision here than the rounding of
    the sum does.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, event_dims: int) -> Tensor:
        ctx.save_for_backward(logits, value)
        ctx.event_dims = event_dims
        parts = logits.abs().neg_().exp_().add_(1).log_().add_(logits.clamp(min=0))
        parts = torch.addcmul(parts, logits, value, value=-1) if event_dims else parts - logits * value
        return -parts.sum(tuple(range(-event_dims, 0))) if event_dims else -parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, value = ctx.saved_tensors
        grad = grad.reshape(*grad.shape, *[1] * ctx.event_dims)  # (*batch_shape,) -> (*batch_shape, 1, ...)
        to_logits = torch.sigmoid(logits).neg_().add_(value).mul_(grad)
        return to_logits, logits * grad if ctx.needs_input_grad[1] else None, None


def batch_norm_by_parts(
    input: Tensor,
    sizes: Sequence[int],
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise the parts of a batch, each by its own statistics.

    The result equals calls of `torch.nn.functional.batch_norm` for one part after another. A part with one value per
    channel has no variance, so the running statistics normalise it.

    Args:
        input: `(rows, channels, ...)`.
        sizes: numbers of rows of the parts, in order, none of them 0; they add up to `rows`.
        weight: `(channels,)`.
        bias: `(channels,)`.
        running_mean: `(channels,)`, updated.
        running_var: `(channels,)`, updated.
        momentum: weight of a part's statistics in the running ones.
        eps: added to the variance.
    """
    if torch.compiler.is_compiling():  # the compiler writes its own kernel
        return torch.cat(
            [
                functional.batch_norm(x, running_mean, running_var, weight, bias, not _lone(x), momentum, eps)
                for x in torch.split(input, list(sizes))
            ]
        )
    result: Tensor = _BatchNormByParts.apply(
        input, tuple(sizes), weight, bias, running_mean, running_var, momentum, eps
    )
    return result


class _BatchNormByParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        sizes: tuple[int, ...],
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        output = torch.empty_like(input)
        ctx.sizes, ctx.eps, kept = sizes, eps, []
        for x, y in zip(torch.split(input, list(sizes)), torch.split(output, list(sizes)), strict=True):
            if _lone(x):
                mean, var = running_mean.clone(), running_var.clone()  # the next part moves the originals
                unused = (mean.new_empty(0), mean.new_empty(0))
                torch.native_batch_norm(x, weight, bias, mean, var, False, momentum, eps, out=(y, *unused))
                kept += [mean, var]
            else:
                own = (torch.empty_like(running_mean), torch.empty_like(running_var))
                torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps, out=(y, *own))
                kept += own
        ctx.save_for_backward(input, weight, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, *kept = ctx.saved_tensors
        to_input, to_weight, to_bias = torch.empty_like(input), torch.zeros_like(weight), torch.zeros_like(weight)
        parts = zip(*(torch.split(whole, list(ctx.sizes)) for whole in (grad, input, to_input)), strict=True)
        for (g, x, place), *own in zip(parts, kept[::2], kept[1::2], strict=True):
            statistics = [*own, None, None] if _lone(x) else [None, None, *own]
            gx, gw, gb = torch.ops.aten.native_batch_norm_backward(
                g, x, weight, *statistics, not _lone(x), ctx.eps, [True] * 3
            )
            place.copy_(gx)
            to_weight += gw
            to_bias += gb
        return to_input, None, to_weight, to_bias, *[None] * 4


def _lone(part: Tensor) -> bool:
    """Tell whether a part has one value per channel."""
    return part.numel() == part.shape[1]


def doubling_conv_transpose2d(input: Tensor, weight: Tensor) -> Tensor:
    """Return the transposed convolution with a 4x4 kernel, stride 2 and padding 1: a picture of twice the size.

    The output interleaves four pictures, each a 2x2 convolution of the input. On a CPU, torch's own form is slow for
    few output channels; then one convolution with 4 O channels computes all four pictures.

    Args:
        input: `(rows, I, h, w)`.
        weight: `(I, O, 4, 4)`.

    Returns:
        `(rows, O, 2 h, 2 w)`.
    """
    plain = (
        weight.shape[1] > _FEW_CHANNELS
        or input.device.type != "cpu"
        or input.dtype is not torch.float32
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
    )
    if plain:
        return functional.conv_transpose2d(input, weight, None, 2, 1)
    result: Tensor = _DoublingConvTranspose2d.apply(input, weight)
    return result


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution to twice the size that is fast for the few channels of a picture.

    Its kernel is 4x4, its stride 2, its padding 1, and it has no bias.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return `doubling_conv_transpose2d` of the input."""
        return doubling_conv_transpose2d(input, self.weight)


class _DoublingConvTranspose2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        channels, (height, width) = weight.shape[1], input.shape[2:]
        # An even output row 2a sees input rows a - 1 and a through kernel rows 3 and 1, the odd one 2a + 1 sees a
        # and a + 1 through 2 and 0: all are windows of two rows.
        rows = torch.tensor([[3, 1], [2, 0]])
        kernels = weight[:, :, rows][:, :, :, :, rows]  # (I, O, 4, 4) -> (I, O, 2, 2, 2, 2): parity, window; twice
        kernels = kernels.permute(2, 4, 1, 0, 3, 5).reshape(4 * channels, -1, 2, 2)  # -> (4 O, I, 2, 2)
        windows = functional.conv2d(
            input, kernels.contiguous(memory_format=torch.channels_last), padding=1
        )  # (rows, 4 O, h + 1, w + 1)
        output = torch.empty(len(input), channels, 2 * height, 2 * width, dtype=input.dtype).contiguous(
            memory_format=torch.channels_last
        )
        for r in range(2):
            for c in range(2):
                one = windows[:, (2 * r + c) * channels :][:, :channels]
                output[:, :, r::2, c::2] = one[:, :, r : r + height, c : c + width]
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = [*ctx.needs_input_grad, False]
        to_input, to_weight, _ = torch.ops.aten.convolution_backward(
            grad, *ctx.saved_tensors, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, needed
        )
        return to_input, to_weight
