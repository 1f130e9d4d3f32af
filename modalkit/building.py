"""Runs dataset builders: one by name, or those that a recipe names for a dataset that is not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from modalkit import registry
from modalkit.errors import InputError
from modalkit.plugin import Builder, Settings
from modalkit.progress import say

if TYPE_CHECKING:
    from modalkit.recipe import Recipe


def build(name: str, out: Path, options: Mapping[str, Any] | Settings) -> str:
    """Run one builder, or go on where it stopped.

    Args:
        name: the builder's name.
        out: what it makes.
        options: its options, checked here unless they are its own settings already.

    Returns:
        One line that says what was made.

    Raises:
        InputError: unknown builder, wrong options, or sources that cannot be used.
        RunError: the work could not be finished; what was done is kept.
    """
    builder: Builder[Any] = registry.get(registry.BUILDERS, name)
    if isinstance(options, Settings):
        return builder.build(options, out)
    try:
        checked = builder.options.model_validate(dict(options))
    except ValidationError as error:
        wrong = "; ".join(f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise InputError(f"build-dataset {name}: {wrong}") from None
    return builder.build(checked, out)


def ensure_dataset(recipe: Recipe) -> None:
    """Run a recipe's ``data.build`` steps unless its dataset is there; finished steps are found finished."""
    if (recipe.data.path / "manifest.json").exists() or not recipe.data.build:
        return
    for step in recipe.data.build:
        out = step.out or recipe.data.path
        say(f"{out}: {step.builder}")
        say(build(step.builder, out, step.options))
