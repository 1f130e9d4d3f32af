"""The linear paths of networks: what they see, and how they are given a linear expert and a linear decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from modalkit.errors import InputError
from modalkit.model.covariates import ConditionedHead
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import CategoryEncoder, EmbeddedFeatures, LinearDecoder, LinearFeatures, Scaled, evaluating

_SILENT = 1e-2  # size of the directions of an expert that should say almost nothing


class _Seen(Exception):
    """Ends a call of an encoder as soon as its linear path was given its input, `value`."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class LinearPath:
    """The linear path of one modality, from the numbers that its encoder sees to z, and from z to its decoder's output.

    Args:
        model: with experts that have a precision matrix.
        name: the modality.

    Attributes:
        name: the argument.
        categories: how many there are if the encoder sees one integer; 0 if it sees numbers.
        inputs: numbers that the path of the encoder sees; a category counts as a one-hot vector.
        rank: directions of z that the expert measures.
    """

    def __init__(self, model: MultimodalVAE, name: str) -> None:
        self.model, self.name = model, name
        self._features = _first(model.encoders[name], LinearFeatures, EmbeddedFeatures)
        self._decoder = _first(model.decoders[name], LinearDecoder) if name in model.decoders else None
        self._scaled = _first(model.decoders[name], Scaled) if name in model.decoders else None
        measurement: Any = model.measurements[name]
        head: Any = model.heads[name]
        self._measurement = measurement
        self._conditioned = head if isinstance(head, ConditionedHead) else None
        self._head = head.head if isinstance(head, ConditionedHead) else head
        self.categories = self._features.linear.num_embeddings if isinstance(self._features, EmbeddedFeatures) else 0
        self.inputs = self.categories or (self._features.linear.in_features if self._features is not None else 0)
        self.rank = int(measurement.directions.shape[1])

    @property
    def complete(self) -> bool:
        """Whether the expert can be a linear one: the encoder has a linear path, and there is a decoder."""
        return self._features is not None and self.name in self.model.decoders

    @property
    def decodes(self) -> bool:
        """Whether the decoder has a linear path; that of texts, which writes one character after another, has none."""
        return self._decoder is not None

    def require_width(self) -> None:
        """Raise an `InputError` if the encoder's path is too narrow for the expert's rank."""
        width = self._width
        if width < min(self.rank, self.inputs):
            raise InputError(
                f"modality '{self.name}': model.start: factor_analysis needs {min(self.rank, self.inputs)} linear "
                f"features of its encoder, as many as its expert has directions, and it has {width}; write network: "
                f"{{..., linear: {self.rank}}}"
            )

    def numbers(self, value: Tensor) -> Tensor:
        """Return what the encoder's path sees of values, `(rows, *event_shape) -> (rows, inputs)`."""
        encoder = self.model.encoders[self.name]
        entry = _first(encoder, CategoryEncoder) if self.categories else self._features
        assert entry is not None
        with _entered(entry), evaluating(encoder), self.model.blame(self.name, "encoder"):
            try:
                encoder(value)
            except _Seen as seen:
                value = seen.value
        if self.categories:
            return one_hot(value, self.categories).to(torch.get_default_dtype())
        return value.flatten(1)

    @torch.no_grad()
    def give_expert(self, directions: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> None:
        """Make the expert that of the linear measurement `b = weight (x - slope^T c) + bias` of directions of z.

        Args:
            directions: `(latent_dim, rank)`.
            weight: `(rank, inputs)`.
            bias: `(rank,)`.
            slope: the effect of the condition c on x, `(width, inputs)`; of width 0 without covariates.
        """
        if self._conditioned is not None:
            _silence_last(self._conditioned.both)
            self._conditioned.shift.weight.copy_(-weight @ slope.T)
        head, path, width = self._head, self._features.linear, self._width
        head.weight.zero_()
        head.bias.copy_(bias)
        self._measurement.directions.copy_(directions)
        if self.inputs <= width:  # the path passes the numbers on
            passed, combined = torch.eye(width, self.inputs), weight
        else:
            passed, combined = torch.zeros(width, self.inputs), torch.eye(self.rank)
            passed[: self.rank] = weight
        if self.categories:
            path.weight.copy_(passed.T)
        else:
            path.weight.copy_(passed)
            path.bias.zero_()
        first = head.in_features - width
        head.weight[:, first : first + combined.shape[1]] = combined

    @torch.no_grad()
    def silence(self) -> None:
        """Make the expert say almost nothing about z."""
        self._measurement.directions.mul_(_SILENT)

    @torch.no_grad()
    def give_decoder(self, weight: Tensor, raw: Tensor) -> None:
        """Make the decoder linear: `raw` for an input of zeros, with the first entries of its output moved by `weight`.

        Args:
            weight: of the decoder's input, z and the condition, `(numbers, latent_dim + width)`.
            raw: raw parameters of one row for z = 0, as the kind's `marginal` returns them.

        Raises:
            ValueError: they do not fit the decoder's output.
        """
        assert self._decoder is not None
        line, scaled = self._decoder.linear, self._scaled
        start = raw[0] if scaled is None else raw[0, : self._decoder.shape[0]]
        if start.numel() != line.out_features or len(weight) > line.out_features:
            raise ValueError(f"raw parameters of shape {tuple(raw.shape)} do not fit {line.out_features} outputs")
        _silence_last(self._decoder.network)
        line.weight.zero_()
        line.weight[: len(weight)] = weight
        line.bias.copy_(start.flatten())
        if scaled is not None:
            scaled.start_at(raw)

    def fit_decoder(self, given: Tensor, value: Tensor, iterations: int) -> None:
        r"""Fit the decoder's linear path by maximum likelihood, with a standard normal prior of its weights.

        Args:
            given: the decoder's input, z and the condition, `(rows, latent_dim + width)`.
            value: `(rows, *event_shape)`.
            iterations: of L-BFGS.
        """
        assert self._decoder is not None
        _silence_last(self._decoder.network)
        line = self._decoder.linear
        fitted = [line.weight, line.bias] + ([] if self._scaled is None else [self._scaled.log_scale])
        optimizer = torch.optim.LBFGS(fitted, max_iter=iterations, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            penalty = 0.5 * line.weight.square().sum() / len(given)
            found: Tensor = penalty - self.model.log_px(self.name, given, value).mean()
            for parameter, gradient in zip(fitted, torch.autograd.grad(found, fitted), strict=True):
                parameter.grad = gradient
            return found

        with evaluating(self.model.decoders[self.name]):
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        for parameter in fitted:
            parameter.grad = None

    @property
    def _width(self) -> int:
        path = self._features.linear
        return int(path.embedding_dim if self.categories else path.out_features)


def _first(network: nn.Module, *types: type[nn.Module]) -> Any:
    """Return the first part of a network that has one of these types; None if there is none."""
    return next((part for part in network.modules() if isinstance(part, types)), None)


@contextmanager
def _entered(part: nn.Module) -> Iterator[None]:
    """Let a part of a network raise `_Seen` with its input."""

    def stop(_part: nn.Module, given: tuple[Tensor, ...]) -> None:
        raise _Seen(given[0])

    handle = part.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def _silence_last(network: nn.Module) -> None:
    """Make a network return zeros: its last layer with weights gets zeros."""
    layers = [part for part in network.modules() if isinstance(getattr(part, "weight", None), nn.Parameter)]
    for parameter in layers[-1].parameters(recurse=False):
        nn.init.zeros_(parameter)
