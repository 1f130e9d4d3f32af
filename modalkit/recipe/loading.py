"""Recipes: YAML in, a frozen `Recipe` out, with everything that is wrong reported at once as ``file:line: key``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PydanticUserError, ValidationError
from pydantic_core import ErrorDetails, to_json

from modalkit import registry
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Settings
from modalkit.recipe.explain import explain, reach
from modalkit.recipe.sections import DEFAULT_OBJECTIVE, Recipe, kind_schema, objective_options, step_model
from modalkit.recipe.templates import EACH, SLOT, expand
from modalkit.recipe.yaml import Document, Key, Problem, merged, override, read

__all__ = ["Recipe", "load_recipe", "recipe_schema", "shipped"]

_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_OF_NAMES: set[Key] = {
    ("modalities",),
    ("objective",),
    ("data", "weak", "groups"),
    ("train", "self_training", "modalities"),
}
"""Where a modality is missed that a template would have made, had it been right."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        path: a YAML file, or the name of a recipe that ships with modalkit.
        overrides: changes such as ``"train.max_steps=5"``, the value in YAML.

    Raises:
        InputError: lists everything that is wrong, one ``file:line: key: what`` a line.
    """
    path = _find(str(path), Path())
    document = _read(path, (path,))
    for text in overrides:
        override(document, text)
    if isinstance(document.value.get("extends"), str):  # those of the files are merged by now
        document.blame(("extends",), "cannot be changed here; write it in the recipe")
    _anchor(document.value, path.parent)
    known = {problem.key for problem in document.problems if reach(document.value, problem.key) is None}  # not read
    count = len(document.problems)
    templates = expand(document)
    if broken := {problem.key for problem in document.problems[count:]}:
        known |= broken | _OF_NAMES
    plugin_problems = _add_plugins(document)
    problems = document.problems + plugin_problems
    recipe = None
    try:
        context = {"folder": str(path.parent.resolve()), "schemas": {}}
        recipe = Recipe.model_validate_json(to_json(document.value), strict=True, context=context)
    except ValidationError as error:
        details = _once_a_template(error.errors(include_url=False), document, templates)
        known |= {e["loc"] for e in details if e["type"] == "plugin"} if plugin_problems else set()
        for key, text in explain(details, document.value, lambda key: _models_at(document.value, key)):
            written = _written(document, key, templates)
            if not {key, written} & known:
                problems.append(Problem(document.place(written), written, text))
    if problems or recipe is None:
        raise InputError("\n".join(dict.fromkeys(map(str, sorted(problems, key=lambda p: p.place)))))
    return recipe


def _written(document: Document, key: Key, templates: Mapping[str, str]) -> Key:
    """Return where a person wrote what stands at `key`: in a template, unless it was changed in one modality alone."""
    made = key[:1] == ("modalities",) and len(key) > 1 and key not in document.places
    return (key[0], templates.get(str(key[1]), key[1]), *key[2:]) if made else key


def _once_a_template(
    details: Sequence[ErrorDetails], document: Document, templates: Mapping[str, str]
) -> list[ErrorDetails]:
    """Leave out what is wrong with a template's modalities, but for the first of them and those changed alone."""
    first: dict[str, str | int] = {}
    found = []
    for detail in details:
        loc = detail["loc"]
        key = templates.get(str(loc[1])) if loc[:1] == ("modalities",) and len(loc) > 1 else None
        if key is None or loc[:2] in document.places or first.setdefault(key, loc[1]) == loc[1]:
            found.append(detail)
    return found


def _find(reference: str, folder: Path) -> Path:
    """Return the recipe file that a path relative to `folder`, or the name of a shipped recipe, stands for."""
    path, known = folder / reference, _shipped_files()
    try:
        if path.is_file():
            if path.suffix.lower() in _TABLES:
                raise InputError(
                    f"{path}: is a table, not a recipe; `modalkit build-dataset table {path} --out data/{path.stem}` "
                    f"makes a dataset of it, and `modalkit init data/{path.stem} > {path.stem}.yaml` a recipe for that"
                )
            return path
    except OSError as error:
        raise InputError(f"{str(path)[:80]}…: no such recipe: {error.strerror}") from None
    if reference in known:
        return known[reference]
    if (path / "manifest.json").is_file():
        raise InputError(f"{path}: is a dataset, not a recipe; `modalkit init {path} > {path.name}.yaml` makes one")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, neither a recipe nor a run (which holds recipe.yaml)")
    beside = [p.parent.name if p.name == "recipe.yaml" else p.name for p in _recipes_in(path.parent)]
    near = did_you_mean(path.name, beside) or did_you_mean(Path(reference).stem, known)
    raise InputError(
        f"{path}: no such recipe, nor a run's folder{near}; `modalkit list recipes` shows the {len(known)} that ship"
    )


def _recipes_in(folder: Path) -> list[Path]:
    """Return the files in a folder that may be recipes, and the recipes of the runs there."""
    return [*folder.glob("*.y*ml"), *folder.glob("*/recipe.yaml")] if folder.is_dir() else []


def _read(path: Path, chain: tuple[Path, ...]) -> Document:
    """Read a file and, below it, what it extends; `chain` is the files that led here."""
    document = read(path)
    _anchor(document.value, path.parent)
    reference = document.value.get("extends")
    if not isinstance(reference, str):
        return document
    place = document.place(("extends",))
    del document.value["extends"]
    try:
        base = _find(reference, path.parent)
    except InputError as error:
        raise InputError(f"{place}: extends: {error}") from None
    if base.resolve() in [p.resolve() for p in chain]:
        raise InputError(f"{place}: extends: goes in a circle: {' -> '.join(map(str, (*chain, base)))}")
    return merged(_read(base, (*chain, base)), document)


