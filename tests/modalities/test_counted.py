"""Whole numbers are proposed as counts only if they are mostly small, and distributed as counts are."""

from __future__ import annotations

import numpy as np
import pytest

from modalkit import registry
from modalkit.plugin import Column

ROWS = 600


def proposed(*columns: np.ndarray) -> str:
    """Return the kind that proposes itself first for columns of whole numbers."""
    given = [Column(f"c{i}", [str(int(n)) for n in column]) for i, column in enumerate(columns)]
    found = [p.plugin for p in registry.provided(registry.KINDS) if p.plugin is not None and p.plugin.proposal]
    ordered = sorted(found, key=lambda plugin: plugin.proposal.order)
    return next(plugin.kind for plugin in ordered if plugin.proposal.columns(given))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


COUNTS = {
    "rare": lambda r: r.poisson(0.4, ROWS),
    "poisson": lambda r: r.poisson(4.0, ROWS),
    "geometric": lambda r: r.negative_binomial(1, 0.25, ROWS),
    "many zeros": lambda r: r.negative_binomial(0.3, 0.03, ROWS),
}
OTHERS = {
    "hours": lambda r: r.integers(0, 24, ROWS),
    "rush hours": lambda r: np.append(
        np.where(r.random(ROWS) < 0.5, r.normal(8, 1.5, ROWS), r.normal(18, 2, ROWS)).round().clip(0, 23), 0
    ),
    "ids": lambda r: r.permutation(ROWS),
    "row numbers": lambda r: np.arange(ROWS),
    "percent": lambda r: r.integers(0, 101, ROWS),
    "pixels of 16 levels": lambda r: r.normal(6, 9, ROWS).round().clip(0, 16),
    "pixels of 256 levels": lambda r: r.normal(80, 150, ROWS).round().clip(0, 255),
    "hundreds": lambda r: (np.exp(r.normal(8, 1, ROWS)) // 100 * 100) * (r.random(ROWS) > 0.05),
    "large counts": lambda r: np.append(r.negative_binomial(2, 0.01, ROWS), 0),
    "ages": lambda r: np.append(r.normal(40, 20, ROWS).round().clip(0, 99), 0),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_proposed_as_counts(name: str, seed: int) -> None:
    assert proposed(COUNTS[name](random(seed))) == "counts"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", OTHERS)
def test_other_whole_numbers_are_numbers(name: str, seed: int) -> None:
    assert proposed(OTHERS[name](random(seed))) == "vector"


def test_pixels_together_are_numbers_though_dark_ones_look_like_counts() -> None:
    r = random()
    dark = [r.poisson(0.3, ROWS) for _ in range(3)]
    light = [r.normal(m, 7, ROWS).round().clip(0, 16) for m in (4, 8, 12, 10, 6)]
    assert proposed(*dark) == "counts" and proposed(*dark, *light) == "vector"


def test_arrays_are_judged_alike() -> None:
    propose = registry.modality("counts").proposal
    assert propose is not None
    assert propose.array(random().poisson(3.0, (ROWS, 4))) == {"size": 4}
    assert propose.array(random().integers(0, 256, (ROWS, 4))) is None
    assert propose.array(np.zeros((0, 4), np.int64)) is None
