"""The ``data:`` section of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from modalkit.data.settings import AugmentSettings, WeakSettings
from modalkit.plugin import Settings
from modalkit.recipe.plugged import BuildStep, invalid, validated_step
from modalkit.util.remote import location


class DataSettings(Settings):
    """The dataset to train on."""

    path: Annotated[str | Path, AfterValidator(location), WithJsonSchema({"type": "string"})] = Field(
        description="Folder of the dataset, relative to the working directory; or a URL, such as s3://bucket/faces."
    )
    build: tuple[Annotated[BuildStep, BeforeValidator(validated_step)], ...] = Field(
        (), description="Steps that build the dataset if it does not exist: each a builder with its options."
    )
    in_memory: bool | None = Field(
        None, description="Whether to read the whole dataset into memory; null: if it is small."
    )
    weak: WeakSettings = Field(WeakSettings(), description="Weak supervision: hide some of the training entries.")
    augment: AugmentSettings = Field(
        AugmentSettings(), description="Augmentation: shift, rotate, scale and flip the training rows' pictures."
    )

    @model_validator(mode="after")
    def _steps_have_a_folder(self) -> DataSettings:
        for index, step in enumerate(self.build[:-1]):
            if step.out is None:
                raise invalid(
                    ("build", index, "out"), "is missing; only the last step can leave it to data.path", kind="absent"
                )
        return self
