"""Encoders and decoders of real values, by a recipe's choice of network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from modalkit.nn.dcgan import DcganDecoder, DcganEncoder
from modalkit.nn.dense import Reshape, mlp
from modalkit.nn.linear import LinearDecoder, LinearFeatures
from modalkit.nn.settings import Dcgan, Mlp, built_in
from modalkit.plugin import CustomNetwork, Schema

SchemaT = TypeVar("SchemaT", bound=Schema)


def encoder(network: Mlp | Dcgan | CustomNetwork, shape: Sequence[int]) -> nn.Module:
    """Return an encoder of real values, `(rows, *shape) -> (rows, features)`.

    Args:
        network: the schema's choice; `Dcgan` needs a shape of channels, height and width.
        shape: the shape of a row.
    """
    if isinstance(network, Dcgan):
        return DcganEncoder(shape, network)
    network, width = built_in(network), math.prod(shape)
    layers = mlp(width, network.hidden, batch_norm=network.batch_norm, dropout=network.dropout)
    whole = layers if len(shape) == 1 else nn.Sequential(Reshape((width,)), *layers)
    return LinearFeatures(whole, width, network.linear_features) if network.linear else whole


def decoder(network: Mlp | Dcgan | CustomNetwork, latent_dim: int, shape: Sequence[int]) -> nn.Module:
    """Return a decoder, `(rows, latent_dim) -> (rows, *shape)`."""
    if isinstance(network, Dcgan):
        return DcganDecoder(latent_dim, shape, network)
    network = built_in(network)
    layers = mlp(latent_dim, network.decoder_hidden, math.prod(shape), batch_norm=network.batch_norm)
    whole = layers if len(shape) == 1 else nn.Sequential(*layers, Reshape(shape))
    return LinearDecoder(whole, latent_dim, shape) if network.linear else whole


def trunk(schema: SchemaT) -> SchemaT:
    """Return the schema of an encoder that ends after its first dense layer, without batch normalisation.

    JMVAE joins these encoders. Convolutional encoders have one dense layer and stay whole, as do custom networks.
    """
    network = getattr(schema, "network", None)
    if not isinstance(network, Mlp):
        return schema
    first = network.model_copy(update={"hidden": network.hidden[:1], "batch_norm": False})
    return schema.model_copy(update={"network": first})
