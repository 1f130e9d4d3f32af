"""Options that all builders of the user's own data share, and the question whether a proposal is right."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from modalkit.errors import InputError
from modalkit.plugin import Settings

if TYPE_CHECKING:
    from modalkit.data import Array

_log = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid"}
SPLITS |= {"dev": "valid", "test": "test", "testing": "test"}
"""What the user may call each split."""


class OwnDataOptions(Settings):
    """Options of every builder of the user's own data."""

    yes: bool = Field(False, description="build what is inferred without asking")
    train: float = Field(0.8, ge=0, le=1, description="fraction of training rows, if splits are chosen at random")
    valid: float = Field(0.1, ge=0, le=1, description="fraction of validation rows; the rest are test rows")
    seed: int = Field(0, ge=0, description="seed of the random splits")

    @model_validator(mode="after")
    def _fractions(self) -> OwnDataOptions:
        if self.train + self.valid > 1 + 1e-9:
            raise ValueError(f"train and valid add up to {self.train + self.valid:g}, above 1")
        return self

    def splits(self, rows: int) -> Array:
        """Choose each row's split at random; return an index of train, valid or test for each, `(rows,)`."""
        from modalkit.data import assign_splits

        fractions = {"train": self.train, "valid": self.valid, "test": max(0.0, 1 - self.train - self.valid)}
        return assign_splits(rows, fractions, self.seed)


def confirm(inferred: str, accepted: bool, option: str) -> None:
    """Show what was inferred and return only if the user accepts it.

    Args:
        inferred: as YAML, in the form that the builder takes.
        accepted: whether the user has accepted it already.
        option: the option that takes the edited YAML.

    Raises:
        InputError: the user does not accept it, or there is no terminal to ask in; the message says what to do.
    """
    how = f"add --yes to build what is shown; or save that to a file, edit it, and add {option} FILE"
    if accepted:
        _log.info(inferred.rstrip())
        return
    print(inferred, end="", flush=True)  # to standard output, so that it can be saved as it is
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"nothing was built, since there is no terminal to ask whether the above is right: {how}")
    print("Build this dataset? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"nothing was built; {how}")
