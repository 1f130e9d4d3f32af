"""Which modalities of a recipe may be covariates, and which may have private latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modalkit import registry
from modalkit.errors import InputError
from modalkit.plugin import Objective, Outcome, Schema
from modalkit.recipe.plugged import invalid

_KINDS = "label, ordinal, bit, attributes, vector or positive"


def check_roles(modalities: Mapping[str, Schema], objective: Objective[Any]) -> None:
    """Refuse covariates that cannot condition a model.

    Args:
        modalities: all modalities of a recipe.
        objective: its objective.

    Raises:
        ValidationError: names the key, and says what to do.
    """
    covariates = {name: schema for name, schema in modalities.items() if schema.role == "covariate"}
    if not covariates:
        return
    if len(covariates) == len(modalities):
        raise invalid(("modalities",), "all of them are covariates, so that there is nothing to explain")
    first = next(iter(covariates))
    if objective.model is not None and not objective.covariates:
        raise invalid(
            ("modalities", first, "role"),
            f"the objective {objective.name} has networks of its own, which cannot see a covariate; choose an "
            f"objective whose posteriors are made of experts, such as mvae, or remove the role",
        )
    for name, schema in covariates.items():
        if schema.weight != 1:
            raise invalid(("modalities", name, "weight"), "a covariate has no likelihood to weight; remove weight")
        if schema.private_dim:
            raise invalid(("modalities", name, "private_dim"), "a covariate has no latent; remove private_dim")
        if not _is_suitable(schema):
            raise invalid(
                ("modalities", name, "role"),
                f"the kind {schema.kind} cannot be a covariate: it must be a class, a bit, or a few numbers ({_KINDS})",
            )


def check_private(modalities: Mapping[str, Schema], objective: Objective[Any]) -> None:
    """Refuse private latents where the objective has none, and an objective for them where there are none.

    Args:
        modalities: those of a recipe that are no covariates.
        objective: its objective.

    Raises:
        ValidationError: names the key, and says what to do.
    """
    private = [name for name, schema in modalities.items() if schema.private_dim]
    if private and not objective.private:
        raise invalid(
            ("modalities", private[0], "private_dim"),
            f"the objective {objective.name} has no private latents; remove private_dim, or choose an objective that "
            f"has them: {', '.join(_with_private_latents())}",
        )
    if objective.private and not private:
        raise invalid(
            ("objective", "name"),
            f"{objective.name} is for private latents, and no modality has any; give modalities a private_dim, the "
            f"number of latent dimensions for what others do not tell of them",
        )


def _with_private_latents() -> list[str]:
    """Return the names of the objectives that have private latents."""
    found = []
    for name in registry.names(registry.OBJECTIVES):
        try:
            if registry.get(registry.OBJECTIVES, name).private:
                found.append(name)
        except InputError:  # a plugin that cannot be loaded
            continue
    return found


def _is_suitable(schema: Schema) -> bool:
    """Tell whether samples are a value or a list of values that their kind can turn into columns."""
    if registry.modality(schema.kind).outcome in (Outcome.PICTURE, Outcome.SEQUENCE) or len(schema.event_shape) > 1:
        return False
    try:
        schema.columns(schema.unpack(schema.zeros(1)))
    except TypeError:  # integers of a kind that does not say what they mean
        return False
    return True
