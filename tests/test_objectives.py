from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modalkit.objectives.mvae import MVAE, MvaeOptions, check_mvae, plan_mvae
from modalkit.plugin import Draws, Plan

NAMES = tuple("abcde")


def plan(present: torch.Tensor, seed: int = 0, **options: object) -> Plan:
    g = torch.Generator().manual_seed(seed)
    return plan_mvae(MvaeOptions.model_validate(options), NAMES[: present.shape[1]], present, Draws(g))


def test_complete_rows_get_the_papers_terms() -> None:
    made = plan(torch.ones(3, 4, dtype=torch.bool), k=2)
    assert made.terms == ("all", "only:a", "only:b", "only:c", "only:d", "random:0", "random:1")
    assert made.given[0].all()
    assert torch.equal(made.given[1:5, 0], torch.eye(4, dtype=torch.bool))
    assert torch.equal(made.given, made.targets)
    for term in (5, 6):  # one subset a step, of size 2 to M - 1
        assert (made.given[term] == made.given[term, 0]).all()
        assert 2 <= int(made.given[term, 0].sum()) <= 3


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 3), st.sampled_from(["subset", "present"]))
def test_any_pattern_of_presence(seed: int, modalities: int, k: int, targets: str) -> None:
    present = torch.rand(20, modalities, generator=torch.Generator().manual_seed(seed)) < 0.5
    made = plan(present, seed, k=k, targets=targets)
    assert not (made.given & ~present).any() and not (made.targets & ~present).any()
    assert torch.equal(made.given[0], present)
    for row in range(20):
        subsets = [tuple(t) for t in made.given[:, row].tolist()]
        singles = [s for term, s in zip(made.terms, subsets, strict=True) if term.startswith("only:") and any(s)]
        # A row with one modality has just its complete term; otherwise each of its modalities stands alone once.
        assert len(singles) == (int(present[row].sum()) if present[row].sum() > 1 else 0)
        for term, subset in zip(made.terms, subsets, strict=True):
            if term.startswith("random:") and any(subset):
                assert 2 <= sum(subset) <= int(present[row].sum()) - 1
        for term, subset in enumerate(subsets):
            want = (
                subset
                if targets == "subset"
                else tuple(present[row].tolist())
                if any(subset)
                else (False,) * modalities
            )
            assert tuple(made.targets[term, row].tolist()) == want


def test_random_subsets_are_uniform_by_size_and_then_by_content() -> None:
    present = torch.tensor([[True] * 5, [True, False, True, True, True]])
    counts: tuple[Counter[tuple[bool, ...]], Counter[tuple[bool, ...]]] = (Counter(), Counter())
    draws = 6000
    for seed in range(draws // 3):
        made = plan(present, seed, k=3)
        for term in (-3, -2, -1):
            for row in (0, 1):
                counts[row][tuple(made.given[term, row].tolist())] += 1
    # Five present: sizes 2, 3, 4 equally often; 10, 10 and 5 subsets. Four: sizes 2 and 3; 6 and 4 subsets.
    for row, expected in ((0, {2: 1 / 30, 3: 1 / 30, 4: 1 / 15}), (1, {2: 1 / 12, 3: 1 / 8})):
        assert len(counts[row]) == {0: 25, 1: 10}[row]
        for subset, count in counts[row].items():
            p = expected[sum(subset)]
            assert abs(count / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5


def test_all_subsets_counts_each_that_a_row_has_once() -> None:
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    made = plan(present, subsets="all")
    assert len(made.terms) == 7 and made.terms[0] == "all" and made.given[0, 0].all() and made.terms[4] == "a+b"
    assert made.given.any(-1).sum(0).tolist() == [7, 3, 0]
    with pytest.raises(ValueError, match="2\\^13 terms"):
        check_mvae(MvaeOptions(subsets="all"), tuple("abcdefghijklm"))
    assert MVAE.check is check_mvae
