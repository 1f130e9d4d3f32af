"""What a term must explain: all that a row has by default, and the subset in the paper's recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.toys import write_circle, write_recipe

from modalkit import registry
from modalkit.errors import InputError
from modalkit.plugin import Draws
from modalkit.recipe import load_recipe, shipped

FOLLOWS_THE_CODE = {"quickstart", "celeba_transforms_small", "mnist_weak_mvae", "celeba19_small_mvae"}


@pytest.mark.parametrize("name", ["mvae", "mixture-mvae"])
def test_by_default_every_term_explains_all_that_a_row_has(name: str) -> None:
    objective = registry.get(registry.OBJECTIVES, name)
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    draws = Draws(torch.Generator().manual_seed(0), 0)
    found = objective.plan(objective.options(name=name), ("a", "b", "c"), present, draws)
    for given, targets in zip(found.given, found.targets, strict=True):
        assert torch.equal(targets, present & given.any(1, keepdim=True))
    draws = Draws(torch.Generator().manual_seed(0), 0)
    subset = objective.plan(objective.options(name=name, targets="subset"), ("a", "b", "c"), present, draws)
    assert torch.equal(subset.given, found.given) and torch.equal(subset.targets, subset.given)


@pytest.mark.parametrize("name", [n for n in shipped() if n not in FOLLOWS_THE_CODE])
def test_the_papers_recipes_keep_its_equation(name: str) -> None:
    objective = load_recipe(shipped()[name][0]).objective
    assert getattr(objective, "targets", "subset") == "subset"


def test_a_run_states_what_its_terms_explain(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, write_circle(tmp_path, 20)))
    assert "targets: present" in recipe.to_yaml()  # what a run folder holds


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


BASE = "data: {path: x}\nmodalities: {a: {kind: bit}, b: {kind: bit}}\nobjective: {k: 2, targets: subset, beta: 0.5}\n"


def test_another_objective_does_not_inherit_options_that_it_lacks(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    made = load_recipe(write(tmp_path, "jmvae.yaml", "extends: base.yaml\nobjective: {name: jmvae, alpha: 0.2}\n"))
    assert made.objective.model_dump(exclude_unset=True) == {"name": "jmvae", "alpha": 0.2, "beta": 0.5}
    kept = load_recipe(write(tmp_path, "mix.yaml", "extends: base.yaml\nobjective: {name: mixture-mvae}\n")).objective
    assert kept.model_dump(include={"k", "targets", "beta"}) == {"k": 2, "targets": "subset", "beta": 0.5}


def test_an_option_that_a_recipe_states_itself_is_still_refused(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    with pytest.raises(InputError, match="targets"):
        load_recipe(write(tmp_path, "own.yaml", "extends: base.yaml\nobjective: {name: jmvae, targets: present}\n"))
