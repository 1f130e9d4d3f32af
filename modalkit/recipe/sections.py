"""What a recipe holds: its sections, each validated by pydantic or by the plugin that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, to_json

from modalkit import registry
from modalkit.errors import InputError, did_you_mean, guard
from modalkit.plugin import CustomNetwork, ObjectiveOptions, Schema, Settings, as_tuple
from modalkit.recipe.templates import fold, modality_name
from modalkit.recipe.yaml import Key, dump
from modalkit.util.remote import location

_log = logging.getLogger(__name__)

DEFAULT_OBJECTIVE: str = ObjectiveOptions.model_fields["name"].default


def _wrong(key: Key, message: str, *, kind: str = "said") -> ValidationError:
    """Return an error at `key` whose message is already in plain words."""
    said = PydanticCustomError(kind, "{message}", {"message": message})
    return ValidationError.from_exception_data("recipe", [InitErrorDetails(type=said, loc=key, input=None)])


def _by_plugin(entry: Any, info: ValidationInfo, tag: str, model_of: Callable[[str], type[Settings]]) -> Any:
    """Validate a mapping by the model of the plugin that its `tag` names.

    JSON mode, so that a list is a tuple and a text a path, but strict otherwise: no number is a text.
    """
    if isinstance(entry, Settings):
        return entry
    if not isinstance(entry, dict):
        raise PydanticCustomError("mapping_type", "should be a mapping")
    if tag not in entry:
        raise _wrong((tag,), "is missing", kind="absent")
    if not isinstance(entry[tag], str):
        raise _wrong((tag,), "should be a text")
    try:
        return model_of(entry[tag]).model_validate_json(to_json(entry), strict=True, context=info.context)
    except ValidationError:
        raise
    except InputError as error:
        raise _wrong((tag,), str(error), kind="plugin") from None
    except Exception as error:  # a stranger's validator may raise anything
        raise _wrong((), f"{tag} '{entry[tag]}' raised {type(error).__name__}: {error}") from error


def _schema(entry: Any, info: ValidationInfo) -> Any:
    """Validate a modality's entry; those of a recipe that are alike share one schema."""
    checked: dict[bytes, Any] | None = (info.context or {}).get("schemas")
    if checked is None:
        return _checked_schema(entry, info)
    text = to_json(entry)
    if text not in checked:
        checked[text] = _checked_schema(entry, info)
    return checked[text]


def _checked_schema(entry: Any, info: ValidationInfo) -> Any:
    schema = _by_plugin(entry, info, "kind", kind_schema)
    network = getattr(schema, "network", None)
    try:
        with guard(f"kind '{schema.kind}': its event_shape or facts"):
            schema.facts()
        for reference in (network.encoder, network.decoder) if isinstance(network, CustomNetwork) else ():
            registry.import_object(reference)
    except InputError as error:
        raise _wrong((), str(error)) from None
    return schema


def kind_schema(kind: str) -> type[Settings]:
    """Return the model of a modality of this kind."""
    schema: type[Settings] = registry.modality(kind).schema
    return schema


def objective_options(name: str) -> type[Settings]:
    """Return the model of an objective's section."""
    options: type[Settings] = registry.get(registry.OBJECTIVES, name).options
    return options


def _objective(entry: Any, info: ValidationInfo) -> Any:
    named = {"name": DEFAULT_OBJECTIVE} | entry if isinstance(entry, dict) else entry
    return _by_plugin(named, info, "name", objective_options)


def step_model(builder: str) -> type[Settings]:
    """Return the model of a build step: the builder's own options, and beside them its name and where it writes."""
    return _with_builder_and_out(registry.get(registry.BUILDERS, builder).options)


@cache  # classes are costly to make, and every one of them slows isinstance down
def _with_builder_and_out(options: type[Settings]) -> type[Settings]:
    return create_model(
        options.__name__,
        __base__=options,
        builder=(str, Field(description="Name of the builder (`modalkit list builders`).")),
        out=(Path | None, Field(None, description="What it makes; the last step's default is data.path.")),
    )


class BuildStep(Settings):
    """One step towards a dataset; in a recipe the builder's options stand beside ``builder`` and ``out``.

    Attributes:
        out: where it writes; None for data.path.
    """

    builder: str
    out: Path | None = None
    options: SerializeAsAny[Settings]

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"builder": self.builder, "out": self.out and str(self.out)} | self.options.model_dump(mode="json")


