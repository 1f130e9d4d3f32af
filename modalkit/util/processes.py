"""The processes of one training, and all that they say to each other.

Every process calls the same methods in the same order, so no two messages can cross, on any backend. That is why
gradients are added up after the backward pass and not during it: which networks have rows, and so when a gradient is
ready, differs from process to process, and batch normalisation sends its own sums on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modalkit.errors import RunError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SMALL = 1 << 20
"""Gradients of fewer bytes travel together, larger ones as they lie."""


class Processes:
    """The processes that train together; made by each of them, once they are connected.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        # Flags and words travel from CPU to CPU, so that no process waits for its device.
        self._words: Any = dist.new_group(backend="gloo") if self.size > 1 else None

    def most(self, flags: Tensor) -> Tensor:
        """Return the greatest of every process's `flags`, elementwise; of a tensor on the CPU."""
        if self.size > 1:
            flags = flags.to(torch.int32, copy=True)
            with _lost():
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._words)
        return flags

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
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
        """Make every parameter's gradient the sum over processes; one that no process has stays None."""
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
                # (any shape) -> (values,), as they lie in memory, where a gradient lies as its parameter does
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
    """Return the sum of every process's values, differentiable: the gradient is the sum of every process's too."""
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
    """Say in words that another process has gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RunError(
            "another process of this training has stopped, or cannot be reached; its own message says why. The same "
            f"command goes on from the last saved state ({' '.join(str(error).split())[:200]})"
        ) from error
