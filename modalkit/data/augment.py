"""Augmentation: training rows shifted, turned, scaled and mirrored, anew at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from modalkit.data.reading import Batch
from modalkit.plugin import Schema


class Augment(Protocol):
    """How far rows are moved; see `modalkit.recipe_model.AugmentSettings`."""

    @property
    def shift(self) -> float:
        """Largest shift, as a fraction of the side."""

    @property
    def rotate(self) -> float:
        """Largest rotation, degrees."""

    @property
    def scale(self) -> float:
        """Largest change, up or down, of either side of what is seen, as a fraction of it."""

    @property
    def flip(self) -> bool:
        """Whether half of the rows are mirrored."""


def draw_maps(augment: Augment, rows: int, generator: torch.Generator) -> Tensor:
    r"""Draw an affine map for each row, what `modalkit.plugin.Schema.warp` takes: `(rows, 2, 3)`.

    .. math:: x \mapsto R(\alpha)\, \mathrm{diag}(s)\, x + t

    from where a point comes to lie to where it was, with the angle :math:`\alpha`, the scales s and the shift t uniform
    within their bounds around the identity.

    Args:
        augment: the bounds.
        rows: how many.
        generator: where every random choice comes from.

    >>> from modalkit.recipe_model import AugmentSettings
    >>> (draw_maps(AugmentSettings(), 5, torch.Generator()) == torch.eye(2, 3)).all().item()
    True
    """
    draws = torch.rand(rows, 6, generator=generator)
    turn, across, down, *shift = (2 * draws[:, :5] - 1).unbind(1)  # each (rows,), in [-1, 1)
    angle = turn * math.radians(augment.rotate)
    across, down = 1 + augment.scale * across, 1 + augment.scale * down
    if augment.flip:
        across = across.where(draws[:, 5] < 0.5, -across)
    cos, sin = angle.cos(), angle.sin()
    horizontal, vertical = (2 * augment.shift * part for part in shift)  # a side is 2 long
    entries = ((cos * across, -sin * down, horizontal), (sin * across, cos * down, vertical))
    return torch.stack([torch.stack(row, -1) for row in entries], 1)


def warp(batch: Batch, schemas: Mapping[str, Schema], maps: Tensor) -> Batch:
    """Return a batch whose pictures are moved, all of a row by one map, so that they stay aligned.

    Args:
        batch: on any device.
        schemas: a modality moves if its schema `warps`.
        maps: what `draw_maps` returned for the rows of the batch.
    """
    moved = dict(batch.values)
    for column, (name, schema) in enumerate(schemas.items()):
        if schema.warps and bool(batch.present[:, column].any()):
            there = batch.present[:, column]
            on = moved[name].device
            moved[name] = moved[name].clone()
            moved[name][there.to(on)] = schema.warp(moved[name][there.to(on)], maps[there].to(on))
    return Batch(moved, batch.present)
