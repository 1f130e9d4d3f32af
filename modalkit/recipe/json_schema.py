"""The JSON Schema of recipes, from which editors complete keys and explain them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import PydanticUserError

from modalkit import registry
from modalkit.errors import InputError
from modalkit.plugin import Settings
from modalkit.recipe.plugged import (
    DEFAULT_OBJECTIVE,
    kind_schema,
    objective_options,
    schedule_options,
    step_settings,
)
from modalkit.recipe.sections import Recipe
from modalkit.recipe.templates import EACH, SLOT

_INHERITED = {
    "title": "inherited",
    "description": "A change to a modality of the recipe that this one extends; null removes it.",
    "anyOf": [{"type": "null"}, {"type": "object", "not": {"required": ["kind"]}}],
}
_EACH = {
    "description": "What replaces {} in the key: a list of names or ranges such as 0..9, or a single one.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
_REPLACED = ("Schema", "ObjectiveOptions", "BuildStep", "ScheduleOptions", "Settings")
"""Base classes, for which the settings of the installed plugins are listed."""


def recipe_schema() -> dict[str, Any]:
    """Return a JSON Schema of recipes that covers every installed plugin."""
    whole = Recipe.model_json_schema()
    definitions, sections = whole["$defs"], whole["properties"]
    for part in _REPLACED:
        definitions.pop(part, None)
    _describe_modalities(sections["modalities"], definitions)
    objectives = _variants(registry.OBJECTIVES, "name", objective_options, definitions)
    sections["objective"] = {"description": sections["objective"]["description"], "anyOf": objectives}
    builders = _variants(registry.BUILDERS, "builder", step_settings, definitions)
    build = definitions["DataSettings"]["properties"]["build"]
    build["items"] = {"anyOf": builders}
    steps = {key: build.pop(key) for key in ("type", "items")}
    build["anyOf"] = [steps, {"type": "null"}]  # null removes the steps of the recipe that is extended
    schedules = _variants(registry.SCHEDULES, "name", schedule_options, definitions)
    for key in ("schedule", "beta_schedule"):
        _describe_schedule(definitions["TrainSettings"]["properties"], key, schedules)
    # A recipe that extends another one need not repeat that one's keys.
    del whole["required"], definitions["DataSettings"]["required"]
    alone = {"required": ["data", "modalities"], "properties": {"data": {"required": ["path"]}}}
    whole["anyOf"] = [{"required": ["extends"]}, alone]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | whole


def _describe_modalities(section: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Fill in what a modality's entry may hold, under a plain name and under the key of a template."""
    kinds = _variants(registry.KINDS, "kind", kind_schema, definitions)
    templates = [
        kind | {"properties": {EACH: _EACH} | kind["properties"], "required": [*kind["required"], EACH]}
        for kind in kinds
    ]
    section["additionalProperties"] = {"anyOf": [*kinds, _INHERITED]}
    section["patternProperties"] = {re.escape(SLOT): {"anyOf": [*templates, _INHERITED]}}


def _describe_schedule(properties: dict[str, Any], key: str, schedules: list[dict[str, Any]]) -> None:
    """Fill in the schedules: as a name, if no option is required, or as a mapping."""
    names = [one["title"] for one in schedules if one["required"] == ["name"]]
    known = {name: properties[key][name] for name in ("description", "default") if name in properties[key]}
    properties[key] = known | {"anyOf": [{"enum": names}, *schedules]}


def _variants(
    group: str, tag: str, settings_of: Callable[[str], type[Settings]], definitions: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return an object schema for each plugin, told apart by the constant at `tag`; add what they refer to."""
    found = []
    for name in registry.names(group):
        try:
            one = settings_of(name).model_json_schema(ref_template=f"#/$defs/{tag}.{name}.{{model}}")
        except (InputError, PydanticUserError):
            continue  # the plugin cannot be used, as `modalkit list` explains, or has fields that JSON cannot hold
        definitions |= {f"{tag}.{name}.{key}": part for key, part in one.pop("$defs", {}).items()}
        summary = registry.get(group, name).summary
        own = {tag: {"const": name, "description": summary}} | {k: p for k, p in one["properties"].items() if k != tag}
        required = [] if group == registry.OBJECTIVES and name == DEFAULT_OBJECTIVE else [tag]
        required += [key for key in one.get("required", []) if key != tag]
        found.append(one | {"title": name, "description": summary, "properties": own, "required": required})
    return found
