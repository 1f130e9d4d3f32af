"""The contract between the core and its plugins: a modality kind, an objective, a dataset builder.

A plugin is one object of one of the dataclasses below, in a module that an entry point (or a recipe's
``plugins:`` list) names. There is nothing to inherit from but `Schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributions import Distribution

Picture: TypeAlias = npt.NDArray[np.uint8]
"""What a person looks at: `(height, width)` for gray or `(height, width, 3)` for colour."""


Stored: TypeAlias = Literal["uint8", "int64", "float32"]
"""How a sample can be stored."""


class Settings(BaseModel):
    """Base of everything a person configures: frozen, and unknown keys are refused."""

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

    dtype: ClassVar[Stored] = "float32"
    """How a sample is stored on disk and travels to the device."""

    model_only: ClassVar[frozenset[str]] = frozenset({"weight", "network"})
    """Names of the fields that configure the model, and so need not agree with the dataset's."""

    from_dataset: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that a recipe may leave out, to have them as the dataset's manifest does."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        raise TypeError(f"{type(self).__name__} does not define event_shape")

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


S = TypeVar("S", bound=Schema)


@dataclass(frozen=True)
class Modality(Generic[S]):
    """A kind of modality: everything the core needs to learn it, and nothing else.

    Attributes:
        kind: the name recipes use.
        summary: one line for `modalkit list kinds`.
        schema: the `Schema` subclass that a recipe's entry is validated by.
        encoder: `schema ->` module from values `(batch, *event_shape)` to features `(batch, features)`.
            The core adds the Gaussian head that turns features into an expert q(z|x_m).
        decoder: `(schema, latent_dim) ->` module from z `(batch, latent_dim)` to raw parameters, anything
            that `likelihood` understands.
        likelihood: `(schema, raw) ->` p(x_m|z), a `torch.distributions.Distribution` whose `batch_shape` is
            `(batch,)` and whose `event_shape` is the schema's. Floating-point kinds must have a `mean`,
            integer kinds a `mode`: that is what a translation shows.
        show: `(schema, value) ->` what a person sees of one sample: a uint8 picture `(height, width[, 3])` or
            a short text.
        read: `(schema, source) ->` one value `(*event_shape)` from a path or a text, as a person has it.
        marginal: `(schema, values) ->` raw parameters, as `likelihood` takes them, of the best constant prediction for
            `values` `(rows, *event_shape)`, a batch of one: the baseline that translations are compared with, and
            what centred decoders say of z = 0. Optional.
        correct: `(schema, predicted, values) ->` by name which parts of predictions `(rows, *event_shape)` are right,
            bool `(rows,)` each: the character at each place of a text, each of several attributes. Optional: for
            kinds that can be right or wrong.
    """

    kind: str
    summary: str
    schema: type[S]
    encoder: Callable[[S], nn.Module]
    decoder: Callable[[S, int], nn.Module]
    likelihood: Callable[[S, Any], Distribution]
    show: Callable[[S, Tensor], Picture | str]
    read: Callable[[S, str], Tensor]
    marginal: Callable[[S, Tensor], Any] | None = None
    correct: Callable[[S, Tensor, Tensor], Mapping[str, Tensor]] | None = None


class ObjectiveOptions(Settings):
    """What every objective can be told; an objective's own options add to it."""

    name: str = Field("mvae", description="Name of the objective (`modalkit list objectives`).")
    beta: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight of the KL term after the warm-up.")
    warmup_epochs: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="Epochs over which beta rises linearly from 0, step by step.",
    )