def _anchor(value: dict[str, Any], folder: Path) -> None:
    """Make a file's own paths to Python files absolute, before it is merged with one in another folder."""
    if isinstance(plugins := value.get("plugins"), list):
        value["plugins"] = [str((folder / p).resolve()) if isinstance(p, str) else p for p in plugins]
    modalities = value.get("modalities")
    for entry in modalities.values() if isinstance(modalities, dict) else ():
        network: Any = entry.get("network") if isinstance(entry, dict) else None
        for part in {"encoder", "decoder"} & network.keys() if isinstance(network, dict) else ():
            if isinstance(network[part], str) and ".py:" in network[part]:
                network[part] = str(folder.resolve() / network[part])


def _add_plugins(document: Document) -> list[Problem]:
    """Register the recipe's plugin files and return what is wrong with them."""
    problems, files = [], document.value.get("plugins")
    for index, file in enumerate(files if isinstance(files, list) else ()):
        key = ("plugins", index)
        try:
            if isinstance(file, str):
                registry.add_file(Path(file))
        except (InputError, OSError) as error:
            problems.append(Problem(document.place(key), key, str(error)))
    return problems


def _models_at(value: dict[str, Any], key: Key) -> tuple[Sequence[Any], Key]:
    """Return the models that validate what stands at `key`, and the rest of `key` from there on."""
    length, tag = 0, ""
    model_of: Callable[[str], type[Settings]] = kind_schema
    if key[:1] == ("modalities",) and len(key) > 1:
        length, tag = 2, "kind"
    elif key[:2] == ("data", "build") and len(key) > 2:
        length, tag, model_of = 3, "builder", step_model
    elif key[:1] == ("objective",):
        length, tag, model_of = 1, "name", objective_options
    for part in key[:length]:
        value = value[part]  # type: ignore[index]
    return ([model_of(value.get(tag, DEFAULT_OBJECTIVE))] if length else [Recipe]), key[length:]


def _shipped_files() -> dict[str, Path]:
    spec = importlib.util.find_spec("modalkit_recipes")
    folders = spec.submodule_search_locations if spec else None
    return {path.stem: path for folder in folders or () for path in sorted(Path(folder).glob("*.yaml"))}


def shipped() -> dict[str, tuple[Path, str]]:
    """Return the recipes that ship with modalkit: per name its file and the first line of its description."""
    return {
        n: (p, (str(read(p).value.get("description") or "").splitlines() or [""])[0])
        for n, p in _shipped_files().items()
    }


def recipe_schema() -> dict[str, Any]:
    """Return a JSON Schema of recipes, with every plugin that is installed, for editors to complete from."""
    whole = Recipe.model_json_schema()
    definitions, sections = whole["$defs"], whole["properties"]
    for part in ("Schema", "ObjectiveOptions", "BuildStep", "Settings"):  # what the plugins' own models stand in for
        definitions.pop(part, None)
    kinds = _variants(registry.KINDS, "kind", kind_schema, definitions)
    inherited = {
        "title": "inherited",
        "description": "A change to a modality of the recipe that this one extends; null removes it.",
        "anyOf": [{"type": "null"}, {"type": "object", "not": {"required": ["kind"]}}],
    }
    sections["modalities"]["additionalProperties"] = {"anyOf": [*kinds, inherited]}
    each = {
        "description": "What stands in the place of {} in the key: a list of names or ranges such as 0..9, or one.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    }
    templates = [
        kind | {"properties": {EACH: each} | kind["properties"], "required": [*kind["required"], EACH]}
        for kind in kinds
    ]
    sections["modalities"]["patternProperties"] = {re.escape(SLOT): {"anyOf": [*templates, inherited]}}
    objectives = _variants(registry.OBJECTIVES, "name", objective_options, definitions)
    sections["objective"] = {"description": sections["objective"]["description"], "anyOf": objectives}
    builders = _variants(registry.BUILDERS, "builder", step_model, definitions)
    definitions["DataSettings"]["properties"]["build"]["items"] = {"anyOf": builders}
    # A recipe that extends another need not repeat what that one says.
    del whole["required"], definitions["DataSettings"]["required"]
    alone = {"required": ["data", "modalities"], "properties": {"data": {"required": ["path"]}}}
    whole["anyOf"] = [{"required": ["extends"]}, alone]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | whole


def _variants(
    group: str, tag: str, model_of: Callable[[str], type[Settings]], definitions: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return one object schema a plugin, told apart by the constant at `tag`, and add what it refers to."""
    found = []
    for name in registry.names(group):
        try:
            one = model_of(name).model_json_schema(ref_template=f"#/$defs/{tag}.{name}.{{model}}")
        except (InputError, PydanticUserError):
            continue  # cannot be used, as `modalkit list` explains, or has fields that no JSON can hold
        definitions |= {f"{tag}.{name}.{key}": part for key, part in one.pop("$defs", {}).items()}
        summary = registry.get(group, name).summary
        own = {tag: {"const": name, "description": summary}} | {k: p for k, p in one["properties"].items() if k != tag}
        told = [tag] if name != DEFAULT_OBJECTIVE else []
        required = told + [key for key in one.get("required", []) if key != tag]
        found.append(one | {"title": name, "description": summary, "properties": own, "required": required})
    return found
