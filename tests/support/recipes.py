"""What is wrong with a recipe, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from modalkit.errors import InputError
from modalkit.recipe import load_recipe

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


def problems(path: Path, *overrides: str) -> list[str]:
    """Return the lines of the error, each less the folder of the recipe."""
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides, trust=True)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()
