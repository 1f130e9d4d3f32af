"""Weak supervision, simulated: some entries of the training rows are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from modalkit.data.reading import Dataset
from modalkit.data.settings import WeakSettings
from modalkit.util.randomness import generator


def weaken(dataset: Dataset, rows: Tensor, weak: WeakSettings, seed: int) -> Dataset:
    """Return a view of a dataset in which some entries of some rows are hidden, as in the paper's weak supervision.

    First, each row outside the fraction `paired` keeps one group, chosen uniformly among those of which it has any
    modality, and loses the others; no row becomes empty. Then every entry is kept with probability `keep`. The random
    choices do not depend on the fractions, so a larger fraction keeps every entry that a smaller one keeps.

    Args:
        dataset: not changed; the view shares its values.
        rows: int64 `(rows,)`; other rows stay as they are.
        weak: how much to keep.
        seed: determines which entries are hidden.

    Source:
        Wu & Goodman 2018, section 6.1.
    """
    present = dataset.present[rows]
    if weak.paired < 1:
        randomness = generator(seed, "weak pairing")
        order = torch.randperm(len(rows), generator=randomness)
        unpaired = order[round(weak.paired * len(rows)) :]
        members = _members(dataset.names, weak.groups)  # (groups, modalities)
        group = torch.randint(len(members), (len(rows),), generator=randomness)
        present[unpaired] &= members[_of_row(present[unpaired], members, group[unpaired], seed)]
    if weak.keep < 1:
        present &= torch.rand(present.shape, generator=generator(seed, "weak entries")) < weak.keep
    view = copy(dataset)
    view.present = dataset.present.clone()
    view.present[rows] = present
    return view


def _of_row(present: Tensor, members: Tensor, group: Tensor, seed: int) -> Tensor:
    """Return a group of each row, int64 `(rows,)`: the given one, or one that the row has if it has none of that.

    Args:
        present: bool `(rows, modalities)`.
        members: bool `(groups, modalities)`.
        group: chosen uniformly among all groups, int64 `(rows,)`.
        seed: of the second choice.
    """
    lacking = (~(present & members[group]).any(1)).nonzero().squeeze(1)
    has = present[lacking].float() @ members.T.float() > 0  # (lacking, groups)
    draws = torch.rand(has.shape, generator=generator(seed, "weak pairing again"))
    return group.index_copy(0, lacking, draws.masked_fill(~has, -1).argmax(1))


def _members(names: Sequence[str], groups: Sequence[Sequence[str]]) -> Tensor:
    """Return the modalities of each group, bool `(groups, modalities)`; those in no group are one group each."""
    grouped = {name for group in groups for name in group}
    every = [*groups, *((name,) for name in names if name not in grouped)]
    return torch.tensor([[name in group for name in names] for group in every])
