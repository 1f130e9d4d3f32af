"""Joint and one-to-many coherence, and diversity, of models whose samples are known."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from support.linear import fill
from support.toys import here
from torch import Tensor, nn

import modalkit
from modalkit.evaluation.questions import Asking, Question
from modalkit.generation import diversity, joint_coherence, one_to_many
from modalkit.model import assemble
from modalkit.recipe.loading import load_recipe
from modalkit.runs.checkpoint import save_weights
from modalkit.runs.opened import Run, load_run

RECIPE = """\
data: {path: DATA}
modalities:
  x: {kind: vector, size: 3, scale: 0.1, network: {type: mlp, hidden: [64], decoder_hidden: []}}
  class: {kind: label, classes: 3, network: {type: mlp, hidden: [8], decoder_hidden: []}}
  hint: {kind: bit, network: {type: mlp, hidden: [8], decoder_hidden: []}}
model: {latent_dim: 3}
train: {accelerator: cpu}
"""
SHARE = 0.75
"""The share of class 0 where the hint is 0; the others are of class 1. Where the hint is 1, all are of class 2."""
CENTRES = 4 * torch.eye(3)


def rows(count: int) -> tuple[Tensor, Tensor]:
    """Return classes and hints, in exactly these shares."""
    classes = torch.tensor([0] * int(SHARE * count / 2) + [1] * (count // 2 - int(SHARE * count / 2)))
    return torch.cat([classes, torch.full((count // 2,), 2)]), torch.arange(count) // (count // 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose x shows the class plainly."""
    folder = tmp_path_factory.mktemp("classes")
    classes, hints = (torch.cat(parts) for parts in zip(rows(3200), rows(80), strict=True))
    x = CENTRES[classes] + 0.5 * torch.randn(3280, 3, generator=torch.Generator().manual_seed(0))
    schemas = {
        "x": modalkit.schema("vector", size=3),
        "class": modalkit.schema("label", classes=3),
        "hint": modalkit.schema("bit"),
    }
    values = {"x": x, "class": classes, "hint": hints.float()}
    modalkit.write_dataset(folder / "data", schemas, values, split=["train"] * 3200 + ["test"] * 80)
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(RECIPE.replace("DATA", str(folder / "data")))
    model = assemble(load_recipe(folder / "run" / "recipe.yaml"))
    save_weights(folder / "run" / "checkpoints" / "best.safetensors", model)
    return load_run(folder / "run")


def says(run: Run, name: str, constant: Tensor, slope: float = 0.0) -> None:
    """Make a decoder return a constant plus so many times z."""
    (decode,) = (part for part in run.model.decoders[name].modules() if isinstance(part, nn.Linear))
    fill(decode, slope * torch.eye(3), constant)


def test_samples_whose_modalities_agree_are_coherent(run: Run) -> None:
    everything, asking = Question(("x", "class")), Asking()
    for shown, expected in ((1, 1.0), (2, 0.0)):
        says(run, "x", CENTRES[1])
        says(run, "class", CENTRES[shown])
        found = joint_coherence.measure(run, everything, asking)
        assert found["prior"] == (expected, 0.0) and found["real"][0] > 0.9
    assert joint_coherence.measure(run, Question(("x",), ("class",)), asking) == {}


def test_samples_that_give_one_answer_are_as_far_as_the_others_share(run: Run) -> None:
    """Given the hint 0, the class 0 is right in 3 of 4 rows; given 1, it is never right."""
    says(run, "x", CENTRES[0])
    says(run, "class", CENTRES[0])
    found = one_to_many.measure(run, Question(("x", "class"), ("hint",)), Asking())
    for name in ("x: posterior", "class: posterior"):
        assert found[name][0] == pytest.approx(((1 - SHARE) + 1) / 2)
        assert found[name][1] > 0
    assert found["class: real"][0] == pytest.approx(0) and found["x: real"][0] < 0.1


def test_answers_in_the_right_shares_have_the_distance_0(run: Run) -> None:
    """Class 0 where the first latent dimension is below the quantile of its share; the hint says nothing of z."""
    (decode,) = (part for part in run.model.decoders["class"].modules() if isinstance(part, nn.Linear))
    slope, shift = torch.zeros(3, 3), math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * SHARE - 1)))
    slope[1, 0] = 1.0
    fill(decode, slope, torch.tensor([shift, 0.0, -1e3]))
    fill(run.model.heads["hint"], *(torch.zeros_like(p) for p in run.model.heads["hint"].parameters()))
    bias = run.model.heads["hint"].bias
    assert isinstance(bias, Tensor)
    bias.data[3:] = 20.0  # log variances: an expert that knows nothing leaves the prior
    found = one_to_many.measure(run, Question(("class",), ("hint",)), Asking())
    mean, error = found["class: posterior"]
    assert abs(mean - 0.5) < max(4 * error, 0.03)  # right given 0, all wrong given 1


def test_samples_that_vary_as_data_have_the_diversity_1(run: Run) -> None:
    says(run, "x", CENTRES[0])
    assert diversity.measure(run, Question(("x", "class")), Asking()) == {"x: prior": (0.0, 0.0)}
    says(run, "x", torch.zeros(3), slope=2.0)
    once, twice = diversity.measure(run, Question(("x",)), Asking())["x: prior"]
    says(run, "x", torch.zeros(3), slope=4.0)
    both = diversity.measure(run, Question(("x",)), Asking())["x: prior"]
    assert both == pytest.approx((2 * once, 2 * twice), rel=1e-5) and twice > 0
    values = run.dataset.values("x", run.dataset.rows("test")).double()
    apart = (values - values.roll(1, 0)).norm(dim=1).mean()
    expected = 2 * 2**0.5 * 2 * (2 / math.pi) ** 0.5 / float(apart)  # two points of N(0, 4 I) in three dimensions
    assert abs(once - expected) < 4 * twice


def test_the_command_measures_them_and_says_what_it_leaves_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    names = "joint-coherence,one-to-many,diversity"
    with caplog.at_level(logging.WARNING):
        for asked in (("class,x",), ("x", "--given", "hint"), ("hint", "--given", "x"), ("x", "--given", "class,hint")):
            done = here("evaluate", run.path, "--metrics", names, "--particles", 1, "--targets", *asked, cwd=run.path)
            assert done.returncode == 0, done.stderr
    assert "p(hint | x): no one-to-many coherence, because x is no class, level, bit or text" in caplog.text
    kept = json.loads((run.path / "evaluation.json").read_text())["metrics"]
    assert {name: list(one["measured"]) for name, one in kept.items()} == {
        "joint-coherence": ["log p(x, class)"],
        "diversity": ["log p(x, class)", "log p(x | hint)", "log p(x | class, hint)"],
        "one-to-many": ["log p(x | hint)", "log p(x | class, hint)"],
    }
    caplog.clear()
    few = here(
        *("evaluate", run.path, "--metrics", "one-to-many,joint-coherence", "--particles", 1, "--rows", 9),
        *("--targets", "x", "--given", "hint"),
        cwd=run.path,
    )
    assert few.returncode == 0 and "training and held-out rows are given the same too rarely" in caplog.text
    assert here(
        "evaluate", run.path, "--metrics", "joint-coherence", "--particles", 1, "--targets", "class", cwd=run.path
    )
    assert "log p(class): no joint coherence, because it needs a class and two modalities" in caplog.text
