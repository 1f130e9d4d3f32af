"""Warnings about trained models that learned nothing, or nothing of a modality."""

from __future__ import annotations

from modalkit.evaluation.doubts import doubts
from modalkit.evaluation.translation import Translation


def cells(values: dict[tuple[str, str], float], measure: str = "rmse", mean: float = 1.0) -> list[Translation]:
    return [Translation(g, w, 90, 0, None, None, measure, value, mean_value=mean) for (g, w), value in values.items()]


GOOD = {("all", "a"): 0.3, ("all", "b"): 0.4, ("a", "a"): 0.3, ("a", "b"): 0.9, ("b", "a"): 0.99, ("b", "b"): 0.4}


def test_a_good_model_raises_no_doubt() -> None:
    assert doubts(cells(GOOD)) == []
    assert doubts([]) == []


def test_a_posterior_that_equals_the_prior() -> None:
    (found,) = doubts(cells(dict.fromkeys(GOOD, 0.999)))
    assert found.startswith("The posterior equals the prior")


def test_a_modality_that_is_not_learned_is_named() -> None:
    (found,) = doubts(cells(GOOD | {("all", "b"): 1.0, ("a", "b"): 1.0, ("b", "b"): 1.0, ("b", "a"): 0.9}))
    assert found.startswith("b: not learned")


def test_an_expert_that_carries_nothing_is_named() -> None:
    (found,) = doubts(cells(GOOD | {("b", "a"): 1.0, ("b", "b"): 1.01}))
    assert found.startswith("b: says nothing about z")


def test_accuracies_count_from_the_most_frequent_class() -> None:
    accuracies = {("all", "a"): 0.9, ("a", "a"): 0.6, ("b", "a"): 0.6}
    (found,) = doubts(cells(accuracies, "accuracy", mean=0.6))
    assert found.startswith("a, b: says nothing about z")
    assert doubts(cells({("all", "a"): 1.0}, "accuracy", mean=1.0)) == []  # a constant: nothing to learn
