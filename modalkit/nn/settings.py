"""The network settings that recipes choose from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PositiveInt

from modalkit.plugin import CustomNetwork, Settings, as_tuple

NetworkT = TypeVar("NetworkT", bound=Settings)

Widths = Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple)]
"""Widths of layers; a recipe writes a list."""


LINEAR_FEATURES = 64
"""How many linear features ``linear: true`` gives an encoder: as many as `latent_dim` has by default."""


Linear = Annotated[
    bool | PositiveInt,
    Field(
        description="Add a linear path beside both networks. A number says how many linear features the encoder gets; "
        f"`true` is {LINEAR_FEATURES}. Give at least `latent_dim`."
    ),
]


def _linear_features(linear: bool | int) -> int:
    return LINEAR_FEATURES if linear is True else int(linear)


class Mlp(Settings):
    """Fully connected networks."""

    type: Literal["mlp"] = "mlp"
    hidden: Widths = Field((512, 512), min_length=1, description="Widths of the encoder's layers.")
    decoder_hidden: Widths = Field((512, 512, 512), description="Widths of the decoder's layers.")
    batch_norm: bool = Field(False, description="Batch normalisation after every hidden layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after each of the encoder's hidden layers.")
    linear: Linear = False

    @property
    def linear_features(self) -> int:
        """Number of linear features that the encoder gets, before it is limited by its inputs; 0 without the path."""
        return _linear_features(self.linear)


class Dcgan(Settings):
    """Convolutional networks in the style of DCGAN, for pictures of any size.

    There are two forms, as in the paper. The small form is for pictures below 32 pixels (28 in the paper): every
    convolution halves the sides. The large form is for 32 pixels and more (50 and 64 in the paper): convolutions halve
    the sides until 6 to 11 pixels are left, and a last convolution ends at 2 to 8. A field that is None takes the value
    of the form.
    """

    type: Literal["dcgan"] = "dcgan"
    widths: Annotated[Widths, Field(min_length=1)] | None = Field(
        None, description="Channels after each of the encoder's convolutions; the decoder mirrors them."
    )
    hidden: PositiveInt = Field(512, description="Width of the encoder's dense layer.")
    decoder_hidden: Widths | None = Field(
        None, description="Widths of the decoder's dense layers before its first picture; small form (512,), else ()."
    )
    batch_norm: bool | None = Field(
        None, description="Batch normalisation of all convolutions but the encoder's first and the decoder's last."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout after the encoder's dense layer; small form 0, else 0.1."
    )
    linear: Linear = False

    @property
    def linear_features(self) -> int:
        """Number of linear features that the encoder gets, before it is limited by its inputs; 0 without the path."""
        return _linear_features(self.linear)


class Resnet(Settings):
    """Residual convolutional networks for pictures of any size.

    Each stage halves the sides, rounded up. By default there are as many stages as leave fewer than 8 pixels of the
    smaller side, and the stages have 32, 64, 128, 256, 256, … channels.
    """

    type: Literal["resnet"] = "resnet"
    channels: Annotated[Widths, Field(min_length=1)] | None = Field(
        None, description="Channels after each of the encoder's stages; the decoder mirrors them."
    )
    blocks: PositiveInt = Field(1, description="Residual blocks of a stage, each of two convolutions.")
    norm: Literal["group", "batch"] = Field(
        "group",
        description="Normalisation before each convolution of a block: `group` normalises each picture by itself, the "
        "same in training and afterwards; `batch` normalises over a batch.",
    )
    hidden: PositiveInt = Field(512, description="Width of the encoder's dense layer.")
    decoder_hidden: Widths = Field((), description="Widths of the decoder's dense layers before its first picture.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after the encoder's dense layer.")
    linear: Linear = False

    @property
    def linear_features(self) -> int:
        """Number of linear features that the encoder gets, before it is limited by its inputs; 0 without the path."""
        return _linear_features(self.linear)


def by_name(network: Any) -> Any:
    """Read ``network: mlp`` as ``network: {type: mlp}``."""
    return {"type": network} if isinstance(network, str) else network


DenseNetwork = Annotated[
    Mlp | CustomNetwork,
    Field(discriminator="type", description="`mlp`, one with its settings, or your own."),
    BeforeValidator(by_name, json_schema_input_type=Literal["mlp"] | Mlp | CustomNetwork),
]
"""What a recipe may choose for vectors: ``network: mlp``, ``{type: mlp, …}`` or ``{type: custom, …}``."""

ImageNetwork = Annotated[
    Mlp | Dcgan | Resnet | CustomNetwork,
    Field(discriminator="type", description="`mlp`, `dcgan`, `resnet`, one of them with its settings, or your own."),
    BeforeValidator(
        by_name, json_schema_input_type=Literal["mlp", "dcgan", "resnet"] | Mlp | Dcgan | Resnet | CustomNetwork
    ),
]
"""What a recipe may choose for pictures: the choices for vectors, ``dcgan`` and ``resnet``."""


def built_in(network: NetworkT | CustomNetwork) -> NetworkT:
    """Return the settings if they are a kind's own; a kind builds its networks from nothing else.

    Raises:
        TypeError: the settings are those of a custom network, which the core builds from its reference.
    """
    if isinstance(network, CustomNetwork):
        raise TypeError("a custom network is built by the core, never by the kind")
    return network
