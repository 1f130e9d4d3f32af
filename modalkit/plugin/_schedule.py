"""A schedule: how a number, such as the learning rate, changes during training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from modalkit.plugin._schema import Settings


class ScheduleOptions(Settings):
    """Options that every schedule has; a schedule's own options subclass them.

    In a recipe, the name alone stands for a schedule whose other options have their defaults.
    """

    name: str = Field(description="Name of the schedule (`modalkit list schedules`).")

    @model_serializer(mode="wrap")
    def _as_short_as_possible(self, whole: SerializerFunctionWrapHandler) -> Any:
        fields = type(self).model_fields
        own = (key for key in fields if key != "name")
        return whole(self) if any(getattr(self, key) != fields[key].default for key in own) else self.name


ScheduleOptionsT = TypeVar("ScheduleOptionsT", bound=ScheduleOptions)


@dataclass(frozen=True)
class Schedule(Generic[ScheduleOptionsT]):
    """A schedule: the factor by which a number of the recipe is multiplied at each step of a training.

    Attributes:
        name: the name recipes use.
        summary: one line for `modalkit list schedules`.
        options: settings that validate ``train.schedule`` and ``train.beta_schedule`` of a recipe.
        factor: `(options, done) ->` the factor, a finite number of at least 0. `done` is the fraction of all steps of
            ``train.epochs`` that are done before this step, from 0 to 1. It must depend on nothing else, so that a
            resumed run repeats it.
        depends_on_epochs: whether the factor changes with `done`. If so, ``train.epochs`` cannot be changed when a run
            is resumed.
    """

    name: str
    summary: str
    options: type[ScheduleOptionsT]
    factor: Callable[[ScheduleOptionsT, float], float]
    depends_on_epochs: bool = True
