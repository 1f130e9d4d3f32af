"""How a training ends: averaged weights, and which epoch's weights are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.toys import here, write_circle, write_recipe
from torch import Tensor

from modalkit.recipe import load_recipe
from modalkit.training.trainer import Trainer

SHORT = ["train.pictures_every=0", "train.loggers=[]"]
AVERAGE = "train.average=0.8"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ending")
    write_recipe(folder, write_circle(folder))
    return folder


def options(*changes: str) -> list[str]:
    return [word for change in (*SHORT, *changes) for word in ("--set", change)]


def train(work: Path, run: str, *changes: str) -> str:
    done = here("train", "circle.yaml", "--out", run, *options(*changes), cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def saved(work: Path, run: str, name: str) -> dict[str, Tensor]:
    return load_file(work / run / "checkpoints" / f"{name}.safetensors")


def state(work: Path, run: str) -> dict[str, dict[str, Tensor]]:
    return torch.load(work / run / "checkpoints" / "state.pt", weights_only=True)  # type: ignore[no-any-return]


def lines(work: Path, run: str, split: str) -> list[dict[str, float]]:
    every = [json.loads(line) for line in (work / run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["split"] == split]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_average_equals_the_plain_recursion_and_leaves_the_steps_alone(work: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_recipe(work / "circle.yaml", [*SHORT, "train.average=0.3"]), tmp_path / "run")
    parameters = dict(trainer.model.named_parameters())
    expected = {name: p.detach().double() for name, p in parameters.items()}
    for step, taken in enumerate(trainer.epoch_steps()):
        trainer.take(taken)
        trainer.progress.step += 1
        decay = min(0.3, (1 + step) / (10 + step))
        expected = {n: decay * a + (1 - decay) * parameters[n].detach().double() for n, a in expected.items()}
    own = {name: p.detach().clone() for name, p in parameters.items()}
    with trainer.learner.averaged():
        for name, value in expected.items():
            torch.testing.assert_close(parameters[name].double(), value, rtol=1e-5, atol=1e-6)
        assert any(not torch.equal(parameters[name], own[name]) for name in own)
    assert same({name: p.detach() for name, p in parameters.items()}, own)


def test_an_average_is_kept_validated_and_resumed_to_the_bit(work: Path) -> None:
    train(work, "plain")
    train(work, "averaged", AVERAGE)
    train(work, "broken", AVERAGE, "train.max_steps=4")  # in the first epoch
    train(work, "broken", AVERAGE)
    for name in ("best", "last"):
        assert same(saved(work, "averaged", name), saved(work, "broken", name))
    averaged, plain = state(work, "averaged"), state(work, "plain")
    assert same(averaged["average"], state(work, "broken")["average"])
    assert same(averaged["model"], plain["model"]) and "average" not in plain  # the steps are the same
    last = saved(work, "averaged", "last")
    assert all(torch.equal(last[name], value) for name, value in averaged["average"].items())
    buffers = averaged["model"].keys() - averaged["average"].keys()
    assert buffers and all(torch.equal(last[name], plain["model"][name]) for name in buffers)
    elbo, other = ([line["elbo"] for line in lines(work, run, "valid")] for run in ("averaged", "plain"))
    assert elbo != other
    changed = here("train", "circle.yaml", "--out", "averaged", *options("train.average=0.9"), cwd=work)
    assert changed.returncode == 2 and "train.average" in changed.stderr
