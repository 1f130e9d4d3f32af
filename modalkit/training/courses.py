"""How the learning rate and beta change from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from modalkit import registry
from modalkit.errors import InputError, guard
from modalkit.plugin import Schedule, ScheduleOptions
from modalkit.recipe.loading import Recipe

Course = Callable[[int], float]
"""``number of a step, from 0 -> value``."""


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> Course:
    """Return the learning rate of each step: ``train.learning_rate`` times the factor of ``train.schedule``."""
    factor = _factor(recipe.train.schedule, recipe.train.epochs * steps_per_epoch)
    return lambda number: recipe.train.learning_rate * factor(number)


def beta(recipe: Recipe, steps_per_epoch: int) -> Course:
    """Return the weight of the KL in each step.

    It is ``objective.beta`` times the factor of ``train.beta_schedule`` times that of the warm-up, which rises linearly
    from 0 to 1, step by step, in the first ``objective.warmup_epochs``.
    """
    factor = _factor(recipe.train.beta_schedule, recipe.train.epochs * steps_per_epoch)
    warmup = recipe.objective.warmup_epochs * steps_per_epoch

    def course(number: int) -> float:
        return recipe.objective.beta * factor(number) * min(1.0, (number + 1) / warmup if warmup else 1.0)

    return course


def _factor(options: ScheduleOptions, steps: int) -> Course:
    """Return the factor that a schedule gives each of `steps` steps, checked."""
    schedule: Schedule[Any] = registry.get(registry.SCHEDULES, options.name)

    def factor(number: int) -> float:
        done = min(1.0, number / steps)
        with guard(f"schedule '{options.name}': its factor"):
            value = schedule.factor(options, done)
            valid = math.isfinite(value) and value >= 0
        if not valid:
            raise InputError(f"schedule '{options.name}': its factor at done={done:g} is {value}, not a number >= 0")
        return value

    return factor
