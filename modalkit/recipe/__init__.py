"""Recipes: YAML in, a frozen `Recipe` out; drafts, templates and JSON Schemas of them.

The names below load on first use: listing the shipped recipes, for example, needs neither plugins nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalkit.util.lazy import on_first_use

if TYPE_CHECKING:
    from modalkit.recipe.finding import shipped
    from modalkit.recipe.json_schema import recipe_schema
    from modalkit.recipe.loading import load_recipe
    from modalkit.recipe.sections import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_schema", "shipped"]

__getattr__ = on_first_use(
    __name__,
    {
        "Recipe": "modalkit.recipe.sections",
        "load_recipe": "modalkit.recipe.loading",
        "recipe_schema": "modalkit.recipe.json_schema",
        "shipped": "modalkit.recipe.finding",
    },
)
