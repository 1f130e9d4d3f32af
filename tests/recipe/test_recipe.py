"""Recipes: what is accepted, and that everything else is explained at its line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.recipes import DOCS, problems

from modalkit import registry
from modalkit.errors import InputError
from modalkit.model import assemble
from modalkit.objectives.mvae import MvaeOptions
from modalkit.recipe import Recipe, load_recipe, recipe_schema, shipped
from modalkit.recipe.data_section import DataSettings
from modalkit.recipe.sections import ModelSettings
from modalkit.recipe.train_section import TrainSettings
from modalkit.recipe.yaml import Place, dump, parse

trusted = partial(load_recipe, trust=True)

LEAST = """\
data: {path: somewhere}
modalities:
  word: {kind: label, classes: 3}
  place: {kind: vector, size: 2}
"""

PLUGIN = '''
from pathlib import Path
from typing import Annotated
from pydantic import Field, field_validator
from torch import nn
from torch.distributions import Independent, Normal
from modalkit.plugin import Builder, Modality, Objective, ObjectiveOptions, Plan, Schema, Settings


class DialSchema(Schema):
    """A dial."""

    turns: int = Field(2, ge=1, description="Turns.")
    span: int | tuple[int, int] = Field(1, description="Span.")
    sharp: bool = Field(True, description="Whether it is sharp.")

    @field_validator("turns")
    @classmethod
    def _seven(cls, turns: int) -> int:
        if turns == 7:
            raise RuntimeError("seven broke it")
        return turns

    @property
    def event_shape(self):
        return (self.turns,)


def likelihood(schema, raw):
    return Independent(Normal(raw, 1.0), 1)


DIAL = Modality(
    "recipe-test-dial", "a dial", DialSchema,
    lambda s: nn.Linear(s.turns, 2), lambda s, z: nn.Linear(z, s.turns), likelihood, lambda s, v: "x", lambda s, t: t,
)


class PairOptions(ObjectiveOptions):
    """Options."""

    pairs: int = Field(1, description="Pairs.")


def check(options, names):
    if len(names) < 2 or options.pairs > len(names):
        raise ValueError(f"needs {max(2, options.pairs)} modalities")


PAIRS = Objective("recipe-test-pairs", "pairs", PairOptions, lambda *a: Plan((), None, None), check)


class DrawOptions(Settings):
    """Options."""

    count: int = Field(description="How many.", ge=1)
    source: Path | None = Field(None, description="From where.")


DRAW = Builder("recipe-test-draw", "draws", DrawOptions, lambda options, out: "drawn")
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "dial.py"
    path.write_text(PLUGIN)
    yield path
    registry.forget_files()  # which refuses a second file with the same names


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_least_recipe_and_defaults(write):
    recipe = load_recipe(write(LEAST))
    assert list(recipe.modalities) == ["word", "place"]
    assert recipe.modalities["word"].event_shape == ()
    assert (recipe.model.latent_dim, recipe.train.epochs, recipe.train.learning_rate) == (64, 10, 1e-3)
    assert (recipe.objective.name, recipe.objective.k, recipe.objective.beta) == ("mvae", 1, 1.0)
    assert recipe.data.path == Path("somewhere") and recipe.data.build == () and recipe.extends is None
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_recipe_from_python():
    recipe = Recipe(data={"path": "x"}, modalities={"word": {"kind": "label", "classes": 3}})
    assert recipe.modalities["word"].classes == 3


def test_yaml_follows_the_core_schema(write):
    text = (
        LEAST
        + "description: on\nseed: 0x10\ntrain: {learning_rate: 1e-4, clip_norm: .5, precision: 64, devices: auto}\n"
    )
    recipe = load_recipe(write(text))
    assert (recipe.description, recipe.seed) == ("on", 16)
    train = recipe.train
    assert (train.learning_rate, train.clip_norm, train.precision, train.devices) == (1e-4, 0.5, "64", "auto")


def test_anchors_and_merge_keys(write):
    text = (
        "data: {path: x}\nmodalities:\n  a: &a {kind: vector, size: 2, scale: 1}\n"
        "  b: {<<: *a, size: 3}\n  c: {<<: [{size: 5}, *a]}\n  d: *a\n"
    )
    recipe = load_recipe(write(text))
    assert [m.size for m in recipe.modalities.values()] == [2, 3, 5, 2]


# The place and words of single mistakes: what is added to LEAST (its last line is 4), and the line that reports it.
MISTAKES = {
    "train: {learning_rte: 1}": "r.yaml:5: train.learning_rte: unknown key (did you mean 'learning_rate'?)",
    "trian: {}": "r.yaml:5: trian: unknown key (did you mean 'train'?)",
    "model: {qqq: 1}": "r.yaml:5: model.qqq: unknown key; known here: centered, experts, latent_dim, rank",
    "model: {rank: 3}": "r.yaml:5: model.rank: is for experts: low_rank, and experts is diagonal; remove rank",
    "model: {experts: lowrank}": (
        "r.yaml:5: model.experts: should be 'diagonal', 'low_rank' or 'full', got 'lowrank' (did you mean 'low_rank'?)"
    ),
    "model: {experts: full}\nobjective: {name: jmvae}": (
        "r.yaml:5: model.experts: the objective jmvae needs experts: diagonal, not full"
    ),
    "model: {experts: full, latent_dim: 5000}": (
        "r.yaml:5: model.experts: full needs several matrices of latent_dim x latent_dim numbers for each subset of "
        "modalities, 100 MB each with latent_dim: 5000; use at most 2,048 latent dimensions, or diagonal"
    ),
    "train:\n  epochs: 5\n  epochs: 6": "r.yaml:7: train.epochs: given twice, in line 6 already",
    "train: {learning_rate: -1}": "r.yaml:5: train.learning_rate: should be a number above 0, got -1",
    "train: {learning_rate: .inf}": "r.yaml:5: train.learning_rate: should be a finite number, got .inf",
    "train: {learning_rate: 1e999}": "r.yaml:5: train.learning_rate: should be a finite number, got 1e999",
    "train: {learning_rate: '1e-3'}": "r.yaml:5: train.learning_rate: should be a number, got '1e-3'",
    "train: {epochs: true}": "r.yaml:5: train.epochs: should be a whole number, got true",
    "train: {epochs: 1.5}": "r.yaml:5: train.epochs: should be a whole number, got 1.5",
    "train: {epochs: '3'}": "r.yaml:5: train.epochs: should be a whole number, got '3'",
    "train: {epochs: 99999999999999999999}": "r.yaml:5: train.epochs: 99999999999999999999 is too large",
    "train: {devices: 0}": "r.yaml:5: train.devices: should be a number of at least 1 or 'auto', got 0",
    "train: {precision: 31}": ("r.yaml:5: train.precision: should be '32', '64' or 'bf16-mixed', got 31"),
    "train: {accelerator: gpuu}": (
        "r.yaml:5: train.accelerator: should be 'auto', 'cpu', 'gpu', 'cuda' or 'mps', got 'gpuu' (did you mean 'gpu'?)"
    ),
    "train:": "r.yaml:5: train: should be a mapping, got null",
    "train: [1]": "r.yaml:5: train: should be a mapping, got a list",
    "seed: !!python/object:os.x 3": "r.yaml:5: seed: the tag '!!python/object:os.x' is not supported",
    "seed: !!int three": "r.yaml:5: seed: 'three' is not a int",
    "3: x": "r.yaml:5: the key '3' should be a text; put it in quotes",
    'description: "a\\0b"': "r.yaml:5: description: a text cannot hold the NUL character or half of a surrogate pair",
    "objective: {k: -1}": "r.yaml:5: objective.k: should be a number of at least 0, got -1",
    "objective: {targets: subsets}": (
        "r.yaml:5: objective.targets: should be 'subset' or 'present', got 'subsets' (did you mean 'subset'?)"
    ),
    "objective: {warmup: 3}": "r.yaml:5: objective.warmup: unknown key (did you mean 'warmup_epochs'?)",
    "objective: {name: mvea}": "r.yaml:5: objective.name: unknown objective 'mvea' (did you mean 'mvae'?); known: ",
    "objective: {name: 3}": "r.yaml:5: objective.name: should be a text",
    "extends: some/other": "r.yaml:5: extends: some/other: no such recipe, nor a run's folder; `modalkit list recipes`",
    "extends: mnits_mvae": (
        "r.yaml:5: extends: mnits_mvae: no such recipe, nor a run's folder (did you mean 'mnist_mvae'?)"
    ),
    f"extends: {'x' * 300}": "r.yaml:5: extends: xxx",
    f"plugins: [{'x' * 300}]": "r.yaml:5: plugins.0: ",
    "extends: 3": "r.yaml:5: extends: should be a text, got 3",
    "plugins: [gone.py]": "r.yaml:5: plugins.0: gone.py: no such file",
    "plugins: here.py": "r.yaml:5: plugins: should be a list, got 'here.py'",
    "\ttabbed": "r.yaml:5: not YAML: tabs cannot indent a line; use spaces",
    "a: b: c": "r.yaml:5: not YAML: unexpected ':'; check the indentation, and quote a text that holds ': '",
    "seed: [1": "r.yaml:6: not YAML: expected ',' or ']'",
    "seed: *x": "r.yaml:5: not YAML: found undefined alias 'x'",
    "--- {}": "r.yaml:5: not YAML: but found another document",
    "seed: &a [*a]": "r.yaml:5: nested too deeply, or too many aliases",
}


@pytest.mark.parametrize("added", MISTAKES)
def test_each_mistake_is_explained_once_at_its_line(write, added):
    found = problems(write(LEAST + added + "\n"))
    assert len(found) == 1
    assert found[0].startswith(MISTAKES[added])


MODALITY_MISTAKES = {
    "m: {kind: imgae}": "m.kind: unknown kind 'imgae' (did you mean 'image'?); known: ",
    "m: {kind: [image]}": "m.kind: should be a text",
    "m: {kind: label, classes: ten}": "m.classes: should be a whole number, got 'ten'",
    "m: {kind: vector}": "m.size: is missing",
    "m: {kind: vector, size: 2, weight: -0.5}": "m.weight: should be a number of at least 0, got -0.5",
    "m: {kind: vector, size: 2, scale: no}": "m.scale: should be a number or 'shared', 'per_dimension', 'predicted' or "
    "'learned', got 'no'",
    "m: {kind: vector, size: 2, network: mpl}": "m.network: unknown type 'mpl' (did you mean 'mlp'?); known: mlp,",
    "m: {kind: vector, size: 2, network: {type: mlp, hiden: [3]}}": (
        "m.network.hiden: unknown key (did you mean 'hidden'?)"
    ),
    "m: {kind: image, size: 32, network: {type: dcgan, hidden: .2}}": (
        "m.network.hidden: should be a whole number, got 0.2"
    ),
    "m: {kind: image, size: 32, network: {type: custom, encoder: x:Y}}": "m.network.decoder: is missing",
    "m: {kind: image, size: 32, network: {type: dgan}}": "m.network.type: unknown type 'dgan' (did you mean 'dcgan'?)",
    "m: 3": "m: should be a mapping, got 3",
    "m: null": "m: should be a mapping, got null",
    "wrod: {classes: 4}": "wrod.kind: is missing (did you mean 'word'?)",
    "all: {kind: vector, size: 2}": "all: 'all' stands for all modalities together; rename this one",
    "a.b: {kind: vector, size: 2}": "a.b: a modality's name should begin with a letter and hold only letters, digits",
    "2nd: {kind: vector, size: 2}": "2nd: a modality's name should begin with a letter",
}


@pytest.mark.parametrize("added", MODALITY_MISTAKES)
def test_mistakes_in_modalities(write, added):
    found = problems(write(f"{LEAST}  {added}\n"))
    assert len(found) == 1
    assert found[0].startswith("r.yaml:5: modalities." + MODALITY_MISTAKES[added])


def test_everything_wrong_is_reported_at_once_in_order(write):
    text = (
        LEAST + "sed: 1\nmodel: {latent_dim: 0}\nobjective: {k: x}\ntrain:\n  epochs: no\n  epochs: 1\n  patience: 0\n"
    )
    found = problems(write(text), "train.max_stepz=5", "data.build={}")
    assert [line.split(": ")[:2] for line in found] == [
        ["--set data.build={}", "data.build"],
        ["--set train.max_stepz=5", "train.max_stepz"],
        ["r.yaml:5", "sed"],
        ["r.yaml:6", "model.latent_dim"],
        ["r.yaml:7", "objective.k"],
        ["r.yaml:9", "train.epochs"],
        ["r.yaml:10", "train.epochs"],
        ["r.yaml:11", "train.patience"],
    ]


def test_missing_sections(write):
    assert problems(write("seed: 1\n")) == ["r.yaml:1: data: is missing", "r.yaml:1: modalities: is missing"]
    found = problems(write("seed: 1\nmodalities: {}\ndata:\n  in_memory: true\n"))
    assert found == [
        "r.yaml:2: modalities: should have 1 or more entries, has 0",
        "r.yaml:3: data.path: is missing",
    ]


def test_unusable_files(tmp_path, write):
    assert problems(write("")) == ["r.yaml: is empty; a recipe needs at least 'data' and 'modalities'"]
    assert problems(write("# only a comment\n")) == [
        "r.yaml: is empty; a recipe needs at least 'data' and 'modalities'"
    ]
    assert problems(write("[1, 2]")) == ["r.yaml:1: should be a mapping (lines of 'key: value') at the top"]
    assert problems(write("just words")) == ["r.yaml:1: should be a mapping (lines of 'key: value') at the top"]
    assert problems(write("seed: 1\n\x01")) == ["r.yaml:2: not YAML: holds the control character '\\x01'"]
    assert problems(write(f"seed: {'[' * 3000}"))[0] == "r.yaml:1: nested too deeply"
    (tmp_path / "b.yaml").write_bytes(bytes(range(256)))
    assert problems(tmp_path / "b.yaml") == ["b.yaml: not a text file; a recipe is YAML in UTF-8"]
    assert problems(tmp_path / "rr.yaml")[0].startswith(
        "rr.yaml: no such recipe, nor a run's folder (did you mean 'r.yaml'?)"
    )
    with pytest.raises(InputError, match="is a folder, neither a recipe nor a run"):
        load_recipe(tmp_path)


def test_a_few_lines_cannot_fill_the_memory(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "nested too deeply, or too many aliases" in problems(write("\n".join(lines)))[0]


def test_extends_merges_deeply_and_later_wins(write):
    base = LEAST + "seed: 3\ntrain: {epochs: 7, batch_size: 5, clip_norm: 1}\nobjective: {k: 4}\n"
    write(base, "base/base.yaml")
    child = write(
        "extends: base/base.yaml\nmodalities:\n  word: {weight: 2}\n  place: null\n  new: {kind: label, classes: 2}\n"
        "train:\n  epochs: 8\n  clip_norm: null\n"
    )
    recipe = load_recipe(child)
    assert list(recipe.modalities) == ["word", "new"]
    assert (recipe.modalities["word"].weight, recipe.modalities["word"].classes) == (2.0, 3)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.clip_norm) == (8, 5, None)
    assert (recipe.seed, recipe.objective.k) == (3, 4)


def test_extends_a_shipped_recipe(write):
    recipe = load_recipe(write("extends: mnist_mvae\ntrain: {epochs: 2}\n"))
    assert (recipe.train.epochs, recipe.train.batch_size) == (2, 100)
    assert load_recipe(Path("mnist_mvae")) == load_recipe(shipped()["mnist_mvae"][0])


def test_errors_name_the_file_that_a_value_came_from(write):
    write(LEAST + "train:\n  epochs: 0\n  batch_size: 0\nmodel: {latent: 3}\n", "base.yaml")
    found = problems(write("extends: base.yaml\ntrain:\n  batch_size: -1\nmodalities: {place: {size: 0}}\n"))
    assert found == [
        "base.yaml:6: train.epochs: should be a number of at least 1, got 0",
        "base.yaml:8: model.latent: unknown key (did you mean 'latent_dim'?)",
        "r.yaml:3: train.batch_size: should be a number of at least 1, got -1",
        "r.yaml:4: modalities.place.size: should be a number above 0, got 0",
    ]


def test_circles_are_reported(write):
    write("extends: b.yaml\n", "a.yaml")
    path = write("extends: a.yaml\n", "b.yaml")
    assert problems(path) == ["a.yaml:1: extends: goes in a circle: b.yaml -> a.yaml -> b.yaml"]


def test_overrides(write):
    path = write(LEAST)
    recipe = load_recipe(
        path,
        [
            "train.max_steps=5",
            "model={latent_dim: 3}",
            "modalities.place=null",
            "data.path=a=b",
            "train.learning_rate=1e-2",
        ],
    )
    assert (recipe.train.max_steps, recipe.model.latent_dim, list(recipe.modalities)) == (5, 3, ["word"])
    assert (recipe.data.path, recipe.train.learning_rate) == (Path("a=b"), 0.01)
    assert load_recipe(path, ["seed=1", "seed=2"]).seed == 2


OVERRIDE_MISTAKES = {
    "train.max_stepz=5": "train.max_stepz: unknown key (did you mean 'max_steps'?)",
    "trian.epochs=5": "trian: unknown key (did you mean 'train'?)",
    "train.epochs=no": "train.epochs: should be a whole number, got 'no'",
    "train.epochs": "should be written as key=value, such as train.epochs=5",
    "a" + ".a" * 2000 + "=5": "should be written as key=value, such as train.epochs=5",
    f"plugins.{'9' * 5000}=5": f"plugins.{'9' * 5000}: 'plugins' is a list of 0; set the whole of it",
    "=5": "should be written as key=value, such as train.epochs=5",
    "seed.x=5": "seed.x: 'seed' is 1, not a mapping; set the whole of it",
    "plugins.3=5": "plugins.3: 'plugins' is a list of 0; set the whole of it",
    "modalities.wrod.weight=2": "modalities.wrod.kind: is missing (did you mean 'word'?)",
    "modalities.wrod=null": "modalities.wrod: should be a mapping, got null",
    "extends=mnist_mvae": "extends: cannot be changed here; write it in the recipe",
    "train={epochs: 1, epochs: 2}": "train.epochs: given twice",
    "train=[": "not YAML: ",
}


@pytest.mark.parametrize("text", OVERRIDE_MISTAKES)
def test_mistakes_in_overrides_name_the_override(write, text):
    found = problems(write(LEAST + "seed: 1\nplugins: []\n"), text)
    assert len(found) == 1
    assert found[0].startswith(f"--set {text}: {OVERRIDE_MISTAKES[text]}")


def test_plugins_of_a_base_and_of_its_child_add_up(write, plugin, tmp_path):
    write(f"{LEAST}  dial: {{kind: recipe-test-dial}}\nplugins: [dial.py]\n", "deep/base.yaml")
    plugin = plugin.rename(tmp_path / "deep" / "dial.py")
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\n"
        "from modalkit.registry import modality\n"
        "OWN = replace(modality('recipe-test-dial'), kind='recipe-test-own')\n"
    )
    recipe = trusted(
        write("extends: deep/base.yaml\nplugins: [own.py]\nmodalities: {own: {kind: recipe-test-own, turns: 3}}\n")
    )
    assert recipe.plugins == (plugin.resolve(), (tmp_path / "own.py").resolve())
    assert recipe.modalities["dial"].event_shape == (2,) and recipe.modalities["own"].event_shape == (3,)
    assert trusted(write(recipe.to_yaml(), "resolved.yaml")) == recipe


def test_plugin_files_that_fail(write, tmp_path):
    (tmp_path / "raises.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "nothing.py").write_text("x = 1\n")
    text = LEAST + "  dial: {kind: recipe-test-of-a-broken-file}\nplugins:\n- raises.py\n- syntax.py\n- nothing.py\n"
    assert problems(write(text + "seed: x\n")) == [
        "r.yaml:7: plugins.0: raises.py:2: raised ZeroDivisionError: division by zero",
        "r.yaml:8: plugins.1: syntax.py:1: raised SyntaxError: invalid syntax (syntax.py, line 1)",
        "r.yaml:9: plugins.2: nothing.py: defines no plugin; it needs an object such as a modalkit.plugin.Modality",
        "r.yaml:10: seed: should be a whole number, got 'x'",
    ]


def test_a_plugins_own_schema(write, plugin):
    text = f"plugins: [{plugin}]\ndata: {{path: x}}\nmodalities:\n  d:\n    kind: recipe-test-dial\n"
    assert trusted(write(f"{text}    span: [1, 2]\n")).modalities["d"].span == (1, 2)
    assert problems(write(f"{text}    turns: 7\n")) == [
        "r.yaml:4: modalities.d: kind 'recipe-test-dial' raised RuntimeError: seven broke it"
    ]
    assert problems(write(f"{text}    span: wide\n    sharp: yes\n    wieght: 1\n")) == [
        "r.yaml:6: modalities.d.span: should be a whole number or a list, got 'wide'",
        "r.yaml:7: modalities.d.sharp: should be true or false, got 'yes'",
        "r.yaml:8: modalities.d.wieght: unknown key (did you mean 'weight'?)",
    ]
    assert problems(write(f"{text}    span: [1, b]\n")) == [
        "r.yaml:6: modalities.d.span.1: should be a whole number, got 'b'"
    ]


def test_an_objective_may_refuse_the_modalities(write, plugin):
    text = f"plugins: [{plugin}]\n{LEAST}objective: {{name: recipe-test-pairs, pairs: 2}}\n"
    assert trusted(write(text)).objective.pairs == 2
    found = problems(write(text), "objective.pairs=3", "train.epochs=0")
    assert found == [
        "--set train.epochs=0: train.epochs: should be a number of at least 1, got 0",
        "r.yaml:6: objective: needs 3 modalities",
    ]


def test_build_steps(write, plugin):
    text = f"plugins: [{plugin}]\n{LEAST}"
    steps = "  - {builder: recipe-test-draw, out: faces, count: 3}\n"
    steps += "  - {builder: recipe-test-draw, count: 4, source: faces}\n"
    text = text.replace("data: {path: somewhere}\n", f"data:\n  path: somewhere\n  build:\n{steps}")
    recipe = trusted(write(text))
    first, last = recipe.data.build
    assert (first.builder, first.out, first.options.count) == ("recipe-test-draw", Path("faces"), 3)
    assert (last.out, last.options.source) == (None, Path("faces"))
    assert type(first.options).__name__ == "DrawOptions" and set(type(first.options).model_fields) == {
        "count",
        "source",
    }
    assert trusted(write(recipe.to_yaml(), "resolved.yaml")) == recipe
    assert trusted(write(text), ["data.build.0.count=9"]).data.build[0].options.count == 9
    assert trusted(write(text), ["data.build=null"]).data.build == ()


def test_mistakes_in_build_steps(write, plugin):
    text = (
        f"plugins: [{plugin}]\ndata:\n  path: x\n  build:\n  - builder: recipe-test-draw\n    cuont: 3\n    out: 3\n"
        "  - {builder: recipe-test-drow}\n  - {count: 1}\n  - 7\nmodalities: {w: {kind: label, classes: 2}}\n"
    )
    found = problems(write(text))
    assert [line.split("; known: ")[0] for line in found] == [
        "r.yaml:5: data.build.0.count: is missing",
        "r.yaml:6: data.build.0.cuont: unknown key (did you mean 'count'?)",
        "r.yaml:7: data.build.0.out: should be a text, got 3",
        "r.yaml:8: data.build.1.builder: unknown builder 'recipe-test-drow' (did you mean 'recipe-test-draw'?)",
        "r.yaml:9: data.build.2.builder: is missing",
        "r.yaml:10: data.build.3: should be a mapping, got 7",
    ]
    step = "{builder: recipe-test-draw, count: 1}"
    text = f"plugins: [{plugin}]\ndata:\n  path: x\n  build:\n  - {step}\n  - {step}\n" + LEAST.split("\n", 1)[1]
    assert problems(write(text)) == [
        "r.yaml:5: data.build.0.out: is missing; only the last step can leave it to data.path"
    ]


def test_own_networks_lie_beside_the_recipe_that_names_them(write, tmp_path):
    network = "{type: custom, encoder: 'nets.py:Enc', decoder: 'torch.nn:Linear', options: {width: 3}}"
    write("class Enc: pass\n", "base/nets.py")
    write(f"{LEAST}  own: {{kind: vector, size: 2, network: {network}}}\n", "base/base.yaml")
    child = write("extends: ../base/base.yaml\nmodalities: {own: {network: {options: {depth: 1}}}}\n", "child/r.yaml")
    recipe = trusted(child)
    own = recipe.modalities["own"].network
    assert own.encoder == f"{(tmp_path / 'base' / 'nets.py').resolve()}:Enc"
    assert (own.decoder, own.options) == ("torch.nn:Linear", {"width": 3, "depth": 1})
    assert trusted(write(recipe.to_yaml(), "resolved.yaml")) == recipe
    write("class Other: pass\n", "base/nets.py")
    gone = write(
        f"{LEAST}  own: {{kind: vector, size: 2, network: {network.replace('nets.py:Enc', 'no.py:Enc')}}}\n",
        "gone.yaml",
    )
    with pytest.raises(InputError, match=r"gone.yaml:\d+: modalities.own: .*no.py: no such file"):
        trusted(gone)


def test_every_attribute_of_torchs_modules_may_name_a_modality(write):
    names = sorted(name for name in dir(torch.nn.ModuleDict()) if not name.startswith("_"))
    recipe = load_recipe(write(LEAST + "".join(f"  {name}: {{kind: vector, size: 1}}\n" for name in names)))
    model = assemble(recipe)
    state = model.state_dict()
    for name in names:
        assert state[f"heads.{name}.weight"] is not None and model.decoders[name].training
    model.load_state_dict(state)


def test_reading_recipes_does_not_import_torch():
    code = "import sys, modalkit.recipe as r; r.shipped(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes(name, tmp_path):
    path, description = shipped()[name]
    first = path.read_text().splitlines()[0]
    assert first.startswith("# modalkit ") and description
    recipe = load_recipe(path)
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_celeba_transforms_has_the_papers_settings():
    recipe = load_recipe(shipped()["celeba_transforms"][0])
    assert {name: (m.kind, m.event_shape) for name, m in recipe.modalities.items()} == {
        "image": ("image", (3, 64, 64)),
        "gray": ("image", (1, 64, 64)),
        "edges": ("edges", (1, 64, 64)),
        "mask": ("landmarks", (1, 64, 64)),
        "obscured": ("image", (3, 64, 64)),
        "watermark": ("image", (3, 64, 64)),
    }
    train, objective = recipe.train, recipe.objective
    assert (recipe.model.latent_dim, train.batch_size, train.learning_rate, train.epochs) == (250, 50, 1e-4, 100)
    assert (objective.name, objective.k, objective.targets, objective.warmup_epochs) == ("mvae", 1, "subset", 20)


def _undescribed(schema: Any, definitions: dict[str, Any], at: str = "") -> list[str]:
    """Return the properties of a JSON Schema that nothing describes; a constant describes itself."""
    found = []
    if isinstance(schema, dict):
        for name, part in schema.get("properties", {}).items():
            target = definitions.get(part.get("$ref", "").removeprefix("#/$defs/"), {})
            if not ({"description", "const"} & (part.keys() | target.keys())):
                found.append(f"{at}.{name}")
        for name, part in schema.items():
            found += _undescribed(part, definitions, f"{at}.{name}")
    elif isinstance(schema, list):
        for part in schema:
            found += _undescribed(part, definitions, at)
    return found


def _fits(value: Any, schema: Any, whole: dict[str, Any]) -> bool:
    """Validate by those words of JSON Schema that pydantic and we use; numbers' bounds aside."""
    if "$ref" in schema:
        return _fits(value, whole["$defs"][schema["$ref"].removeprefix("#/$defs/")], whole)
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    types = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "null": value is None,
        "boolean": isinstance(value, bool),
        "number": number,
        "integer": number and isinstance(value, int),
    }
    checks = [types[schema["type"]] if "type" in schema else True]
    checks += [value == schema.get("const", value), value in schema.get("enum", [value])]
    checks += [any(_fits(value, one, whole) for one in schema[word]) for word in ("anyOf", "oneOf") if word in schema]
    checks += [not _fits(value, schema["not"], whole)] if "not" in schema else []
    if isinstance(value, dict):
        checks += [name in value for name in schema.get("required", [])]
        for name, item in value.items():
            by_pattern = [part for like, part in schema.get("patternProperties", {}).items() if re.search(like, name)]
            other = by_pattern[0] if by_pattern else schema.get("additionalProperties", True)
            part = schema.get("properties", {}).get(name, other)
            checks += [part if isinstance(part, bool) else _fits(item, part, whole)]
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        checks += [_fits(item, part, whole) for item, part in zip(value, first, strict=False)]
        checks += [_fits(item, schema.get("items", {}), whole) for item in value[len(first) :]]
    return all(checks)