def _step(entry: Any, info: ValidationInfo) -> Any:
    checked = _by_plugin(entry, info, "builder", step_model)
    if isinstance(checked, BuildStep):
        return checked
    options = registry.get(registry.BUILDERS, checked.builder).options
    own = {name: item for name, item in entry.items() if name not in ("builder", "out")}
    made = options.model_validate_json(to_json(own), strict=True, context=info.context)
    return BuildStep(builder=checked.builder, out=checked.out, options=made)


class WeakSettings(Settings):
    """How much of the training rows' supervision to keep; validation and test rows stay as they are."""

    paired: float = Field(
        1.0, ge=0, le=1, description="Fraction of the rows that stay whole; each other keeps one group of `groups`."
    )
    groups: tuple[Annotated[tuple[str, ...], BeforeValidator(as_tuple)], ...] = Field(
        (), description="Modalities that stay together in rows that are split; each is a group of its own by default."
    )
    keep: float = Field(1.0, ge=0, le=1, description="Probability with which each entry of each row is kept.")


class AugmentSettings(Settings):
    """How far pictures of training rows are moved, anew at every step; those of a row move alike.

    The bounds are of where each pixel comes from, in the stored picture.
    """

    shift: float = Field(0.0, ge=0, lt=1, description="Largest shift, in either direction, as a fraction of the side.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation, in either direction, degrees.")
    scale: float = Field(
        0.0, ge=0, lt=1, description="Pictures get 1 / (1 - scale) to 1 / (1 + scale) as wide and high."
    )
    flip: bool = Field(False, description="Whether half of the rows are mirrored, left to right.")

    @property
    def moves(self) -> bool:
        """Whether anything is moved at all."""
        return self != AugmentSettings()


class DataSettings(Settings):
    """The dataset to train on."""

    path: Annotated[str | Path, AfterValidator(location), WithJsonSchema({"type": "string"})] = Field(
        description="Folder of the dataset, relative to the working directory; or a URL, such as s3://bucket/faces."
    )
    build: tuple[Annotated[BuildStep, BeforeValidator(_step)], ...] = Field(
        (), description="Steps that make the dataset if it is not there: a builder each, with its options beside."
    )
    in_memory: bool | None = Field(
        None, description="Whether to read the whole dataset into memory; null: if it is small."
    )
    weak: WeakSettings = Field(WeakSettings(), description="Weak supervision: hide some of the training entries.")
    augment: AugmentSettings = Field(
        AugmentSettings(), description="Augmentation: shift, rotate, scale and flip the training rows' pictures."
    )

    @model_validator(mode="after")
    def _steps_write_somewhere(self) -> DataSettings:
        for index, step in enumerate(self.build[:-1]):
            if step.out is None:
                raise _wrong(
                    ("build", index, "out"), "is missing; only the last step can leave it to data.path", kind="absent"
                )
        return self


class ModelSettings(Settings):
    """What the modalities share."""

    latent_dim: int = Field(64, ge=1, description="Number of latent dimensions.")
    centered: bool = Field(
        False,
        description="Start every decoder at the best constant prediction of its modality's training rows, so that z "
        "need only tell how a row differs from it.",
    )


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Precision = Annotated[
    Literal["32", "64", "bf16-mixed"],
    BeforeValidator(_as_text),
    WithJsonSchema({"enum": ["32", 32, "64", 64, "bf16-mixed"]}),
]
PositiveInt = Annotated[int, Field(ge=1)]


class SelfTrainingSettings(Settings):
    """What of training rows may be guessed where it is absent, and when."""

    modalities: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        min_length=1, description="Modalities of classes or bits."
    )
    confidence: float = Field(0.95, gt=0, le=1, description="Least probability of a guess that is taken.")
    after_epochs: int = Field(1, ge=0, description="Epochs before the first guess; fewer than there are.")

    @field_validator("modalities")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise PydanticCustomError("said", "{message}", {"message": f"'{twice[0]}' stands in it twice"})
        return names


