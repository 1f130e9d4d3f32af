"""Which modalities of a recipe may be covariates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modalkit import registry
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
        if not _is_suitable(schema):
            raise invalid(
                ("modalities", name, "role"),
                f"the kind {schema.kind} cannot be a covariate: it must be a class, a bit, or a few numbers ({_KINDS})",
            )


def _is_suitable(schema: Schema) -> bool:
    """Tell whether samples are a value or a list of values that their kind can turn into columns."""
    if registry.modality(schema.kind).outcome in (Outcome.PICTURE, Outcome.SEQUENCE) or len(schema.event_shape) > 1:
        return False
    try:
        schema.columns(schema.unpack(schema.zeros(1)))
    except TypeError:  # integers of a kind that does not say what they mean
        return False
    return True