def test_json_schema_accepts_what_the_loader_accepts(tmp_path):
    schema = recipe_schema()
    for path, _ in shipped().values():
        assert _fits(parse(path.read_text(), Place(str(path), 1)).value, schema, schema)
        assert _fits(parse(load_recipe(path).to_yaml(), Place(str(path), 1)).value, schema, schema)
    assert _fits({"extends": "mnist_mvae", "modalities": {"label": None, "image": {"weight": 2}}}, schema, schema)
    alike = {"kind": "bit", "each": ["Male", "0..9"]}
    assert _fits({"extends": "x", "modalities": {"a{}": alike, "b{}": {"weight": 2}}}, schema, schema)
    wrong = [
        {"seed": 1},
        WHOLE | {"modalities": {"{}": alike | {"each": [1]}}},
        WHOLE | {"modalities": {"{}": {"kind": "bit"}}},
        WHOLE | {"modalities": {"bit": alike}},
        WHOLE | {"sed": 1},
        WHOLE | {"modalities": {"i": {"kind": "imgae"}}},
        WHOLE | {"modalities": {"v": {"kind": "vector", "sise": 3}}},
        WHOLE | {"objective": {"kk": 1}},
        WHOLE | {"data": {"path": "x", "build": [{"builder": "mnits"}]}},
    ]
    assert [_fits(recipe, schema, schema) for recipe in [WHOLE, *wrong]] == [True] + [False] * len(wrong)


