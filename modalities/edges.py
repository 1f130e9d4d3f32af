"""Outlines of a picture (such as Canny's): an image of one channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from .image import MODALITY as IMAGE
from .image import ImageSchema


class EdgesSchema(ImageSchema):
    """A picture of one channel, white on black."""

    channels: Literal[1] = 1


MODALITY = replace(
    IMAGE,
    kind="edges",
    summary="outlines of a picture, one channel; the likelihoods of an image",
    proposal=None,
    schema=EdgesSchema,
)
