"""Runs dataset builders: one by name, or those that a recipe names for a dataset that is not there yet."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from modalkit import registry
from modalkit.data.manifest import difference
from modalkit.errors import InputError
from modalkit.plugin import Builder, Settings
from modalkit.util.files import write_json
from modalkit.util.remote import is_url, refuse_url

if TYPE_CHECKING:
    from modalkit.recipe.loading import Recipe

_log = logging.getLogger(__name__)

_RECORD = "recipe_build.json"
"""In a dataset that a recipe had built: the steps that did it."""
_CHANGE_NO_BYTE = {"workers", "engine", "address"}
"""Options that say where a step runs, and are left out of the record."""


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
    refuse_url(out, "--out")
    builder: Builder[Any] = registry.get(registry.BUILDERS, name)
    if isinstance(options, Settings):
        return builder.build(options, out)
    try:
        checked = builder.options.model_validate(dict(options))
    except ValidationError as error:
        places = (".".join(map(str, e["loc"])).replace("_", "-") for e in error.errors())
        said = zip(places, (e["msg"].removeprefix("Value error, ") for e in error.errors()), strict=True)
        wrong = "; ".join(f"--{place}: {message}" if place else message for place, message in said)
        raise InputError(f"build-dataset {name}: {wrong}") from None
    return builder.build(checked, out)


def ensure_dataset(recipe: Recipe) -> None:
    """Run a recipe's ``data.build`` steps unless its dataset is there, or at a URL; what is half-built goes on.

    Raises:
        InputError: the dataset is there, but other steps than the recipe's built it.
    """
    out = recipe.data.path
    if not recipe.data.build or is_url(out):
        return
    out = Path(out)
    record = out / _RECORD
    steps = [
        {k: v for k, v in step.model_dump(mode="json").items() if k not in _CHANGE_NO_BYTE}
        | {"out": str(step.out or out)}
        for step in recipe.data.build
    ]
    if (out / "manifest.json").exists():
        # Without a record it was built by hand, and is the person's own choice.
        before = json.loads(record.read_text()) if record.exists() else steps
        if before != steps:
            raise InputError(
                f"{out}: was built by other steps than data.build asks for ({difference(before, steps)}); delete "
                f"{' and '.join(dict.fromkeys(step['out'] for step in steps))}, or choose other folders there and in "
                f"data.path"
            )
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # all processes would build it at once
        raise InputError(
            f"{out}: is not there; before a training of several processes, build it with `modalkit build-dataset`, "
            f"or with `modalkit train` of this recipe in one process, which may be stopped once it trains"
        )
    for step in recipe.data.build:
        target = step.out or out
        _log.info(f"{target}: {step.builder}")
        _log.info(build(step.builder, target, step.options))
    write_json(record, steps)
