"""A face's regions drawn from its landmarks: an image of one channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from .image import MODALITY as IMAGE
from .image import ImageSchema


class LandmarksSchema(ImageSchema):
    """A picture of one channel, white on black."""

    channels: Literal[1] = 1


MODALITY = replace(
    IMAGE,
    kind="landmarks",
    summary="regions of a face drawn from its landmarks, one channel; the likelihoods of an image",
    proposal=None,
    schema=LandmarksSchema,
)
