"""Weak supervision, simulated: training entries hidden by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from modalkit.data.reading import Dataset
from modalkit.util.randomness import generator


class Weak(Protocol):
    """How much is kept; see `modalkit.recipe_model.WeakSettings`."""

    @property
    def paired(self) -> float:
        """Fraction of rows that stay whole."""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Modalities that stay together."""

    @property
    def keep(self) -> float:
        """Probability with which an entry is kept."""


def weaken(dataset: Dataset, rows: Tensor, weak: Weak, seed: int) -> None:
    """Hide entries of some rows of an open dataset, as the paper does to study weak supervision.

    First each row outside the fraction `paired` keeps the entries of one group, drawn uniformly; the number of rows
    stays what it was. Then every entry is kept with probability `keep`. Each row's draws are the same for every
    fraction, so that what a smaller one keeps a larger one keeps too.

    Args:
        dataset: its `present` is changed; what is on disk is not.
        rows: int64 `(rows,)`.
        weak: how much to keep.
        seed: draws what is hidden.

    Source:
        Wu & Goodman 2018, section 6.1.
    """
    present = dataset.present[rows]
    if weak.paired < 1:
        draws = generator(seed, "weak pairing")
        order = torch.randperm(len(rows), generator=draws)
        unpaired = order[round(weak.paired * len(rows)) :]
        members = _members(dataset.names, weak.groups)  # (groups, modalities)
        group = torch.randint(len(members), (len(rows),), generator=draws)
        present[unpaired] &= members[group[unpaired]]
    if weak.keep < 1:
        present &= torch.rand(present.shape, generator=generator(seed, "weak entries")) < weak.keep
    dataset.present[rows] = present


def _members(names: Sequence[str], groups: Sequence[Sequence[str]]) -> Tensor:
    """Return each group's modalities, bool `(groups, modalities)`; those in no group are one each."""
    grouped = {name for group in groups for name in group}
    whole = [*groups, *((name,) for name in names if name not in grouped)]
    return torch.tensor([[name in group for name in names] for group in whole])
