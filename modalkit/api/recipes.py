"""A recipe in any form that Python has: a path, a name, a mapping, or a `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from modalkit.errors import InputError
from modalkit.plugin import Settings
from modalkit.recipe.finding import find
from modalkit.recipe.loading import Recipe, load_recipe, recipe_of
from modalkit.recipe.trust import Trust, check_resumed
from modalkit.recipe.yaml import Document, Place, flow, is_text, keys_in
from modalkit.runs.folder import RunFolder
from modalkit.util.explain import Key, at

AnyRecipe: TypeAlias = Recipe | Mapping[str, Any] | Path | str
"""A recipe: an object, a mapping with the keys of a file, a file, the name of a shipped recipe, or a run folder."""

_PLACE = Place("recipe")
NO_DATA = "data-given-in-Python"
"""The path in a recipe whose data is not on disk yet."""


def read_recipe(recipe: AnyRecipe, changes: Sequence[str], *, has_data: bool, trust: bool = False) -> Recipe:
    """Return a checked recipe.

    Code that a mapping or an object names may run, and Python files beside a recipe file or below; that of a run folder
    only if the user allowed it.

    Args:
        recipe: in any form.
        changes: overrides such as ``train.epochs=5``.
        has_data: whether the data is given apart, so that the recipe need not say where it is.
        trust: whether all code may run that the recipe names, and its data may be fetched or built as it says.

    Raises:
        InputError: lists every error; each names the file and line, or ``recipe`` and the key.
    """
    if isinstance(recipe, (str, Path)):
        own = RunFolder(Path(recipe)).recipe
        path = own if own.is_file() else find(str(recipe), Path())
        changes = [f"data.path={NO_DATA}", *changes] if has_data else changes
        allowed = Trust(given=trust, own=not own.is_file() and not RunFolder.is_of_run(path))
        loaded = load_recipe(path, changes, trust=allowed)
        if not has_data:
            check_resumed(loaded, allowed, changes)
        return loaded
    if isinstance(recipe, Recipe):
        value = recipe.model_dump(mode="json", exclude={"extends"})
        if "data" not in recipe.model_fields_set:
            del value["data"]
    elif isinstance(recipe, Mapping):
        value = plain(recipe, ())
    else:
        raise InputError(
            f"recipe: is a {type(recipe).__name__}; give a path, the name of a shipped recipe, a dict or a "
            f"modalkit.Recipe (a table or arrays are `data=`)"
        )
    if has_data and isinstance(value.setdefault("data", {}), dict):
        value["data"] = {key: item for key, item in value["data"].items() if key != "build"} | {"path": NO_DATA}
    elif not has_data and "data" not in value and "extends" not in value:
        raise InputError("recipe: data: is missing; give `data=` to modalkit.train, or the recipe a `data.path`")
    return recipe_of(Document(value, {key: _PLACE for key in keys_in(value, ())}), changes)


def plain(value: Any, key: Key) -> Any:
    """Return a part of a recipe as YAML would hold it: mappings, lists, texts, numbers, booleans and None.

    Args:
        value: the part; settings such as schemas, paths, tuples and NumPy's numbers are converted.
        key: where it stands.

    Raises:
        InputError: something cannot be in a recipe; the message names its key.
    """
    if isinstance(value, Settings):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        for name in value:
            if not is_text(name):
                raise InputError(_at(key, f"the key {name!r} is a {type(name).__name__}; keys are texts"))
        return {name: plain(item, (*key, name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, (*key, place)) for place, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if value is None or isinstance(value, (bool, int, float)) or is_text(value):
        return value
    raise InputError(_at(key, f"a {type(value).__name__} cannot be in a recipe; give texts, numbers, lists or dicts"))


def overrides(epochs: int | None, seed: int | None, values: Mapping[str, Any] | None) -> list[str]:
    """Return keyword arguments as overrides, such as ``train.epochs=3``."""
    short = {"train.epochs": epochs, "seed": seed}
    given = {name: value for name, value in short.items() if value is not None}
    for name, value in (values or {}).items():
        if not is_text(name):
            raise InputError(f"set: the key {name!r} is no text; write it as {{'train.epochs': 3}}")
        if name in given:
            raise InputError(f"set: '{name}' is given twice: as a keyword and in `set`")
        given[name] = plain(value, ("set", name))
    return [f"{name}={flow(value)}" for name, value in given.items()]


def _at(key: Key, text: str) -> str:
    return ": ".join(filter(None, ("recipe" if key[:1] != ("set",) else "", at(key, text))))
