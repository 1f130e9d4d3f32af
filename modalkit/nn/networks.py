"""Encoders and decoders of real values, by a recipe's choice of network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from modalkit.nn.dcgan import DcganDecoder, DcganEncoder, stages
from modalkit.nn.dense import Reshape, mlp
from modalkit.nn.linear import LinearDecoder, LinearFeatures
from modalkit.nn.resnet import ResnetDecoder, ResnetEncoder, residual_stages
from modalkit.nn.settings import Dcgan, Mlp, Resnet, built_in
from modalkit.plugin import CustomNetwork, Schema

SchemaT = TypeVar("SchemaT", bound=Schema)


def encoder(network: Mlp | Dcgan | Resnet | CustomNetwork, shape: Sequence[int]) -> nn.Module:
    """Return an encoder of real values, `(rows, *shape) -> (rows, features)`.

    Args:
        network: the schema's choice; `Dcgan` and `Resnet` need a shape of channels, height and width.
        shape: the shape of a row.
    """
    inputs = math.prod(shape)
    whole: nn.Module
    if isinstance(network, Dcgan):
        whole = DcganEncoder(shape, network)
    elif isinstance(network, Resnet):
        whole = ResnetEncoder(shape, network)
    else:
        network = built_in(network)
        layers = mlp(inputs, network.hidden, batch_norm=network.batch_norm, dropout=network.dropout)
        whole = layers if len(shape) == 1 else nn.Sequential(Reshape((inputs,)), *layers)
    return LinearFeatures(whole, inputs, network.linear_features) if network.linear else whole


def decoder(network: Mlp | Dcgan | Resnet | CustomNetwork, latent_dim: int, shape: Sequence[int]) -> nn.Module:
    """Return a decoder, `(rows, latent_dim) -> (rows, *shape)`."""
    whole: nn.Module
    if isinstance(network, Dcgan):
        whole = DcganDecoder(latent_dim, shape, network)
    elif isinstance(network, Resnet):
        whole = ResnetDecoder(latent_dim, shape, network)
    else:
        network = built_in(network)
        layers = mlp(latent_dim, network.decoder_hidden, math.prod(shape), batch_norm=network.batch_norm)
        whole = layers if len(shape) == 1 else nn.Sequential(*layers, Reshape(shape))
    return LinearDecoder(whole, latent_dim, shape) if network.linear else whole


def check_size(network: Mlp | Dcgan | Resnet | CustomNetwork, size: Sequence[int]) -> None:
    """Check that a network can take pictures of a size; a kind calls this when its schema is validated.

    Args:
        network: the schema's choice.
        size: height and width.

    Raises:
        ValueError: the picture is too small for the network's convolutions.
    """
    if isinstance(network, Dcgan):
        stages(size, network.widths)
    elif isinstance(network, Resnet):
        residual_stages(size, network.channels)


def trunk(schema: SchemaT) -> SchemaT:
    """Return the schema of an encoder that ends after its first dense layer, without batch normalisation.

    JMVAE joins these encoders. Convolutional encoders have one dense layer and stay whole, as do custom networks.
    """
    network = getattr(schema, "network", None)
    if not isinstance(network, Mlp):
        return schema
    first = network.model_copy(update={"hidden": network.hidden[:1], "batch_norm": False})
    return schema.model_copy(update={"network": first})
