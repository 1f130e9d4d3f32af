"""The shipped objectives."""

from __future__ import annotations

from collections.abc import Mapping

from modalkit import registry
from modalkit.plugin import Schema
from modalkit.registry import OBJECTIVES

BESIDE_MVAE = tuple(name for name in registry.names(OBJECTIVES) if name != "mvae")


def as_needed(name: str, schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """Return the schemas, with private latents of 2, 1 and 0 dimensions in turn if the objective has them."""
    if not registry.get(OBJECTIVES, name).private:
        return dict(schemas)
    sizes = [(2, 1, 0)[place % 3] for place in range(len(schemas))]
    return {n: s.model_copy(update={"private_dim": d}) for (n, s), d in zip(schemas.items(), sizes, strict=True)}
