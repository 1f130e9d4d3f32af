"""Weak supervision: what is hidden of the training rows, and what never is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.command_line import refused
from support.toys import here, write_circle, write_recipe
from torch import Tensor

from modalkit.data import Dataset, write_dataset
from modalkit.data.weak import WeakSettings, weaken
from modalkit.recipe.loading import load_recipe
from modalkit.registry import schema
from modalkit.training.trainer import Trainer

NAMES, ROWS = ("a", "b", "c", "d"), 500


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four modalities whose 400 training rows have all of them."""
    path = tmp_path_factory.mktemp("weak") / "complete"
    made = {name: schema("vector", size=1) for name in NAMES}
    write_dataset(path, made, {name: torch.randn(ROWS, 1) for name in NAMES})
    return path


def presence(path: Path, seed: int = 0, **weak: object) -> tuple[Tensor, Tensor]:
    """Return presence in the training rows, and in all others, of a dataset that was weakened."""
    whole = Dataset(path)
    rows = whole.rows("train")
    dataset = weaken(whole, rows, WeakSettings.model_validate(weak), seed)
    assert whole.present.all()  # the dataset that was given is not changed
    others = torch.cat([dataset.rows("valid"), dataset.rows("test")])
    assert len(dataset.present) == ROWS and len(rows) + len(others) == ROWS
    return dataset.present[rows], dataset.present[others]


@pytest.mark.parametrize("paired", [0.0, 0.001, 0.1, 0.333, 0.5, 1.0])
def test_the_paired_fraction_is_exact_and_every_other_row_keeps_one_modality(complete: Path, paired: float) -> None:
    present, others = presence(complete, paired=paired)
    assert len(present) == 400 and others.all()
    counts = Counter(present.sum(1).tolist())
    assert counts[4] == round(paired * 400) and counts[1] == 400 - counts[4]


def test_rows_with_gaps_keep_a_group_that_they_have_chosen_uniformly(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    there = {name: torch.rand(4000, generator=g) < 0.4 for name in NAMES[1:]}
    made = {name: schema("vector", size=1) for name in NAMES}
    write_dataset(tmp_path / "d", made, {name: torch.randn(4000, 1) for name in NAMES}, present=there)
    whole = Dataset(tmp_path / "d")
    rows = whole.rows("train")
    kept = weaken(whole, rows, WeakSettings(paired=0), 0).present[rows]
    assert bool((kept.sum(1) == 1).all()) and not bool((kept & ~whole.present[rows]).any())
    pairs = whole.present[rows].sum(1) == 2  # `a` is in every row
    share = float(kept[pairs, 0].double().mean())
    assert abs(share - 0.5) < 5 * (0.25 / int(pairs.sum())) ** 0.5


def test_groups_stay_together_and_are_drawn_uniformly(complete: Path) -> None:
    present, _ = presence(complete, paired=0.0, groups=(("a", "c"),))
    kept = Counter(tuple(n for n, p in zip(NAMES, row, strict=True) if p) for row in present.tolist())
    assert set(kept) == {("a", "c"), ("b",), ("d",)}
    for count in kept.values():
        assert abs(count - 400 / 3) < 5 * (400 * (1 / 3) * (2 / 3)) ** 0.5
    one_group, _ = presence(complete, paired=0.0, groups=(NAMES,))
    assert one_group.all()


def test_what_a_smaller_fraction_keeps_a_larger_one_keeps_too(complete: Path) -> None:
    fractions = [presence(complete, paired=paired)[0] for paired in (0.0, 0.01, 0.1, 0.5, 1.0)]
    entries = [presence(complete, paired=0.3, keep=keep)[0] for keep in (0.0, 0.2, 0.6, 1.0)]
    for chain in (fractions, entries):
        for smaller, larger in pairwise(chain):
            assert not (smaller & ~larger).any() and smaller.sum() < larger.sum()


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.9])
def test_every_entry_is_kept_with_the_probability_and_independently(complete: Path, keep: float) -> None:
    present, others = presence(complete, keep=keep)
    assert others.all()
    error = (keep * (1 - keep) / 400) ** 0.5
    assert ((present.double().mean(0) - keep).abs() <= 5 * error).all()
    both = (present[:, 0] & present[:, 1]).double().mean()
    assert abs(float(both) - keep**2) <= 5 * (keep**2 * (1 - keep**2) / 400) ** 0.5


def test_the_seed_says_what_is_hidden(complete: Path) -> None:
    weak = {"paired": 0.2, "keep": 0.7}
    first, again, other = (presence(complete, seed, **weak)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nothing_is_hidden_by_default_and_nothing_absent_comes_back(complete: Path, tmp_path: Path) -> None:
    assert presence(complete)[0].all()
    whole = Dataset(write_circle(tmp_path))
    before, rows = whole.present.clone(), whole.rows("train")
    dataset = weaken(whole, rows, WeakSettings(paired=0.4, keep=0.8), 0)
    assert torch.equal(whole.present, before)
    assert not (dataset.present & ~before).any()
    untouched = torch.ones(len(before), dtype=torch.bool)
    untouched[rows] = False
    assert torch.equal(dataset.present[untouched], before[untouched])


def test_a_recipe_weakens_the_rows_that_train_and_no_others(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    settings = ["data.weak.paired=0.25", "data.weak.groups=[[image, position]]", "modalities.counts=null"]
    trainer = Trainer(load_recipe(recipe, settings), tmp_path / "run")
    dataset, whole = trainer.data.dataset, Dataset(tmp_path / "circle", ["image", "position", "class"])
    train = whole.rows("train")
    others = torch.cat([whole.rows("valid"), whole.rows("test")])
    assert torch.equal(dataset.present[others], whole.present[others])
    hidden = (whole.present[train] != dataset.present[train]).any(1)
    assert 0 < hidden.sum() <= len(train) - round(0.25 * len(train))
    assert not (dataset.present[train][hidden][:, 1] & dataset.present[train][hidden][:, 2]).any()
    assert len(trainer.data.train) == int(dataset.present[train].any(1).sum())


GROUPS = {
    "[[image, clas]]": ("circle.yaml:3: data.weak.groups: there is no modality 'clas' (did you mean 'class'?)",),
    "[[image, class], [class]]": ("circle.yaml:3: data.weak.groups: 'class' is listed twice",),
    "[image, class]": ("circle.yaml:3: data.weak.groups",),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_of_what_is_not_there_are_refused_at_their_line(tmp_path: Path, groups: str) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path, 20))
    text = recipe.read_text().replace(
        f"data: {{path: {tmp_path / 'circle'}}}", f"data: {{path: circle, weak: {{groups: {groups}}}}}"
    )
    recipe.write_text(text)
    refused(here("train", "circle.yaml", cwd=tmp_path), *GROUPS[groups])


def test_fractions_outside_0_to_1_are_refused(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_circle(tmp_path, 20))
    wrong = here("train", "circle.yaml", "--set", "data.weak.paired=1.5", "--set", "data.weak.keep=-1", cwd=tmp_path)
    refused(wrong, "--set data.weak.paired=1.5", "--set data.weak.keep=-1")
