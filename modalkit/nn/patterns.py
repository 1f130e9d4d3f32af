"""Products of many vectors with a few matrices, when rows of one pattern share a matrix."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

_WORD = 62
"""Bits of a mask that fit a whole number."""


class Patterns:
    """Which of several matrices belongs to each row.

    Args:
        index: index of each row's matrix, int64 `(*batch_shape,)`, on the CPU.
    """

    def __init__(self, index: Tensor) -> None:
        self.index = index

    @classmethod
    def of(cls, masks: Tensor) -> tuple[Patterns, Tensor]:
        """Return the patterns of masks, bool `(*batch_shape, n)` on the CPU, and the distinct masks `(patterns, n)`.

        >>> patterns, distinct = Patterns.of(torch.tensor([[True, False], [False, True], [True, False]]))
        >>> patterns.index.tolist(), distinct.tolist()
        ([0, 1, 0], [[True, False], [False, True]])
        """
        flat = masks.flatten(0, -2)
        words = [part.long() @ (1 << torch.arange(part.shape[1])) for part in torch.split(flat, _WORD, 1)]
        if len(words) == 1:  # much faster than distinct rows
            _, index = torch.unique(words[0], return_inverse=True)
        else:
            _, index = torch.unique(torch.stack(words, 1), dim=0, return_inverse=True)
        count = int(index.max()) + 1 if len(index) else 0
        an_example = torch.zeros(count, dtype=torch.long).scatter_(0, index, torch.arange(len(index)))
        return cls(index.reshape(masks.shape[:-1])), flat[an_example]

    def gather(self, values: Tensor) -> Tensor:
        """Return each row's entry, `(patterns, ...) -> (*batch_shape, ...)`."""
        found = values.index_select(0, self.index.flatten().to(values.device, non_blocking=True))
        return found.reshape(*self.index.shape, *values.shape[1:])  # (rows, ...) -> (*batch_shape, ...)

    def multiply(self, vectors: Tensor, matrices: Tensor) -> Tensor:
        r"""Return the product :math:`x^\top A` of each vector with its row's matrix.

        Rows of a pattern are multiplied together, patterns with similar numbers of rows in one call.

        Args:
            vectors: `(*samples, *batch_shape, n)`, or broadcastable to it.
            matrices: `(patterns, n, m)`.

        Returns:
            `(*samples, *batch_shape, m)`.
        """
        shape = torch.broadcast_shapes(vectors.shape[:-1], self.index.shape)  # type: ignore[no-untyped-call]
        if not self.index.numel():  # a product still, so that gradients reach what other processes wait for
            return vectors.expand(*shape, -1) @ vectors.new_zeros(vectors.shape[-1], matrices.shape[-1])
        if len(matrices) == 1:
            return (vectors @ matrices[0]).expand(*shape, -1)
        if shape[len(shape) - self.index.ndim :] != self.index.shape:
            wider = Patterns(self.index.expand(shape[len(shape) - self.index.ndim :]))
            return wider.multiply(vectors, matrices)
        # (*samples, *batch_shape, n) -> (rows, samples, n)
        by_row = vectors.expand(*shape, -1).reshape(-1, self.index.numel(), vectors.shape[-1]).transpose(0, 1)
        groups, place = self._groups
        found = []
        for patterns, rows in groups:
            chosen = by_row.index_select(0, rows.flatten().to(vectors.device, non_blocking=True))
            chosen = chosen.reshape(len(patterns), -1, vectors.shape[-1])  # -> (patterns, most rows * samples, n)
            product = chosen @ matrices.index_select(0, patterns.to(vectors.device, non_blocking=True))
            found.append(product.reshape(rows.numel(), -1, matrices.shape[-1]))  # -> (most rows, samples, m)
        every = torch.cat(found).index_select(0, place.to(vectors.device, non_blocking=True))  # (rows, samples, m)
        return every.transpose(0, 1).reshape(*shape, matrices.shape[-1])

    @cached_property
    def _groups(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return groups of patterns with the rows of each, and the place of each row among all groups' rows.

        A group has patterns whose numbers of rows differ by less than a factor of 2. A pattern with fewer rows than the
        group's largest repeats its last row.
        """
        index = self.index.flatten()
        counts, order = index.bincount(), index.argsort(stable=True)
        first = counts.cumsum(0) - counts
        level = torch.where(counts > 0, counts.double().log2().floor().long(), -1)
        groups, places, start = [], torch.empty_like(index), 0
        for one in sorted(set(level.tolist())):
            if one < 0:
                continue
            patterns = (level == one).nonzero().squeeze(1)
            count = counts[patterns, None]
            at = torch.arange(int(count.max())).expand(len(patterns), -1)
            rows = order[first[patterns, None] + at.minimum(count - 1)]  # (patterns, most)
            own = (at < count).flatten()
            places[rows.flatten()[own]] = start + own.nonzero().squeeze(1)
            groups.append((patterns, rows))
            start += rows.numel()
        return groups, places
