"""The class that a row's modalities show: their own values, or what classifiers see in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from modalkit import registry
from modalkit.evaluation.metrics.accuracy import right
from modalkit.evaluation.metrics.coherence import classifier_of
from modalkit.generation.drawing import is_classified
from modalkit.plugin import Outcome
from modalkit.runs.opened import Run


class ClassReader:
    """Reads a row's class off several of its modalities.

    Args:
        run: its dataset trains the classifiers, and its folder keeps them.
        asked: the modality that is the class.
        names: the modalities to read it off; those that no classifier can see are left out.
        seed: of the classifiers.

    Attributes:
        names: the modalities that it is read off, in order.
    """

    def __init__(self, run: Run, asked: str, names: Iterable[str], seed: int) -> None:
        self.asked, self.schema, self.device = asked, run.model.schemas[asked], run.model.device
        self.names = tuple(name for name in names if name == asked or is_classified(run.model.schemas[name]))
        self.classifiers = {name: classifier_of(run, name, asked, seed) for name in self.names if name != asked}
        self.is_bits = registry.modality(self.schema.kind).outcome is Outcome.BINARY

    @torch.no_grad()
    def read(self, name: str, values: Tensor) -> Tensor:
        """Return the class that each value of a modality shows, `(rows, *event_shape)`, on the CPU.

        Args:
            name: the modality.
            values: `(rows, *event_shape)` of this modality, as networks see them.
        """
        found = values if name == self.asked else self.classifiers[name].guess(values.to(self.device)).cpu()
        return (found > 0.5).to(found.dtype) if self.is_bits else found

    def agreement(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the share of the class's parts in which all modalities of a row agree, float64 `(rows,)`."""
        first, *others = (self.read(name, values[name]) for name in self.names)
        agree = [torch.stack(list(right(self.schema, other, first).values())) for other in others]
        return torch.stack(agree).all(0).double().mean(0)  # (modalities, parts, rows) -> (rows,)
