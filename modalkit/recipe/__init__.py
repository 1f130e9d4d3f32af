"""Recipes: YAML in, a frozen `Recipe` out; drafts, templates and JSON Schemas of them.

The names below load on first use: listing the shipped recipes, for example, needs neither plugins nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalkit.recipe.finding import shipped
    from modalkit.recipe.json_schema import recipe_schema
    from modalkit.recipe.loading import load_recipe
    from modalkit.recipe.sections import Recipe

_HOME = {
    "Recipe": "modalkit.recipe.sections",
    "load_recipe": "modalkit.recipe.loading",
    "recipe_schema": "modalkit.recipe.json_schema",
    "shipped": "modalkit.recipe.finding",
}

__all__ = ["Recipe", "load_recipe", "recipe_schema", "shipped"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'modalkit.recipe' has no attribute {name!r}")
