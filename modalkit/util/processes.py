"""The processes that train one model together, and every message between them.

All processes call the same methods in the same order, so that messages cannot be confused, on any backend. This is why
gradients are summed after the backward pass and not during it. Which networks have rows, and so when a gradient is
ready, differs between processes, and batch normalisation sends sums of its own during the pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modalkit.errors import RunError

T = TypeVar("T")

_SMALL = 1 << 20
"""Gradients of fewer bytes are sent together; larger ones are sent alone, without a copy."""


class Processes:
    """The processes that train together. Each process makes one, after they are connected.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        # Flags and objects are sent from CPU to CPU, so that no process waits for its device.
        self._words: Any = dist.new_group(backend="gloo") if self.size > 1 else None

    def most(self, flags: Tensor) -> Tensor:
        """Return the elementwise maximum of all processes' `flags`, a tensor on the CPU."""
        if self.size > 1:
            flags = flags.to(torch.int32, copy=True)
            with _lost():
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._words)
        return flags

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            with _lost():
                dist.all_gather_object(values, value, group=self._words)
        return values

    def of_first(self, value: T) -> T:
        """Return the first process's value."""
        values = [value]
        if self.size > 1:
            with _lost():
                dist.broadcast_object_list(values, 0, group=self._words)
        return values[0]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every parameter's gradient by the sum over processes. If no process has one, it stays None."""
        if self.size == 1:
            return
        every = list(parameters)
        used = self.most(torch.tensor([p.grad is not None for p in every])).tolist()
        small: dict[torch.dtype, list[Tensor]] = {}
        sent = []
        with _lost():
            for parameter in (p for p, some in zip(every, used, strict=True) if some):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                # (any shape) -> (values,), in the order of memory, which is the same for a gradient and its parameter
                values = parameter.grad.as_strided((parameter.numel(),), (1,))
                if values.nbytes < _SMALL:
                    small.setdefault(values.dtype, []).append(values)
                else:
                    sent.append(dist.all_reduce(values, async_op=True))
            for several in small.values():
                together = torch.cat(several)
                dist.all_reduce(together)
                torch._foreach_copy_(several, torch.split(together, [len(values) for values in several]))
            for work in sent:
                work.wait()


def summed(values: Tensor) -> Tensor:
    """Return the sum of all processes' values. Its gradient is the sum of all processes' gradients."""
    result: Tensor = _Sum.apply(values)
    return result


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        with _lost():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


@contextmanager
def _lost() -> Iterator[None]:
    """Turn a failed message into a `RunError` that says that another process has stopped."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RunError(
            "another process of this training has stopped, or cannot be reached; see its own message. Run the same "
            f"command again to resume from the last saved state ({' '.join(str(error).split())[:200]})"
        ) from error
