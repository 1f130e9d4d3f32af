"""Augmentation: the pictures of training rows are shifted, rotated, scaled and flipped, differently at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from modalkit.data.reading import Batch
from modalkit.data.settings import AugmentSettings
from modalkit.plugin import Schema


def sample_maps(augment: AugmentSettings, rows: int, generator: torch.Generator) -> Tensor:
    r"""Sample an affine map for each row, as `modalkit.plugin.Schema.warp` takes it: `(rows, 2, 3)`.

    .. math:: x \mapsto R(\alpha)\, \mathrm{diag}(s)\, x + t

    The map leads from a point's new position to its old one. The angle :math:`\alpha`, the scales s and the shift t are
    uniform within their bounds around the identity.

    Args:
        augment: the bounds.
        rows: number of maps.
        generator: source of every random choice.

    >>> (sample_maps(AugmentSettings(), 5, torch.Generator()) == torch.eye(2, 3)).all().item()
    True
    """
    uniform = torch.rand(rows, 6, generator=generator)
    turn, across, down, *shift = (2 * uniform[:, :5] - 1).unbind(1)  # each (rows,), in [-1, 1)
    angle = turn * math.radians(augment.rotate)
    across, down = 1 + augment.scale * across, 1 + augment.scale * down
    if augment.flip:
        across = across.where(uniform[:, 5] < 0.5, -across)
    cos, sin = angle.cos(), angle.sin()
    horizontal, vertical = (2 * augment.shift * part for part in shift)  # a side has length 2
    entries = ((cos * across, -sin * down, horizontal), (sin * across, cos * down, vertical))
    return torch.stack([torch.stack(row, -1) for row in entries], 1)


def warp(batch: Batch, schemas: Mapping[str, Schema], maps: Tensor) -> Batch:
    """Return a batch with its pictures moved; all pictures of a row move by the same map and so stay aligned.

    Args:
        batch: on any device; not changed.
        schemas: a modality is moved if its schema `warps`.
        maps: the result of `sample_maps` for the rows of the batch.
    """
    moved = dict(batch.values)
    for column, (name, schema) in enumerate(schemas.items()):
        if schema.warps and bool(batch.present[:, column].any()):
            there = batch.present[:, column]
            on = moved[name].device
            moved[name] = moved[name].clone()
            moved[name][there.to(on)] = schema.warp(moved[name][there.to(on)], maps[there].to(on))
    return replace(batch, values=moved)
