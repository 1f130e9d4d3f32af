"""Schedules of the learning rate and of beta: chosen by name with options, and added by a plugin file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import refused
from support.documents import shown_file
from support.toys import here, write_circle, write_recipe

from modalkit.recipe import load_recipe, recipe_schema
from modalkit.training.schedules import RampOptions, cosine, linear

PLUGIN = shown_file("extending.md", "saw.py")
SHORT = ["--set", "train.epochs=2", "--set", "train.pictures_every=0", "--set", "train.log_every=1"]


def test_a_plugin_file_adds_a_cyclic_beta(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    (tmp_path / "saw.py").write_text(PLUGIN)
    recipe.write_text(f"plugins: [saw.py]\n{recipe.read_text()}".replace("warmup_epochs: 1", "beta: 0.5"))
    done = here("train", recipe, "--out", "run", *SHORT, "--set", "train.beta_schedule=saw", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    betas = [line["beta"] for line in lines if line["split"] == "train"]
    assert betas == [0.5 * (step / len(betas) * 2 % 1) for step in range(len(betas))]
    longer = [*SHORT, "--set", "train.beta_schedule=saw", "--set", "train.epochs=3"]
    refused(here("train", recipe, "--out", "run", *longer, cwd=tmp_path), "train.epochs cannot change when this run")


def test_a_recipe_keeps_the_short_form_and_the_options(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, tmp_path)
    changes = ["train.schedule=cosine", "train.beta_schedule={name: cyclic, cycles: 2}"]
    recipe = load_recipe(path, changes)
    assert "schedule: cosine\n" in recipe.to_yaml()
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    assert recipe.train.depends_on_epochs and not load_recipe(path).train.depends_on_epochs
    wrong = here("train", path, "--set", "train.beta_schedule={name: cyclic, cycle: 2}", cwd=tmp_path)
    refused(wrong, "train.beta_schedule.cycle: unknown key (did you mean 'cycles'?)")
    variants = recipe_schema()["$defs"]["TrainSettings"]["properties"]["beta_schedule"]["anyOf"]
    assert {"constant", "cosine", "cyclic", "linear"} <= set(variants[0]["enum"])


def test_the_learning_rate_of_each_step_is_logged_and_warms_up(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    warm = [*SHORT, "--set", "train.schedule={name: cosine, warmup: 0.25}", "--set", "train.loggers=[]"]
    done = here("train", recipe, "--out", "run", *warm, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    first, steps = len(rates) // 4, len(rates)
    expected = [0.003 * step / steps / 0.25 for step in range(first)]
    expected += [
        0.003 * (1 + math.cos(math.pi * (step / steps - 0.25) / 0.75)) / 2 for step in range(first, len(rates))
    ]
    assert rates == pytest.approx(expected, abs=1e-12)
    wrong = here("train", recipe, "--set", "train.schedule={name: linear, warmup: 1}", cwd=tmp_path)
    refused(wrong, "train.schedule.warmup: should be a number below 1, got 1")


@given(start=st.floats(0, 2), end=st.floats(0, 2), warmup=st.floats(0, 0.9), done=st.floats(0, 1))
def test_ramps_stay_between_their_ends_and_do_not_jump(start: float, end: float, warmup: float, done: float) -> None:
    options = RampOptions(name="cosine", start=start, end=end, warmup=warmup)
    for ramp in (linear, cosine):
        assert 0 <= ramp(options, done) <= max(start, end) + 1e-9
        assert ramp(options, warmup) == pytest.approx(start, abs=1e-9)
        assert ramp(options, 1) == pytest.approx(end, abs=1e-9)
