"""Schedules of the learning rate and of beta: chosen by name with options, and added by a plugin file."""

from __future__ import annotations

import json
from pathlib import Path

from support.command_line import refused
from support.documents import shown_file
from support.toys import here, write_circle, write_recipe

from modalkit.recipe import load_recipe, recipe_schema

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
