"""Settings of weak supervision and augmentation, apart from their code, because recipes are checked without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from modalkit.plugin import Settings, as_tuple


class AugmentSettings(Settings):
    """How far the pictures of training rows are moved, anew at every step; all pictures of a row move together.

    The bounds apply to the map from a pixel's new position to its old one.
    """

    shift: float = Field(0.0, ge=0, lt=1, description="Largest shift, in either direction, as a fraction of the side.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation, in either direction, degrees.")
    scale: float = Field(
        0.0, ge=0, lt=1, description="Width and height are multiplied by factors of 1 / (1 + scale) to 1 / (1 - scale)."
    )
    flip: bool = Field(False, description="Whether half of the rows are flipped left to right.")

    @property
    def moves(self) -> bool:
        """Whether anything is moved at all."""
        return self != AugmentSettings()


class WeakSettings(Settings):
    """How many entries of the training rows to keep; validation and test rows are not changed."""

    paired: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Fraction of the rows that stay whole; every other row keeps one group of `groups`.",
    )
    groups: tuple[Annotated[tuple[str, ...], BeforeValidator(as_tuple)], ...] = Field(
        (),
        description="Modalities that are kept or hidden together; a modality in no group is a group of its own.",
    )
    keep: float = Field(1.0, ge=0, le=1, description="Probability with which each entry of each row is kept.")

    @property
    def hides(self) -> bool:
        """Whether any entry may be hidden."""
        return self.paired < 1 or self.keep < 1
