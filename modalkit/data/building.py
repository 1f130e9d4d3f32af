"""Running dataset builders: one by its name, or the build steps of a recipe whose dataset is missing."""

from __future__ import annotations

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
from modalkit.util.json_files import read_json
from modalkit.util.remote import is_url, refuse_url

if TYPE_CHECKING:
    from modalkit.recipe.loading import Recipe

_log = logging.getLogger(__name__)

_RECORD = "recipe_build.json"
"""File in a dataset that was built for a recipe: the steps that built it."""
_CHANGE_NO_BYTE = {"workers", "engine", "address"}
"""Options that say where a step runs. They do not change what it makes, so the record leaves them out."""


def build(name: str, out: Path, options: Mapping[str, Any] | Settings) -> str:
    """Run one builder; an interrupted build resumes.

    Args:
        name: the builder's name.
        out: the folder to make.
        options: the builder's options; a mapping is validated first.

    Returns:
        One line that reports what was made.

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
        messages = (e["msg"].removeprefix("Value error, ") for e in error.errors())
        wrong = "; ".join(f"--{p}: {message}" if p else message for p, message in zip(places, messages, strict=True))
        raise InputError(f"build-dataset {name}: {wrong}") from None
    return builder.build(checked, out)


def ensure_dataset(recipe: Recipe) -> None:
    """Run a recipe's ``data.build`` steps unless its dataset exists already or is at a URL; unfinished steps resume.

    Raises:
        InputError: the dataset exists, but other steps than the recipe's built it.
    """
    if not recipe.data.build or is_url(recipe.data.path):
        return
    out = Path(recipe.data.path)
    steps = _steps(recipe, out)
    if (out / "manifest.json").exists():
        _check_record(out, steps)
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # all processes would build it at once
        raise InputError(
            f"{out}: this dataset does not exist yet. Build it before a training with several processes: run `modalkit "
            f"build-dataset`, or run `modalkit train` of this recipe in one process, which you may stop once it trains"
        )
    for step in recipe.data.build:
        target = step.out or out
        _log.info(f"{target}: {step.builder}")
        _log.info(build(step.builder, target, step.options))
    write_json(out / _RECORD, steps)


def _steps(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    """Return a recipe's build steps as the record keeps them."""
    whole = ((step, step.model_dump(mode="json")) for step in recipe.data.build)
    return [
        {key: value for key, value in options.items() if key not in _CHANGE_NO_BYTE} | {"out": str(step.out or out)}
        for step, options in whole
    ]


def _check_record(out: Path, steps: list[dict[str, Any]]) -> None:
    """Raise `InputError` if other steps built a dataset; one without a record was built by hand, and is accepted."""
    record = out / _RECORD
    before = read_json(record) if record.exists() else steps
    if before != steps:
        raise InputError(
            f"{out}: was built by other steps than data.build lists ({difference(before, steps)}); delete "
            f"{' and '.join(dict.fromkeys(step['out'] for step in steps))}, or choose other folders there and in "
            f"data.path"
        )
