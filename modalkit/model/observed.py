"""The values that the networks see of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.model.networks import ModalityNetworks
from modalkit.model.rows import take


class Observed(Mapping[str, Tensor]):
    """By modality, the unpacked samples of the rows in which it is present.

    Each is `(rows in which it is present, *event_shape)`, in the networks' precision, and unpacked on first use.

    Args:
        networks: the networks that will see the values.
        batch: values on the networks' device, columns of `present` in the order of their names.
        stacked: names of modalities that are unpacked together, because their schemas are equal.
    """

    def __init__(self, networks: ModalityNetworks, batch: Batch, stacked: Iterable[tuple[str, ...]] = ()) -> None:
        self._networks, self._batch = networks, batch
        self._unpacked: dict[str, Tensor] = {}
        self._unpacked_together: dict[tuple[str, ...], Tensor] = {}
        self._place = {name: (names, i) for names in stacked for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._unpacked:
            rows = self._batch.present[:, self._networks.names.index(name)].nonzero().squeeze(1)
            if name in self._place:
                names, place = self._place[name]
                self._unpacked[name] = take(self.all_rows(names)[place], rows)
            else:
                self._unpacked[name] = self._networks.unpack(name, take(self._batch.values[name], rows))
        return self._unpacked[name]

    def all_rows(self, names: tuple[str, ...]) -> Tensor:
        """Return all rows of modalities with equal schemas.

        Args:
            names: the modalities.

        Returns:
            `(modalities, batch, *event_shape)`; an absent entry is an unpacked zero.
        """
        if names not in self._unpacked_together:
            stored = torch.stack([self._batch.values[name] for name in names])
            # (modalities, batch, ...) -> (modalities * batch, ...) and back
            values = self._networks.unpack(names[0], stored.flatten(0, 1))
            self._unpacked_together[names] = torch.unflatten(values, 0, stored.shape[:2])
        return self._unpacked_together[names]

    @cached_property
    def condition(self) -> Tensor | None:
        """What heads see of the covariates, `(batch, width)`; None if the model has none."""
        return self._condition(self._batch.covariates)

    @cached_property
    def decoder_condition(self) -> Tensor | None:
        """What decoders see of the covariates, `(batch, width)`; None if the model has none."""
        return self.condition if self._batch.as_if is None else self._condition(self._batch.as_if)

    def condition_of(self, name: str) -> Tensor | None:
        """Return the condition of the rows that have a modality, `(rows in which it is present, width)`."""
        if self.condition is None:
            return None
        return take(self.condition, self._batch.present[:, self._networks.names.index(name)].nonzero().squeeze(1))

    def _condition(self, covariates: Batch | None) -> Tensor | None:
        if self._networks.covariates is None:
            return None
        if covariates is None:  # a mistake in the code: rows would count as average ones
            raise ValueError(f"rows lack the covariates {', '.join(self._networks.covariate_schemas)}")
        condition: Tensor = self._networks.covariates(covariates)
        return condition

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks.names)

    def __len__(self) -> int:
        return len(self._networks.names)
