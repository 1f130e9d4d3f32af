"""What a recipe holds: the model of its sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from modalkit import registry
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import ObjectiveOptions, Schema, Settings
from modalkit.recipe.data_section import DataSettings
from modalkit.recipe.plugged import (
    DEFAULT_OBJECTIVE,
    invalid,
    kind_schema,
    objective_options,
    schedule_options,
    step_settings,
    validated_objective,
    validated_schema,
)
from modalkit.recipe.roles import check_private, check_roles
from modalkit.recipe.templates import fold, modality_name
from modalkit.recipe.train_section import TrainSettings
from modalkit.recipe.yaml import dump
from modalkit.util.explain import Key, at, explain

_NOWHERE = "no-data"
_MOST_CORRELATED = 2048
"""Latent dimensions of experts with precision matrices. A matrix then has 17 MB, and a step dozens of them."""


class ModelSettings(Settings):
    """What the modalities share."""

    latent_dim: int = Field(64, ge=1, description="Number of latent dimensions.")
    centered: bool = Field(
        False,
        description="Start every decoder at the best constant prediction of its modality's training rows, so that z "
        "only has to encode how a row differs from it.",
    )
    experts: Literal["diagonal", "low_rank", "full"] = Field(
        "diagonal",
        description="Precision of each modality's expert. diagonal: one number a latent dimension, for each row. "
        "low_rank: a matrix that all rows share, of a rank of at most the numbers of a sample. full: of full rank.",
    )
    rank: int | None = Field(
        None, ge=1, description="Largest rank of the matrices of experts: low_rank; null: numbers of a sample."
    )
    start: Literal["random", "factor_analysis"] = Field(
        "random",
        description="Weights to begin with. factor_analysis: those of a factor analysis of the training rows, for "
        "networks with a linear path (`linear: true`) and experts that are low_rank or full.",
    )


class _Explained(type(Settings)):  # type: ignore[misc]
    """Lets `Recipe(...)` raise `InputError` for a mistake; validation of files reports mistakes by their lines."""

    def __call__(cls, **fields: Any) -> Any:
        try:
            return super().__call__(**fields)
        except ValidationError as error:
            found = explain(error.errors(include_url=False), fields, lambda key: models_at(fields, key))
            raise InputError("\n".join(f"recipe: {at(key, text)}" for key, text in found)) from None


class Recipe(Settings, metaclass=_Explained):
    """Everything that defines a training run.

    From Python, ``Recipe(modalities={...}, model={...}, ...)`` takes the sections of a recipe file as mappings. Without
    ``data``, that is given to `modalkit.train`.

    Raises:
        InputError: a key or value is wrong; the message names the key.

    Example:
        >>> import modalkit
        >>> recipe = modalkit.Recipe(modalities={"x": modalkit.schema("bit")}, model={"latent_dim": 2})
        >>> recipe.model.latent_dim, recipe.train.epochs
        (2, 10)
        >>> modalkit.Recipe(modalities={"x": modalkit.schema("bit")}, modle={"latent_dim": 2})
        Traceback (most recent call last):
        modalkit.errors.InputError: recipe: modle: unknown key (did you mean 'model'?)
    """

    description: str = Field("", description="What this recipe is for, in the user's words.")
    extends: str | None = Field(
        None,
        description="Recipe to start from: a path relative to this file, or the name of a shipped recipe. "
        "Merged when loaded, and therefore null afterwards.",
    )
    plugins: tuple[Path, ...] = Field((), description="Python files with plugins, relative to this file.")
    seed: int = Field(0, ge=0, description="Determines every random choice of the run.")
    data: DataSettings = Field(
        default_factory=lambda: DataSettings(path=_NOWHERE),  # in Python, data may be given apart
        description="The dataset to train on.",
    )
    modalities: dict[
        Annotated[str, AfterValidator(modality_name)],
        Annotated[SerializeAsAny[Schema], BeforeValidator(validated_schema)],
    ] = Field(min_length=1, description="Name of each modality, and its schema as its kind defines it.")
    model: ModelSettings = Field(ModelSettings(), description="What the modalities share.")
    objective: Annotated[SerializeAsAny[ObjectiveOptions], BeforeValidator(validated_objective)] = Field(
        default_factory=dict, validate_default=True, description="What training maximises."
    )
    train: TrainSettings = Field(TrainSettings(), description="How to train.")

    @field_validator("objective")
    @classmethod
    def _objective_fits_the_modalities(cls, options: ObjectiveOptions, info: ValidationInfo) -> ObjectiveOptions:
        if "modalities" in info.data:
            try:
                names = tuple(n for n, schema in info.data["modalities"].items() if schema.role == "modality")
                if names:  # otherwise `_roles_fit` says so
                    registry.get(registry.OBJECTIVES, options.name).check(options, names)
            except ValueError:
                raise
            except Exception as error:  # a plugin may raise anything
                raise ValueError(f"its check raised {type(error).__name__}: {error}") from error
        return options

    @property
    def explained(self) -> dict[str, Schema]:
        """The modalities that are no covariates, in their order: those that the model infers, and infers from."""
        return {name: schema for name, schema in self.modalities.items() if schema.role == "modality"}

    @property
    def covariates(self) -> dict[str, Schema]:
        """The covariates, in their order."""
        return {name: schema for name, schema in self.modalities.items() if schema.role == "covariate"}

    @model_validator(mode="after")
    def _roles_fit(self) -> Recipe:
        objective = registry.get(registry.OBJECTIVES, self.objective.name)
        check_roles(self.modalities, objective)
        check_private(self.explained, objective)
        return self

    @model_validator(mode="after")
    def _lists_name_modalities_once(self) -> Recipe:
        groups = [name for group in self.data.weak.groups for name in group]
        self._check_names(("data", "weak", "groups"), groups)
        if own := self.train.self_training:
            self._check_names(("train", "self_training", "modalities"), own.modalities)
        return self

    def _check_names(self, key: Key, names: Sequence[str]) -> None:
        for name in names:
            if name in self.covariates:
                raise invalid(key, f"'{name}' is a covariate, which is neither hidden nor guessed; remove it here")
            if name not in self.modalities:
                raise invalid(key, f"there is no modality '{name}'{did_you_mean(name, self.modalities)}")
            if names.count(name) > 1:
                raise invalid(key, f"'{name}' is listed twice")

    @model_validator(mode="after")
    def _experts_fit(self) -> Recipe:
        chosen, rank, size = self.model.experts, self.model.rank, self.model.latent_dim
        if rank is not None and chosen != "low_rank":
            raise invalid(("model", "rank"), f"is for experts: low_rank, and experts is {chosen}; remove rank")
        if chosen == "diagonal":
            return self
        objective = registry.get(registry.OBJECTIVES, self.objective.name)
        if objective.model is not None and not objective.correlated_experts:
            raise invalid(("model", "experts"), f"the objective {objective.name} needs experts: diagonal, not {chosen}")
        if size > _MOST_CORRELATED:
            raise invalid(
                ("model", "experts"),
                f"{chosen} needs several matrices of latent_dim x latent_dim numbers for each subset of modalities, "
                f"{4 * size**2 / 1e6:,.0f} MB each with latent_dim: {size}; use at most {_MOST_CORRELATED:,} latent "
                f"dimensions, or diagonal",
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> Recipe:
        if self.model.start == "factor_analysis":
            if self.model.experts == "diagonal":
                raise invalid(
                    ("model", "start"),
                    "factor_analysis needs experts that can say what it knows: experts: low_rank or full",
                )
            if self.model.centered:
                raise invalid(("model", "centered"), "start: factor_analysis sets the constants too; remove centered")
        return self

    @model_validator(mode="after")
    def _pictures_to_augment(self) -> Recipe:
        if self.data.augment.moves and not any(schema.warps for schema in self.explained.values()):
            raise invalid(("data", "augment"), "none of the modalities has pictures to move")
        return self

    def to_yaml(self) -> str:
        """Return this recipe as YAML, with every default and absolute plugin paths; it loads as an equal one."""
        whole = self.model_dump(mode="json", exclude={"extends"})
        return dump(whole | {"modalities": fold(whole["modalities"])})


def models_at(value: dict[str, Any], key: Key) -> tuple[Sequence[Any], Key]:
    """Return the models that validate what stands at `key`, and the rest of `key` from there on."""
    length, tag = 0, ""
    settings_of: Callable[[str], type[Settings]] = kind_schema
    if key[:1] == ("modalities",) and len(key) > 1:
        length, tag = 2, "kind"
    elif key[:2] == ("data", "build") and len(key) > 2:
        length, tag, settings_of = 3, "builder", step_settings
    elif key[:2] in (("train", "schedule"), ("train", "beta_schedule")):
        length, tag, settings_of = 2, "name", schedule_options
    elif key[:1] == ("objective",):
        length, tag, settings_of = 1, "name", objective_options
    for part in key[:length]:
        value = value[part]  # type: ignore[index]
    return ([settings_of(value.get(tag, DEFAULT_OBJECTIVE))] if length else [Recipe]), key[length:]
