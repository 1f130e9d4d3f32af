"""From a recipe to its model."""

from __future__ import annotations

from typing import Any

import torch

from modalkit import registry
from modalkit.errors import guard
from modalkit.model.correlated import correlate_experts
from modalkit.model.covariates import condition_on
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Objective
from modalkit.recipe.sections import Recipe
from modalkit.util.randomness import derived_seed


def assemble(recipe: Recipe) -> MultimodalVAE:
    """Return the model that a recipe describes, with initial weights that follow from the recipe's seed.

    The recipe's objective decides which class of model it is.

    Raises:
        InputError: a plugin breaks its contract, or the objective does not support these kinds.
    """
    objective: Objective[Any] = registry.get(registry.OBJECTIVES, recipe.objective.name)
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    if objective.model is None:
        model = MultimodalVAE(recipe.explained, recipe.model.latent_dim)
    else:
        with guard(f"objective '{objective.name}': its model"):
            made = objective.model(recipe.objective, recipe.explained, recipe.model.latent_dim)
            if not isinstance(made, MultimodalVAE):
                raise TypeError(f"is a {type(made).__name__}, not a modalkit.model.MultimodalVAE")
            model = made
    if recipe.model.experts != "diagonal":
        settings = recipe.model
        correlate_experts(model, settings.rank, full=settings.experts == "full", base=not model.prior_expert)
    if recipe.covariates:
        condition_on(model, recipe.covariates)
    if recipe.model.centered:
        model.center()
    return model
