"""How far a run is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Progress:
    """How far a run is; a run resumes from this, its weights and the optimiser's state.

    Attributes:
        step: gradient steps done.
        epoch: whole epochs done.
        best: best value so far of what ``train.choose`` names; higher is better. It is the validation ELBO (nats a row,
            summed over all terms, beta 1) or minus the error of imputation.
        best_epoch: the number of epochs done when it was reached; 0 before training, or while there is none.
    """

    step: int = 0
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0

    @property
    def has_best(self) -> bool:
        """Whether there are best weights; those before training count as epoch 0."""
        return self.best_epoch > 0 or self.best > -math.inf
