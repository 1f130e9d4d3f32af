"""The shipped objectives."""

from __future__ import annotations

from modalkit import registry
from modalkit.registry import OBJECTIVES

BESIDE_MVAE = tuple(name for name in registry.names(OBJECTIVES) if name != "mvae")