def test_json_schema(plugin, write):
    trusted(write(LEAST + f"plugins: [{plugin}]\n"))
    schema = recipe_schema()
    described = {key: part for key, part in schema.items() if key != "anyOf"}
    assert _undescribed(described, schema["$defs"]) == []
    kinds = schema["properties"]["modalities"]["additionalProperties"]["anyOf"]
    by_kind = {kind["properties"]["kind"]["const"]: kind for kind in kinds if "properties" in kind}
    assert {"image", "label", "vector", "recipe-test-dial"} <= by_kind.keys()
    assert by_kind["vector"]["required"] == ["kind", "size"] and not by_kind["vector"]["additionalProperties"]
    steps = schema["$defs"]["DataSettings"]["properties"]["build"]["anyOf"][0]["items"]["anyOf"]
    draw = next(step for step in steps if step["properties"]["builder"]["const"] == "recipe-test-draw")
    assert set(draw["properties"]) == {"builder", "out", "count", "source"} and draw["required"] == ["builder", "count"]
    objectives = {one["properties"]["name"]["const"]: one for one in schema["properties"]["objective"]["anyOf"]}
    assert "k" in objectives["mvae"]["properties"] and objectives["mvae"]["required"] == []
    text = str(schema)
    refs = {part.split("'")[0] for part in text.split("'#/$defs/")[1:]}
    assert refs <= schema["$defs"].keys()


