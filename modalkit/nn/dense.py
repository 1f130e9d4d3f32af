"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalkit.nn.batch_norm import BatchNorm1d, PartedBatchNorm, can_part
from modalkit.nn.linear import EmbeddedFeatures
from modalkit.nn.settings import Mlp, built_in
from modalkit.plugin import CustomNetwork


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int | None = None, *, batch_norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Return a fully connected network, `(rows, inputs) -> (rows, outputs)`.

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of a last linear layer; None ends after the last hidden layer.
        batch_norm: normalise after every hidden layer, before its SiLU.
        dropout: probability of dropping a unit, after every hidden layer.

    >>> import torch
    >>> mlp(784, [512, 512], 10)(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), *_activation(width, batch_norm, dropout)]
        inputs = width
    return nn.Sequential(*layers, *([] if outputs is None else [nn.Linear(inputs, outputs)]))


def _activation(width: int, batch_norm: bool, dropout: float) -> list[nn.Module]:
    """Return the layers that follow a hidden layer's matrix."""
    norm = [BatchNorm1d(width)] if batch_norm else []
    return [*norm, nn.SiLU(), *([nn.Dropout(dropout)] if dropout else [])]


class Reshape(nn.Module):
    """`(rows, ...) -> (rows, *shape)`."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, each row in the new shape."""
        return x.reshape(x.shape[0], *self.shape)  # len(x) would fix the number of rows of an exported graph


class CategoryEncoder(nn.Sequential):
    """An encoder of one integer, `(rows,) -> (rows, features)`, that encodes each category once and not each row.

    Batch normalisation counts each category as often as there are rows of it.

    Args:
        categories: the integers are below this.
        layers: the layers, from `(rows,)` to features.

    Attributes:
        apart: whether to encode every row, because rows of one category differ. Dropout among the layers sets it.
    """

    def __init__(self, categories: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.categories = categories
        self.apart = any(isinstance(layer, nn.Dropout) for layer in layers)

    def forward(self, value: Tensor) -> Tensor:
        """Return features."""
        each = self.apart or (self.training and not can_part(self))
        if each or len(value) <= self.categories:
            features: Tensor = super().forward(value)  # type: ignore[no-untyped-call]
            return features
        features = torch.arange(self.categories, device=value.device)
        for layer in self:
            if self.training and isinstance(layer, PartedBatchNorm):
                features = layer.weighted(features, torch.bincount(value, minlength=self.categories))
            else:
                features = layer(features)
        return functional.embedding(value, features)


def category_encoder(network: Mlp | CustomNetwork, categories: int) -> CategoryEncoder:
    """Return an encoder of one integer below `categories`, `(rows,) -> (rows, features)`.

    The embedding is the matrix of the first hidden layer: the result equals `encoder` of a one-hot vector, without the
    bias of that layer.
    """
    network = built_in(network)
    first, *rest = network.hidden
    tail = mlp(first, rest, batch_norm=network.batch_norm, dropout=network.dropout)
    embedding = nn.Embedding(categories, first)
    layers = [embedding, *_activation(first, network.batch_norm, network.dropout), *tail]
    if not network.linear:
        return CategoryEncoder(categories, *layers)
    beside = EmbeddedFeatures(nn.Sequential(*layers), categories, network.linear_features)
    whole = CategoryEncoder(categories, beside)
    whole.apart = bool(network.batch_norm or network.dropout)  # the parts of `beside` cannot count categories
    return whole
