"""Settings that users write, and what one modality of a recipe is: its `Schema`."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Stored: TypeAlias = Literal["uint8", "int64", "float32"]
"""How a sample can be stored."""


class Settings(BaseModel):
    """Base class of all settings that users write: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_tuple(value: Any) -> Any:
    """Let a list stand for a tuple: recipes are strictly validated, and beyond a BeforeValidator pydantic minds."""
    return tuple(value) if isinstance(value, list) else value


class CustomNetwork(Settings):
    """A user's own networks in place of a kind's: ``network: {type: custom, encoder: …, decoder: …}``.

    They keep the kind's contract: the encoder is called as ``encoder(schema, **options)`` and the decoder as
    ``decoder(schema, latent_dim, **options)``, each returning a module.
    """

    type: Literal["custom"] = "custom"
    encoder: str = Field(description="package.module:Name, or file.py:Name relative to the recipe")
    decoder: str = Field(description="package.module:Name, or file.py:Name relative to the recipe")
    options: dict[str, Any] = Field({}, description="keyword arguments for both")

    @field_validator("encoder", "decoder")
    @classmethod
    def _beside_the_recipe(cls, reference: str, info: ValidationInfo) -> str:
        """Make a file's path absolute, taking it as relative to the recipe's folder."""
        folder = (info.context or {}).get("folder")
        return str(Path(folder) / reference) if folder and ".py:" in reference else reference


class Schema(Settings):
    """What one modality of a recipe is: its sample's shape, how it is stored, and its networks' sizes.

    A modality's entry in a recipe *is* its schema. Subclasses add fields and define `event_shape`; they
    override `dtype`, `unpack`, `pack` and `valid` where the defaults below do not fit.
    """

    kind: str = Field(description="Name of the plugin that provides this modality (`modalkit list kinds`).")
    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of this modality's log-likelihood (lambda in the paper).",
    )
    role: Literal["modality", "covariate"] = Field(
        "modality",
        description="modality: inferred, and inferred from. covariate: a condition such as the site of a measurement, "
        "which encoders and decoders of all modalities see, and which z need not explain.",
    )
    private_dim: int = Field(
        0,
        ge=0,
        description="Latent dimensions that only this modality is encoded to and decoded from, beside those that all "
        "share (objectives dmvae and mmvae-plus).",
    )

    dtype: ClassVar[Stored] = "float32"
    """How a sample is stored on disk and travels to the device."""

    model_only: ClassVar[frozenset[str]] = frozenset({"weight", "network", "role", "private_dim"})
    """Names of the fields that configure the model, and so need not agree with the dataset's."""

    from_dataset: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that a recipe may leave out, to have them as the dataset's manifest does."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        raise TypeError(f"{type(self).__name__} does not define event_shape")

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of a sample's values in their order, such as those of several attributes; empty if they have none."""
        return ()

    @property
    def levels(self) -> int:
        """How many integers, from 0, can stand at each place of a stored sample; 0 if they are not so few."""
        return 0

    def zeros(self, rows: int, device: torch.device | str | None = None) -> Tensor:
        """Return zeros as samples are stored, `(rows, *event_shape)` of `dtype`: what stands for absent entries."""
        import torch

        return torch.zeros(rows, *self.event_shape, dtype=getattr(torch, self.dtype), device=device)

    def unpack(self, stored: Tensor) -> Tensor:
        """Turn stored samples into the values that encoder and likelihood see.

        Integers become ``int64`` and floats the default dtype. Override to scale, as images do.

        Args:
            stored: `(batch, *event_shape)` of `dtype`.

        Returns:
            `(batch, *event_shape)`.
        """
        import torch

        return stored.to(torch.get_default_dtype()) if stored.is_floating_point() else stored.long()

    def pack(self, value: Tensor) -> Tensor:
        """Turn values, `(batch, *event_shape)`, into what is stored; the inverse of `unpack`.

        Raises:
            ValueError: integers are stored, and a value is not whole.
        """
        import torch

        stored = value.to(getattr(torch, self.dtype))
        if value.is_floating_point() and not stored.is_floating_point() and not bool((stored == value).all()):
            wrong = float(value[stored != value][0])
            raise ValueError(f"{wrong:g} is no whole number of the range of {self.dtype}, in which this kind is stored")
        return stored

    def storable(self, value: Tensor) -> Tensor:
        """Return the nearest values, `(batch, *event_shape)`, that `pack` accepts.

        It is called before predictions and samples of a likelihood are packed. Override it where they can leave the
        range of what is stored.
        """
        return value

    def valid(self, stored: Tensor) -> Tensor:
        """Tell, as booleans of shape `(batch,)`, which stored samples can be what this schema describes."""
        import torch

        if not stored.is_floating_point():
            return torch.ones(len(stored), dtype=torch.bool)
        # (batch, *event_shape) -> (batch, values of a sample) -> (batch,)
        return stored.isfinite().reshape(len(stored), prod(self.event_shape)).all(1)

    @property
    def drawn(self) -> bool:
        """Whether samples are drawn anew from what is stored each time they are used, by `draw`."""
        return False

    def draw(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """Draw what one step sees of stored samples, such as the dynamic binarisation of pictures.

        Args:
            stored: `(batch, *event_shape)` of `dtype`, on the CPU.
            generator: where every random choice comes from.

        Returns:
            The same shape and dtype.
        """
        return stored

    @property
    def warps(self) -> bool:
        """Whether samples lie in a plane that can be shifted, turned and scaled, by `warp`, as pictures do."""
        return False

    def warp(self, stored: Tensor, maps: Tensor) -> Tensor:
        """Move samples in their plane, for `data.augment`.

        Args:
            stored: `(batch, *event_shape)` of `dtype`.
            maps: one a sample, `(batch, 2, 3)`, float32, on the device of `stored`: from where a point (x to the right,
                y downwards, from the middle) comes to lie, to where it was. The 2 x 2 part is for equal units in both
                directions; the offset is in halves of the width and of the height.

        Returns:
            The same shape and dtype.

        Raises:
            TypeError: unless a subclass that `warps` says how.
        """
        raise TypeError(f"{type(self).__name__} does not define warp")

    def columns(self, value: Tensor) -> Tensor:
        """Return values, `(batch, *event_shape)`, as columns `(batch, width)` that a network is conditioned on.

        Raises:
            TypeError: integers, unless a subclass says what they mean.
        """
        if not value.is_floating_point():
            raise TypeError(f"{type(self).__name__} does not define columns, so nothing can be conditioned on it")
        return value.reshape(len(value), prod(self.event_shape))  # (batch, *event_shape) -> (batch, width)

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says of a modality: shape, dtype and every field about the data."""
        fields = self.model_dump(mode="json", exclude=set(self.model_only - self.from_dataset))
        return fields | {"event_shape": list(self.event_shape), "dtype": self.dtype}