NASTY = ["yes", "~", ".nan", "-.inf", "1e999", "1e-3", "0x1F", "0o17", "9" * 400, "-0", "true", "''", "' '", "!!set x"]
NASTY += [
    "!!python/name:os.x y",
    "!x y",
    "&a b",
    "*a",
    "[",
    "]",
    "{",
    "{a: b",
    "- a",
    "\t",
    "|",
    ">",
    "%",
    "@",
    "`",
    ",",
]
NASTY += [
    '"\\0"',
    '"\\ud800"',
    "\ud800",
    "\x00",
    "\x85",
    "\u2028",
    "# x",
    "a: b",
    "? a",
    "<<",
    "=",
    "2020-01-01",
    "null",
]
NASTY += [
    "[1, 2]",
    "{a: 1}",
    "[[[]]]",
    "{type: mlp, hidden: [true]}",
    "{type: dcgan}",
    "{name: mvae, k: 1e9}",
    "dcgan",
    "/",
]
SCALARS = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.integers().map(str), st.floats().map(repr))
PATHS = [
    "description", "extends", "plugins", "plugins.0", "seed", "data", "data.path", "data.build", "data.build.0",
    "data.build.0.builder", "data.build.0.out", "data.build.0.source", "data.build.0.size", "data.in_memory",
    "modalities", "modalities.i", "modalities.i.kind", "modalities.i.size", "modalities.i.network",
    "modalities.i.weight", "modalities.i.network.type", "modalities.i.network.widths", "modalities.w.classes",
    "modalities.v.scale", "modalities.v.size", "model", "model.latent_dim", "objective", "objective.name",
    "objective.k", "objective.targets", "objective.warmup_epochs", "train", "train.epochs", "train.learning_rate",
    "train.devices", "train.precision", "train.accelerator", "train.clip_norm",
]  # fmt: skip
WHOLE: dict[str, Any] = {
    "description": "x",
    "plugins": [],
    "seed": 1,
    "data": {"path": "x", "build": [{"builder": "celeba-transforms", "source": "y", "size": 16}], "in_memory": True},
    "modalities": {
        "i": {"kind": "image", "size": 32, "weight": 1.0, "network": {"type": "dcgan", "widths": [2, 3, 4]}},
        "w": {"kind": "label", "classes": 3},
        "v": {"kind": "vector", "size": 3, "scale": 1.0},
    },
    "model": {"latent_dim": 2},
    "objective": {"name": "mvae", "k": 1, "targets": "subset", "warmup_epochs": 1.0},
    "train": {"epochs": 1, "learning_rate": 0.1, "devices": 1, "precision": 32, "accelerator": "cpu", "clip_norm": 1.0},
}


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(PATHS), SCALARS)
@example("plugins", "['\ud800']")
@example("data.path", '"a\\0b"')
def test_any_scalar_anywhere_gives_a_recipe_or_an_input_error(tmp_path_factory, where, scalar):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(dump(WHOLE))
    try:
        load_recipe(path, [f"{where}={scalar}"])
    except InputError as error:
        assert str(error)
    marked = yaml.safe_load(dump(WHOLE))
    inner: Any = marked
    *parents, last = where.split(".")
    for part in parents:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    if isinstance(inner, list):
        inner.append("MARK")
    else:
        inner[last] = "MARK"
    path.write_bytes(dump(marked).replace("MARK", scalar).encode("utf-8", "surrogatepass"))
    try:
        recipe = load_recipe(path)
    except InputError as error:
        assert str(error)
    else:
        path.write_text(recipe.to_yaml())
        assert load_recipe(path) == recipe


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
@example(["1e-3", "yes", "0o7", "", " ", "~", "<<", "=", "12:30:45", "2020-01-01", "#", "a: b", "1_000", "é\n\n x\t"])
def test_what_is_dumped_is_parsed_back(value):
    document = parse(dump(value), Place("x", 1))
    assert document.problems == []
    assert repr(document.value) == repr(value)


