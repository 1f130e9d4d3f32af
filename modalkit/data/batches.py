"""Which rows each step of an epoch trains on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modalkit.data.reading import several


class Batches:
    """Divides the training rows into batches, shuffled anew in each epoch.

    An epoch visits each row once. If paired rows, which have two modalities or more, are rarer than `paired_share`,
    they are oversampled to fill that share of every batch: an epoch then visits each other row once, and the numbers
    of visits of any two paired rows differ by at most one.

    Args:
        rows: int64 `(rows,)`, at least one.
        present: which modalities they have, bool `(rows, modalities)`.
        size: rows of a batch, at least 1, or 2 with a `paired_share`; the last batch may be smaller.
        paired_share: least share of paired rows in a batch, in (0, 1); None: no oversampling.
    """

    def __init__(self, rows: Tensor, present: Tensor, size: int, paired_share: float | None = None) -> None:
        paired = several(present)
        oversampled = paired_share is not None and 0 < int(paired.sum()) < paired_share * len(rows)
        self.single_pass, self.oversampled = (rows[~paired], rows[paired]) if oversampled else (rows, rows[:0])
        self.oversampled_size = min(max(1, round((paired_share or 0) * size)), size - 1) if oversampled else 0
        self.single_pass_size = size - self.oversampled_size

    def __len__(self) -> int:
        return math.ceil(len(self.single_pass) / self.single_pass_size)

    def shuffle(self, generator: torch.Generator) -> list[Tensor]:
        """Return the batches of one epoch, int64 `(size,)` each.

        Args:
            generator: source of every random choice.
        """
        order = torch.randperm(len(self.single_pass), generator=generator)
        batches = torch.split(self.single_pass[order], self.single_pass_size)
        if not self.oversampled_size:
            return list(batches)
        needed, count = len(batches) * self.oversampled_size, len(self.oversampled)
        passes = [torch.randperm(count, generator=generator) for _ in range(-(-needed // count))]
        extra = torch.split(self.oversampled[torch.cat(passes)[:needed]], self.oversampled_size)
        return [torch.cat(both) for both in zip(batches, extra, strict=True)]
