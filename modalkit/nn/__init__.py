"""Networks that recipes choose from, and the building blocks they are made of.

Every hidden layer is followed by SiLU (Swish, the paper's activation). Encoders return features; the core
adds the Gaussian head.
"""

from modalkit.nn.batch_norm import BatchNorm1d, BatchNorm2d
from modalkit.nn.dcgan import DcganDecoder, DcganEncoder, Stage, stages
from modalkit.nn.dense import CategoryEncoder, Reshape, category_encoder, mlp
from modalkit.nn.linear import EmbeddedFeatures, LinearDecoder, LinearFeatures
from modalkit.nn.modes import evaluating
from modalkit.nn.network_dict import NetworkDict
from modalkit.nn.networks import check_size, decoder, encoder
from modalkit.nn.resnet import ResidualBlock, ResidualStage, ResnetDecoder, ResnetEncoder, residual_stages
from modalkit.nn.scaled import Scaled, join_scale, split_scale
from modalkit.nn.settings import Dcgan, DenseNetwork, ImageNetwork, Mlp, Resnet, Widths, built_in, by_name

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "CategoryEncoder",
    "Dcgan",
    "DcganDecoder",
    "DcganEncoder",
    "DenseNetwork",
    "EmbeddedFeatures",
    "ImageNetwork",
    "LinearDecoder",
    "LinearFeatures",
    "Mlp",
    "NetworkDict",
    "Reshape",
    "ResidualBlock",
    "ResidualStage",
    "Resnet",
    "ResnetDecoder",
    "ResnetEncoder",
    "Scaled",
    "Stage",
    "Widths",
    "built_in",
    "by_name",
    "category_encoder",
    "check_size",
    "decoder",
    "encoder",
    "evaluating",
    "join_scale",
    "mlp",
    "residual_stages",
    "split_scale",
    "stages",
]
