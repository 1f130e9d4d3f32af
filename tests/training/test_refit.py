"""The second fit, on training and validation rows: what it equals, that it resumes to the bit, what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.toys import here, write_circle, write_recipe
from torch import Tensor

import modalkit
from modalkit.recipe import load_recipe
from modalkit.report.run import report
from modalkit.training.data import TrainingData
from modalkit.training.trainer import Trainer

SHORT = ["train.pictures_every=0", "train.loggers=[csv]", "train.log_every=1", "train.average=0.8"]
COSINE = ["train.schedule=cosine", "train.epochs=5"]
REFIT = "train.refit=true"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refit")
    write_recipe(folder, write_circle(folder))
    return folder


@pytest.fixture(scope="module")
def plain(work: Path) -> Path:
    train(work, "plain", *COSINE)
    return work / "plain"


@pytest.fixture(scope="module")
def refitted(work: Path) -> Path:
    said = train(work, "refitted", REFIT, *COSINE)
    epoch = torch.load(work / "refitted/checkpoints/state.pt", weights_only=True)["progress"]["best_epoch"]
    assert f"refit for {epoch} epochs, as many as the best; new; 108 training and validation rows" in said
    assert "test rows that have both" in said and "with the weights of the refit on training and valid" in said
    return work / "refitted"


def options(*changes: str) -> list[str]:
    return [word for change in (*SHORT, *changes) for word in ("--set", change)]


def train(work: Path, run: str, *changes: str) -> str:
    done = here("train", "circle.yaml", "--out", run, *options(*changes), cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def weights(run: Path, name: str) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"{name}.safetensors")


def lines(run: Path) -> list[dict[str, float | str]]:
    """Return the lines of metrics, without the speed."""
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rows_per_second"} for line in every]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_run(one: Path, other: Path) -> None:
    for name in ("state.pt", "refit.pt"):
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        assert a["progress"] == b["progress"] and same(a["model"], b["model"]) and same(a["average"], b["average"])
    assert all(same(weights(one, name), weights(other, name)) for name in ("best", "last"))
    assert lines(one) == lines(other)
    assert (one / "translations.json").read_text() == (other / "translations.json").read_text()


def test_it_equals_a_fit_to_a_dataset_whose_validation_rows_are_training_rows(work: Path, refitted: Path) -> None:
    dataset = modalkit.Dataset(work / "circle")
    batch = dataset[torch.arange(len(dataset))]
    split = ["test" if part == 2 else "train" for part in dataset.split.tolist()]
    present = {name: batch.present[:, column] for column, name in enumerate(dataset.names)}
    schemas = {name: dataset.manifest.modalities[name].schema for name in dataset.names}
    made = {name: modalkit.schema(schemas[name]["kind"], **facts(schemas[name])) for name in dataset.names}
    modalkit.write_dataset(work / "joined", made, batch.values, present=present, split=split)
    epochs = torch.load(refitted / "checkpoints/state.pt", weights_only=True)["progress"]["best_epoch"]
    joined = f"data.path={work / 'joined'}"
    train(work, "joined-run", joined, *COSINE, f"train.max_steps={7 * epochs}")
    assert same(weights(work / "joined-run", "last"), weights(refitted, "best"))


def facts(schema: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in schema.items() if key != "kind"}


def test_the_first_fit_stays_as_it_is_without_a_refit(plain: Path, refitted: Path) -> None:
    found = lines(refitted)
    first = [line for line in found if line["split"] != "refit"]
    assert first == lines(plain)
    a, b = (torch.load(run / "checkpoints/state.pt", weights_only=True) for run in (plain, refitted))
    assert a["progress"] == b["progress"] and same(a["model"], b["model"])
    assert same(weights(plain, "last"), weights(refitted, "last"))
    assert not same(weights(plain, "best"), weights(refitted, "best"))
    second = [line for line in found if line["split"] == "refit"]
    assert [line["step"] for line in second] == [30 + number for number in range(1, len(second) + 1)]
    rate = {line["epoch"]: line["learning_rate"] for line in first if line["split"] == "train"}
    assert {line["epoch"]: line["learning_rate"] for line in second}.keys() <= rate.keys()
    page, _ = report(refitted, rows=10)
    assert "5 epochs, 30 steps" in page and "on training and validation rows, for as many epochs as the best" in page
    model = modalkit.load(refitted)
    assert same({name: model.model.state_dict()[name] for name in weights(refitted, "best")}, weights(refitted, "best"))


def signalled(work: Path, run: str, number: int, steps: int) -> tuple[int, str]:
    """Start a training, send a signal once it has logged some steps of the refit; return its exit status and words."""
    command = [sys.executable, "-m", "modalkit", "train", "circle.yaml", "--out", run, *options(REFIT, *COSINE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path, deadline = work / run / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_text().count('"refit"') >= steps:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


def test_killed_and_interrupted_in_the_refit_it_ends_with_the_same_bits(
    work: Path, plain: Path, refitted: Path
) -> None:
    shutil.copytree(plain, work / "killed")  # the first fit is done, and a refit may be switched on
    status, _ = signalled(work, "killed", signal.SIGKILL, 5)
    assert status == -signal.SIGKILL and not (work / "killed/pictures/refit.png").exists()
    assert same(weights(work / "killed", "best"), weights(plain, "best"))  # no half-trained weights answer
    status, said = signalled(work, "killed", signal.SIGTERM, 12)
    assert status == 128 + signal.SIGTERM and "of the refit; resume with" in said, said
    step = torch.load(work / "killed/checkpoints/refit.pt", weights_only=True)["progress"]["step"]
    said = train(work, "killed", REFIT, *COSINE)
    assert f"as many as the best; resuming after step {step}" in said
    same_run(refitted, work / "killed")
    before = (work / "killed/metrics.jsonl").read_text()
    assert "already complete" in train(work, "killed", REFIT, *COSINE)
    same_run(refitted, work / "killed")
    assert (work / "killed/metrics.jsonl").read_text() == before


def test_interrupted_in_the_first_fit_it_ends_with_the_same_bits(work: Path) -> None:
    train(work, "short", REFIT, "train.max_steps=13")  # the second epoch is the last whole one
    train(work, "short", REFIT)  # a refit that followed the earlier end is void
    train(work, "whole", REFIT)
    same_run(work / "whole", work / "short")


def test_a_refit_cannot_be_switched_off_and_needs_validation_rows(work: Path, refitted: Path, tmp_path: Path) -> None:
    off = here("train", "circle.yaml", "--out", refitted, *options(*COSINE), cwd=work)
    assert off.returncode == 2 and "it differs in train.refit" in off.stderr
    schema = {"position": modalkit.schema("vector", size=2), "class": modalkit.schema("label", classes=3)}
    values = {"position": torch.randn(20, 2), "class": torch.arange(20) % 3}
    modalkit.write_dataset(tmp_path / "all", schema, values, split=["train"] * 20)
    few = [f"data.path={tmp_path / 'all'}", "modalities.image=null", "modalities.counts=null"]
    lacking = here("train", "circle.yaml", "--out", "no", *options(REFIT, *few), cwd=work)
    assert lacking.returncode == 2 and "train.refit" in lacking.stderr and "has no validation rows" in lacking.stderr
    guesses = "train.self_training={modalities: [class]}"
    both = here("train", "circle.yaml", "--out", "no", *options(REFIT, guesses), cwd=work)
    assert both.returncode == 2 and "train.refit: cannot be combined with train.self_training" in both.stderr
    modalkit.write_dataset(tmp_path / "two", schema, values, split=["train"] * 12 + ["valid"] * 8)
    said = train(work, "untested", REFIT, f"data.path={tmp_path / 'two'}", *few[1:])
    assert "has no test rows, so the errors are those of rows that were trained on" in said


def test_without_a_whole_epoch_nothing_is_refitted(work: Path) -> None:
    said = train(work, "unchosen", REFIT, "train.max_steps=4")
    assert "no epoch was finished, so there is none to refit" in said and "with the last weights" in said
    assert not (work / "unchosen/checkpoints/refit.pt").exists()


def test_a_refit_for_0_epochs_keeps_the_initial_weights(work: Path, plain: Path) -> None:
    run = shutil.copytree(plain, work / "zero")
    state = torch.load(run / "checkpoints/state.pt", weights_only=True)
    torch.save(state | {"progress": state["progress"] | {"best_epoch": 0}}, run / "checkpoints/state.pt")
    said = train(work, "zero", REFIT, *COSINE)
    assert "refit for 0 epochs" in said
    initial = Trainer(load_recipe(work / "circle.yaml", SHORT), work / "new").model
    found = weights(run, "best")
    assert same(found, {name: initial.state_dict()[name] for name in found})


def test_weak_supervision_hides_entries_of_the_validation_rows_too(work: Path) -> None:
    recipe = load_recipe(work / "circle.yaml", ["data.weak.paired=0.1"])
    first, second = TrainingData(recipe), TrainingData(recipe, refit=True)
    assert torch.equal(first.dataset.present[first.train], second.dataset.present[first.train])
    several = (second.dataset.present[first.valid].sum(1) > 1).sum()
    assert several < (first.dataset.present[first.valid].sum(1) > 1).sum() / 2
    assert set(second.train.tolist()) == {*first.train.tolist(), *first.valid.tolist()} and not len(second.valid)


def test_the_learning_rate_follows_the_same_course_of_epochs(work: Path) -> None:
    train(work, "course", REFIT, "train.schedule={name: linear}", "train.batch_size=12", "train.average=null")
    found = lines(work / "course")
    first, second = ([line for line in found if line["split"] == split] for split in ("train", "refit"))
    begins = [
        {line["epoch"]: line["learning_rate"] for line in reversed(part)} for part in (first, second)
    ]  # the first step of each epoch
    for epoch, rate in begins[1].items():
        assert rate == pytest.approx(begins[0][epoch])
    assert len(first) == 24 and len(second) == 9 * len(begins[1])
