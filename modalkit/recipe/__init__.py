"""Recipes: YAML in, a frozen `Recipe` out; drafts, templates and JSON Schemas of them.

The names below load on first use, so that what needs a recipe's YAML alone does not wait for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalkit.recipe.loading import load_recipe, recipe_schema, shipped
    from modalkit.recipe.sections import Recipe

_HOME = {
    "Recipe": "modalkit.recipe.sections",
    "load_recipe": "modalkit.recipe.loading",
    "recipe_schema": "modalkit.recipe.loading",
    "shipped": "modalkit.recipe.loading",
}

__all__ = ["Recipe", "load_recipe", "recipe_schema", "shipped"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'modalkit.recipe' has no attribute {name!r}")
