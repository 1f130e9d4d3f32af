"""The second fit, on training and validation rows: what it equals, that it resumes to the bit, what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.processes import Child
from support.toys import here, overrides, train_circle, write_circle, write_recipe
from torch import Tensor

import modalkit
from modalkit.model import assemble
from modalkit.recipe import load_recipe
from modalkit.report.run import report
from modalkit.runs.checkpoint import is_refit
from modalkit.training.data import TrainingData
from modalkit.training.linear_start import StartChoices, start_from_factor_analysis

SMALL = [
    "modalities.image=null",
    "modalities.position.network.batch_norm=true",
    "modalities.position.network.dropout=0.2",
]
SHORT = [*SMALL, "train.pictures_every=0", "train.loggers=[csv]", "train.log_every=1", "train.average=0.8"]
COSINE = ["train.schedule=cosine", "train.epochs=5"]
REFIT = "train.refit=true"
SCHEMAS = {
    "position": modalkit.schema("vector", size=2),
    "class": modalkit.schema("label", classes=3),
    "counts": modalkit.schema("counts", size=2),
}


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
    return overrides(*SHORT, *changes)


def train(work: Path, run: str, *changes: str) -> str:
    return train_circle(work, run, *SHORT, *changes)


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
    dataset = modalkit.Dataset(work / "circle", list(SCHEMAS))
    batch = dataset[torch.arange(len(dataset))]
    split = ["test" if part == 2 else "train" for part in dataset.split.tolist()]
    present = {name: batch.present[:, column] for column, name in enumerate(dataset.names)}
    modalkit.write_dataset(work / "joined", SCHEMAS, batch.values, present=present, split=split)
    epochs = torch.load(refitted / "checkpoints/state.pt", weights_only=True)["progress"]["best_epoch"]
    joined = f"data.path={work / 'joined'}"
    train(work, "joined-run", joined, *COSINE, f"train.max_steps={7 * epochs}")
    assert same(weights(work / "joined-run", "last"), weights(refitted, "best"))


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


def logged(work: Path, run: str, steps: int) -> bool:
    """Wait until a run has logged some steps of the refit; tell whether it has within 2 minutes."""
    path, deadline = work / run / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count('"refit"') >= steps:
            return True
        time.sleep(0.005)
    return False


def test_killed_and_interrupted_in_the_refit_it_ends_with_the_same_bits(
    work: Path, plain: Path, refitted: Path
) -> None:
    run = shutil.copytree(plain, work / "killed")  # the first fit is done, and a refit may be switched on
    arguments = ["train", "circle.yaml", "--out", "killed", *options(REFIT, *COSINE)]
    process = Child(*arguments, cwd=work)
    assert logged(work, "killed", 10)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert same(weights(run, "best"), weights(plain, "best")) and not is_refit(run / "checkpoints/best.safetensors")

    def interrupt() -> None:
        if logged(work, "killed", 20):
            os.kill(os.getpid(), signal.SIGTERM)

    watcher, before = threading.Thread(target=interrupt), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watcher.start()
    stopped = here(*arguments, cwd=work)
    watcher.join()
    signal.signal(signal.SIGTERM, before)
    step = torch.load(run / "checkpoints/refit.pt", weights_only=True)["progress"]["step"]
    assert stopped.returncode == 128 + signal.SIGTERM
    assert f"stopped at step {step} of the refit; resume with" in stopped.stderr
    said = train(work, "killed", REFIT, *COSINE)
    assert f"as many as the best; resuming after step {step}" in said
    same_run(refitted, run)
    logs = (run / "metrics.jsonl").read_text()
    assert "already complete" in train(work, "killed", REFIT, *COSINE)
    same_run(refitted, run)
    assert (run / "metrics.jsonl").read_text() == logs


def test_interrupted_in_the_first_fit_it_ends_with_the_same_bits(work: Path, refitted: Path) -> None:
    # Epoch 2 is the last whole one. Its refit is void as soon as the first fit continues.
    said = train(work, "short", REFIT, *COSINE, "train.max_steps=13", "train.patience=3")
    assert "refit for 2 epochs done" in said
    train(work, "short", REFIT, *COSINE)
    same_run(refitted, work / "short")


def test_a_refit_cannot_be_switched_off_and_needs_validation_rows(work: Path, refitted: Path, tmp_path: Path) -> None:
    off = here("train", "circle.yaml", "--out", refitted, *options(*COSINE), cwd=work)
    assert off.returncode == 2 and "it differs in train.refit" in off.stderr
    assert "to continue the run, write `train: {refit: true}`; otherwise choose another --out" in off.stderr
    schema = {name: SCHEMAS[name] for name in ("position", "class")}
    values = {"position": torch.randn(20, 2), "class": torch.arange(20) % 3}
    modalkit.write_dataset(tmp_path / "all", schema, values, split=["train"] * 20)
    few = [f"data.path={tmp_path / 'all'}", "modalities.counts=null"]
    lacking = here("train", "circle.yaml", "--out", "no", *options(REFIT, *few), cwd=work)
    assert lacking.returncode == 2 and "train.refit" in lacking.stderr and "has no validation rows" in lacking.stderr
    guesses = "train.self_training={modalities: [class]}"
    both = here("train", "circle.yaml", "--out", "no", *options(REFIT, guesses), cwd=work)
    assert both.returncode == 2 and "train.refit: cannot be combined with train.self_training" in both.stderr
    modalkit.write_dataset(tmp_path / "two", schema, values, split=["train"] * 12 + ["valid"] * 8)
    said = train(work, "untested", REFIT, f"data.path={tmp_path / 'two'}", *few[1:])
    assert "has no test rows, so the errors are those of rows that were trained on" in said
    page, _ = report(work / "untested", rows=10)
    assert "10 train rows" in page and "10 valid rows" not in page


def test_without_a_whole_epoch_nothing_is_refitted(work: Path) -> None:
    said = train(work, "unchosen", REFIT, "train.max_steps=4")
    assert "no epoch was finished, so there is none to refit" in said and "with the last weights" in said
    assert not (work / "unchosen/checkpoints/refit.pt").exists()


def test_if_the_start_is_best_the_refit_is_a_start_on_all_rows(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    z = torch.randn(60, 3, generator=source)
    values = {
        name: z @ torch.randn(3, size, generator=source) + 0.3 * torch.randn(60, size, generator=source)
        for name, size in (("a", 4), ("b", 5))
    }
    schemas = {name: modalkit.schema("vector", size=value.shape[1]) for name, value in values.items()}
    modalkit.write_dataset(tmp_path / "data", schemas, values, split=["train"] * 36 + ["valid"] * 14 + ["test"] * 10)
    modalkit.write_dataset(tmp_path / "joined", schemas, values, split=["train"] * 50 + ["test"] * 10)
    network = "network: {type: mlp, hidden: [8], linear: 8}"
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{path: data}}\n"
        f"modalities: {{a: {{kind: vector, size: 4, {network}}}, b: {{kind: vector, size: 5, {network}}}}}\n"
        f"model: {{latent_dim: 6, experts: low_rank, start: factor_analysis}}\n"
        f"train: {{epochs: 2, learning_rate: 1.0, choose: imputation, refit: true, batch_size: 12}}\n"
    )
    for begun in ("new", "already complete"):
        done = here("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
        assert done.returncode == 0 and f"refit for 0 epochs, as many as the best; {begun}; 50" in done.stderr
    assert is_refit(tmp_path / "run/checkpoints/best.safetensors")
    factors = torch.load(tmp_path / "run/checkpoints/state.pt", weights_only=True)["start"]["factors"]
    assert f"with {factors} factors" in done.stderr
    joined = load_recipe(tmp_path / "recipe.yaml", [f"data.path={tmp_path / 'joined'}"])
    model = assemble(joined)
    choices = StartChoices(factors, ())
    _, same_choices = start_from_factor_analysis(model, modalkit.Dataset(tmp_path / "joined"), 0, choices=choices)
    found = weights(tmp_path / "run", "best")
    linear = [name for name in found if "linear" in name or "scale" in name]
    assert same_choices == choices and linear
    assert same({name: found[name] for name in linear}, {name: model.state_dict()[name] for name in linear})


def test_evaluate_compares_a_refit_with_a_linear_model_of_the_same_rows(work: Path, refitted: Path) -> None:
    few = ["--rows", "10", "--particles", "5", "--targets", "class", "--given", "position"]
    judged = here("evaluate", refitted, *few, cwd=work)
    assert judged.returncode == 0 and "too" not in judged.stderr
    seen = here("evaluate", refitted, *few, "--split", "valid", cwd=work)
    assert seen.returncode == 0 and "train.refit has trained on the validation rows too" in seen.stderr
    first = here("evaluate", refitted, *few, "--split", "valid", "--weights", "last", cwd=work)
    assert first.returncode == 0 and "train.refit" not in first.stderr
    rows = here("evaluate", refitted, "--particles", "5", "--targets", "class", "--given", "position", cwd=work)
    assert rows.returncode == 0
    saved = json.loads((refitted / "translations.json").read_text())
    measured = json.loads((refitted / "evaluation.json").read_text())["translations"]["cells"]
    assert [one["linear_value"] for one in measured] == [one["linear_value"] for one in saved]


def test_weak_supervision_hides_entries_of_the_validation_rows_too(work: Path) -> None:
    recipe = load_recipe(work / "circle.yaml", ["data.weak.paired=0.1"])
    first, second = TrainingData(recipe), TrainingData(recipe, refit=True)
    assert torch.equal(first.dataset.present[first.train], second.dataset.present[first.train])
    several = (second.dataset.present[first.valid].sum(1) > 1).sum()
    assert several < (first.dataset.present[first.valid].sum(1) > 1).sum() / 2
    joined = {*first.train.tolist(), *first.valid.tolist()}  # some rows lose the only modality that they have
    assert set(first.train.tolist()) < set(second.train.tolist()) <= joined and not len(second.valid)


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
