"""The exponential moving average of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""An exponential moving average of a model's parameters.

    After step t, counted from 0, each parameter's average a moves towards the parameter w:

    .. math:: a \leftarrow d_t a + (1 - d_t) w, \quad d_t = \min(d, (1 + t) / (10 + t))

    The smaller decay of the first steps lets the average forget the initial weights soon. Buffers, such as the running
    statistics of batch normalisation, are not averaged: the model's present ones are used.

    Args:
        model: whose parameters are averaged; the average begins at their present values.
        decay: the decay d, in (0, 1).

    Source:
        Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging, where all steps count alike.

    >>> model = nn.Linear(1, 1, bias=False).requires_grad_(False)
    >>> average = WeightAverage(model, 0.5)
    >>> _ = model.weight.copy_(average.values["weight"] + 1)
    >>> average.update(100)
    >>> with average.applied():
    ...     inside = model.weight.item()
    >>> round(model.weight.item() - inside, 4)
    0.5
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values: dict[str, Tensor] = {}
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Begin anew at the model's present parameters, on their device and in their precision."""
        self.values = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take the model's parameters into the average.

        Args:
            number: of the step that has changed them, from 0.
        """
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(list(self.values.values()), self._parameters(), 1 - decay)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Replace the average by a saved one.

        Raises:
            KeyError: it lacks a parameter.
            RuntimeError: a parameter has another shape.
        """
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged parameters inside a ``with`` block, and its own ones, to the bit, afterwards."""
        own = [parameter.clone() for parameter in self._parameters()]
        self._set(list(self.values.values()))
        try:
            yield
        finally:
            self._set(own)

    def _parameters(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.model.parameters()]

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._parameters(), values)
