"""Which rows each step of an epoch sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Batches:
    """Divides rows into the batches of an epoch, anew for each.

    Every row comes once, unless rows with two modalities or more, which alone tell what belongs together, make up less
    than the `paired_share`: then the others come once, and these fill that share of every batch, each as often as any
    other, but for one.

    Args:
        rows: int64 `(rows,)`, at least one.
        present: which modalities they have, bool `(rows, modalities)`.
        size: rows of a batch, at least 1, with a `paired_share` 2; the last may be smaller.
        paired_share: least share of a batch, in (0, 1); None: as they come.
    """

    def __init__(self, rows: Tensor, present: Tensor, size: int, paired_share: float | None = None) -> None:
        several = present.sum(1) > 1
        mixed = paired_share is not None and 0 < int(several.sum()) < paired_share * len(rows)
        self.once, self.again = (rows[~several], rows[several]) if mixed else (rows, rows[:0])
        self.of_again = min(max(1, round((paired_share or 0) * size)), size - 1) if mixed else 0
        self.of_once = size - self.of_again

    def __len__(self) -> int:
        return math.ceil(len(self.once) / self.of_once)

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Return an epoch's batches, int64 `(size,)` each.

        Args:
            generator: where every random choice comes from.
        """
        order = torch.randperm(len(self.once), generator=generator)
        once = torch.split(self.once[order], self.of_once)
        if not self.of_again:
            return list(once)
        needed = len(once) * self.of_again
        rounds = [torch.randperm(len(self.again), generator=generator) for _ in range(-(-needed // len(self.again)))]
        again = torch.split(self.again[torch.cat(rounds)[:needed]], self.of_again)
        return [torch.cat(both) for both in zip(once, again, strict=True)]