@dataclass(frozen=True)
class Plan:
    """Which ELBO terms a step evaluates: T terms over a batch of B rows and M modalities.

    Attributes:
        terms: T names, such as ``"all"``, ``"only:image"``, ``"random:0"``.
        given: which modalities each term's posterior is conditioned on, bool `(T, B, M)`.
        targets: which modalities each term must explain, bool `(T, B, M)`.
        weight: of each term's likelihoods, `(T, B)`; 1 by default.
        kl_weight: of each term's KL(q || p), beside beta, `(T, B)`; the same as `weight` by default.
        references: weights of KL(q || q(z|x_m)), the term's posterior against each modality's own, beside beta,
            `(T, B, M)`; none by default.

    A row takes part in a term if it has a given or a target there; elsewhere it contributes nothing.
    """

    terms: tuple[str, ...]
    given: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor | None = None
    kl_weight: torch.Tensor | None = None
    references: torch.Tensor | None = None

    def check(self, present: Tensor) -> None:
        """Raise `ValueError` if a mask or weight is not what these terms need over a batch with `present`."""
        terms = (len(self.terms), len(present))
        shapes = {"given": (*terms, present.shape[1]), "targets": (*terms, present.shape[1]), "weight": terms}
        shapes |= {"kl_weight": terms, "references": (*terms, present.shape[1])}
        if not self.terms:
            raise ValueError("there are no terms")
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {shape}")
            if value is not None and value.device.type != "cpu":
                raise ValueError(f"{name} is on {value.device}; a plan is made on the CPU")
        for name in ("given", "targets"):
            if (dtype := getattr(self, name).dtype) is not present.dtype:
                raise ValueError(f"{name} is {dtype}, not {present.dtype}")

    def rows(self, rows: slice) -> Plan:
        """Return the plan of some of the rows."""
        optional = (self.weight, self.kl_weight, self.references)
        parts = (None if one is None else one[:, rows] for one in optional)
        return Plan(self.terms, self.given[:, rows], self.targets[:, rows], *parts)


@dataclass(frozen=True)
class Draws:
    """When a plan is made, and what its random choices come from.

    Attributes:
        generator: of the CPU; a function of the seed and the step alone.
        epoch: whole epochs done; None for validation, whose plan must be the same in every epoch.
    """

    generator: torch.Generator
    epoch: int | None = None


OptionsT = TypeVar("OptionsT", bound=ObjectiveOptions)
SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Objective(Generic[OptionsT]):
    """An objective: a plan of ELBO terms for any pattern of presence, and the posteriors that it trains.

    Attributes:
        name: the name recipes use.
        summary: one line for `modalkit list objectives`.
        options: settings that a recipe's ``objective:`` section is validated by.
        plan: `(options, names, present, draws) ->` the step's `Plan`; `present` is bool `(B, M)` on the CPU,
            columns in the order of the M `names`; `draws` says in which epoch, and is where every random choice
            comes from.
        check: `(options, names)` raises `ValueError`, with a sentence, if these modalities cannot be trained so.
        model: `(options, schemas, latent_dim) ->` the `modalkit.model.MultimodalVAE` whose posteriors it trains; by
            default the product of experts with the prior expert.
        complete_rows: whether it is defined only where a row has every modality; a training row that lacks one is
            then refused.
        frozen: `(options, epoch) ->` the networks, as prefixes of parameters' names, that stay as they are in this
            epoch, a whole number counted from 0. None by default.
    """

    name: str
    summary: str
    options: type[OptionsT]
    plan: Callable[[OptionsT, tuple[str, ...], Tensor, Draws], Plan]
    check: Callable[[OptionsT, tuple[str, ...]], None] = lambda options, names: None
    model: Callable[[OptionsT, Mapping[str, Schema], int], nn.Module] | None = None
    complete_rows: bool = False
    frozen: Callable[[OptionsT, int], tuple[str, ...]] = lambda options, epoch: ()


@dataclass(frozen=True)
class Filled:
    """One modality of a dataset whose gaps a model has filled; rows are those of the dataset, in its order.

    Attributes:
        schema: the modality's.
        values: as they are stored, `(rows, *event_shape)`.
        present: which rows have it now, bool `(rows,)`.
        uncertainty: of the numbers that were filled, `(rows, *event_shape)`, NaN elsewhere: standard deviations in the
            unit of `values`, or the probability of what was filled where that is a class, a bit or a text.
    """

    schema: Schema
    values: Tensor
    present: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class Builder(Generic[SettingsT]):
    """A dataset builder: turns raw files into something on disk that a recipe trains on.

    Attributes:
        name: the name of its `modalkit build-dataset` command.
        summary: one line for `modalkit list builders`.
        options: settings; each field becomes a command-line option, its description the help.
        build: `(options, out)` does the work. It may be killed at any time: run again with the same options
            it goes on where it stopped, and it ends with the same bytes. It returns one line to print.
        argument: the option that the command line takes without its name, such as ``"file"``. Optional.
        fill: `(dataset's folder, by modality what was filled, file)` writes a dataset's rows without gaps in the layout
            of what the dataset was built from, a table, and returns the files that it wrote. Optional.
    """

    name: str
    summary: str
    options: type[SettingsT]
    build: Callable[[SettingsT, Path], str]
    argument: str | None = None
    fill: Callable[[Path, Mapping[str, Filled], Path], list[Path]] | None = None