class TrainSettings(Settings):
    """How to train."""

    epochs: int = Field(10, ge=1, description="Passes over the training rows.")
    max_steps: PositiveInt | None = Field(None, description="Stop after this many steps, whatever the epoch.")
    batch_size: int = Field(100, ge=1, description="Rows a step, over all devices.")
    paired_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Least share of a batch that rows with two modalities or more make up; where they are fewer they "
        "come again and again, and an epoch is a pass over the other rows. null: rows come as they are.",
    )
    self_training: SelfTrainingSettings | None = Field(
        None,
        description="Take the model's own confident predictions of absent modalities for observed, anew at every step.",
    )
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Learning rate of Adam.")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Course of the learning rate: constant, or falling to 0 along half a cosine."
    )
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Scale gradients down to this Euclidean norm where theirs is larger."
    )
    patience: PositiveInt | None = Field(
        None, description="Stop early after this many epochs without a better validation ELBO."
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="What to compute on.")
    devices: PositiveInt | Literal["auto"] = Field(1, description="How many of them; auto: all.")
    precision: Precision = Field("32", description="Floating-point format of the computation.")
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = Field(
        None,
        description="Have torch.compile write the networks' kernels, in this mode of its; reduce-overhead replays CUDA "
        "graphs on a GPU.",
    )
    checkpoint_every: PositiveInt | None = Field(
        None, description="Steps between checkpoints; null: one at the end of each epoch."
    )
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.")
    loggers: tuple[Literal["tensorboard", "csv", "wandb", "mlflow"], ...] = Field(
        ("tensorboard", "csv"),
        description="Where metrics go beside metrics.jsonl; wandb and mlflow need their packages, and are kept locally "
        "unless their own environment variables say otherwise.",
    )
    pictures_every: int = Field(1, ge=0, description="Epochs between sample pictures; 0: only at the end.")

    @model_validator(mode="after")
    def _room_for_a_share(self) -> TrainSettings:
        if self.paired_share is not None and self.batch_size < 2:
            raise _wrong(("paired_share",), "needs a batch_size of 2 or more")
        return self

    @model_validator(mode="after")
    def _time_to_guess(self) -> TrainSettings:
        if self.self_training is not None and self.self_training.after_epochs >= self.epochs:
            raise _wrong(
                ("self_training", "after_epochs"),
                f"leaves nothing of the {self.epochs} epochs; give fewer, or train more",
            )
        return self


class Recipe(Settings):
    """Everything that defines a training run."""

    description: str = Field("", description="What this recipe is, for people.")
    extends: str | None = Field(
        None,
        description="Recipe to start from: a path relative to this file, or the name of a shipped recipe. "
        "Merged when loaded, and therefore null afterwards.",
    )
    plugins: tuple[Path, ...] = Field((), description="Python files with plugins, relative to this file.")
    seed: int = Field(0, ge=0, description="Determines every random choice of the run.")
    data: DataSettings = Field(description="The dataset to train on.")
    modalities: dict[
        Annotated[str, AfterValidator(modality_name)], Annotated[SerializeAsAny[Schema], BeforeValidator(_schema)]
    ] = Field(min_length=1, description="Name of each modality, and its schema as its kind defines it.")
    model: ModelSettings = Field(ModelSettings(), description="What the modalities share.")
    objective: Annotated[SerializeAsAny[ObjectiveOptions], BeforeValidator(_objective)] = Field(
        default_factory=dict, validate_default=True, description="What training maximises."
    )
    train: TrainSettings = Field(TrainSettings(), description="How to train.")

    @field_validator("objective")
    @classmethod
    def _fits_the_modalities(cls, options: ObjectiveOptions, info: ValidationInfo) -> ObjectiveOptions:
        if "modalities" in info.data:
            try:
                registry.get(registry.OBJECTIVES, options.name).check(options, tuple(info.data["modalities"]))
            except ValueError:
                raise
            except Exception as error:  # a plugin may raise anything
                raise ValueError(f"its check raised {type(error).__name__}: {error}") from error
        return options

    @model_validator(mode="after")
    def _groups_name_modalities(self) -> Recipe:
        grouped = [name for group in self.data.weak.groups for name in group]
        for name in grouped:
            if name not in self.modalities:
                near = did_you_mean(name, self.modalities)
                raise _wrong(("data", "weak", "groups"), f"there is no modality '{name}'{near}")
            if grouped.count(name) > 1:
                raise _wrong(("data", "weak", "groups"), f"'{name}' stands in it twice")
        return self

    @model_validator(mode="after")
    def _guesses_name_modalities(self) -> Recipe:
        for name in self.train.self_training.modalities if self.train.self_training else ():
            if name not in self.modalities:
                near = did_you_mean(name, self.modalities)
                raise _wrong(("train", "self_training", "modalities"), f"there is no modality '{name}'{near}")
        return self

    @model_validator(mode="after")
    def _something_to_augment(self) -> Recipe:
        if self.data.augment.moves and not any(schema.warps for schema in self.modalities.values()):
            raise _wrong(("data", "augment"), "there is no picture among the modalities to be moved")
        return self

    def to_yaml(self) -> str:
        """Return this recipe as YAML, with every default and absolute plugin paths; it loads as an equal one."""
        whole = self.model_dump(mode="json", exclude={"extends"})
        return dump(whole | {"modalities": fold(whole["modalities"])})