@settings(max_examples=25, deadline=None)
@given(
    TEXT,
    st.integers(0, 2**63 - 1),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.lists(st.integers(1, 999), min_size=1, max_size=4),
    st.lists(TEXT.filter(bool), min_size=2, max_size=4, unique=True),
)
def test_resolved_recipes_load_as_equal_ones(tmp_path_factory, description, seed, rate, widths, names):
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    content = WHOLE | {"description": description, "seed": seed, "train": {"learning_rate": rate}}
    network = {"type": "mlp", "hidden": widths}
    content["modalities"] = {
        "w": {"kind": "label", "names": names},
        "v": {"kind": "vector", "size": 3, "network": network},
    }
    path.write_text(dump(content))
    recipe = load_recipe(path)
    assert (recipe.description, recipe.seed, recipe.train.learning_rate) == (description, seed, rate)
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_examples_in_the_docs(write):
    blocks = [part.split("\n```", 1)[0] for part in DOCS.read_text().split("```yaml\n")[1:]]
    example, variant, *_ = blocks
    assert load_recipe(write(example, "pairs.yaml")).modalities["class"].weight == 5
    assert list(load_recipe(write(variant)).modalities) == ["position", "class", "height"]
    wrong = next(block for block in blocks if "learning_rte" in block)
    promised = DOCS.read_text().split("```text\n")[1].split("\n```")[0].splitlines()
    found = problems(write(wrong, "my.yaml"), "train.max_stepz=5")
    assert {line.split("; known: ")[0] for line in found} == {line.split("; known: ")[0] for line in promised}


def test_the_docs_list_every_key():
    text = DOCS.read_text()
    for section in (Recipe, DataSettings, ModelSettings, TrainSettings, MvaeOptions):
        for name in section.model_fields:
            assert f"| `{name}` |" in text or f"### `{name}`" in text
