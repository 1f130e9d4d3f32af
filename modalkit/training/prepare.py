"""What is checked and built before a recipe is trained."""

from __future__ import annotations

from modalkit.data import check_manifest
from modalkit.data.building import ensure_dataset
from modalkit.model import assemble
from modalkit.recipe.loading import Recipe
from modalkit.runs.loggers import require


def prepare(recipe: Recipe) -> Recipe:
    """Check a recipe against everything but the rows, and build its dataset if it does not exist.

    The loggers and the model are checked first, so that no dataset is built for a recipe that cannot be trained.

    Returns:
        The recipe, completed with what only the dataset knows, such as names of classes.

    Raises:
        InputError: a logger is not installed, the model cannot be assembled, or the dataset cannot be built or does
            not fit.
    """
    require(recipe.train.loggers)
    assemble(recipe)
    ensure_dataset(recipe)
    manifest = check_manifest(recipe.data.path, recipe.modalities)
    return recipe.model_copy(update={"modalities": manifest.complete(recipe.modalities)})
