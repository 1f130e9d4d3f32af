"""How a training ends: averaged weights, and which epoch's weights are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.toys import here, overrides, train_circle, write_circle, write_recipe
from torch import Tensor

import modalkit
from modalkit.data import Batch
from modalkit.recipe import load_recipe
from modalkit.training.imputation import ImputationError, hidden_subsets
from modalkit.training.trainer import Trainer

SHORT = ["train.pictures_every=0", "train.loggers=[]"]
AVERAGE = "train.average=0.8"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ending")
    write_recipe(folder, write_circle(folder))
    return folder


def options(*changes: str) -> list[str]:
    return overrides(*SHORT, *changes)


def train(work: Path, run: str, *changes: str) -> str:
    return train_circle(work, run, *SHORT, *changes)


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


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 12), count=st.integers(2, 11), terms=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_row_keeps_something_and_hides_something(rows: int, count: int, terms: int, seed: int) -> None:
    present = torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[:, :2] |= ~(present.sum(1) > 1).unsqueeze(1)
    known = hidden_subsets(present, terms, seed)
    assert known.shape == (terms, rows, count) and not (known & ~present).any()
    assert known.any(-1).all() and (present & ~known).any(-1).all()
    assert torch.equal(known, hidden_subsets(present, terms, seed))


def test_each_of_few_modalities_is_left_out_and_given_alone() -> None:
    known = hidden_subsets(torch.ones(30, 4, dtype=torch.bool), 1, 0)[0]
    assert {known[row].tolist().index(False) for row in range(1, 30, 3)} == {0, 1, 2, 3}
    assert all(known[row].sum() == 3 for row in range(1, 30, 3))
    assert {known[row].tolist().index(True) for row in range(2, 30, 3)} == {0, 1, 2, 3}
    assert all(known[row].sum() == 1 for row in range(2, 30, 3))


def imputation(trainer: Trainer) -> ImputationError:
    found = trainer.choice.imputation
    assert found is not None
    return found


@torch.no_grad()
def test_the_error_equals_a_plain_loop_over_rows(work: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_recipe(work / "circle.yaml", [*SHORT, "train.choose=imputation"]), tmp_path / "run")
    with torch.enable_grad():
        for step in trainer.epoch_steps():
            trainer.take(step)
            trainer.progress.step += 1
    found, model, data = imputation(trainer).measure(), trainer.model.eval(), trainer.data.dataset
    train_rows = data.rows("train")
    errors: dict[str, list[float]] = {name: [] for name in model.names}
    for term, row in torch.cartesian_prod(torch.arange(len(imputation(trainer).given)), torch.arange(12)).tolist():
        batch = data[imputation(trainer).rows[[row]]]
        known, asked = imputation(trainer).given[term, row], imputation(trainer).targets[term, row]
        alone = Batch(batch.values, known[None])
        z = model.posterior(model.observed(alone), known[None], known[None, None]).loc[0]  # type: ignore[union-attr]
        for column in asked.nonzero().flatten().tolist():
            name, likelihood = model.names[column], model.likelihood(model.names[column], z)
            there = train_rows[data.present[train_rows, column]]
            seen = data[there].values[name]
            if name == "class":
                share = (seen.bincount(minlength=3).double() / len(seen)).log()
                errors[name].append(float(likelihood.log_prob(batch.values[name]) / share[seen].mean()))
                continue
            schema = model.schemas[name]
            value, every = schema.unpack(batch.values[name]), schema.unpack(seen).double()
            square, variance = (likelihood.mean - value).square()[0], every.var(0, correction=0)
            part = square.sum() / variance.sum() if name == "image" else (square / variance).mean()
            errors[name].append(float(part))
    expected = {name: sum(each) / len(each) for name, each in errors.items()}
    for name, error in expected.items():
        # The kind smooths the frequencies of classes a little.
        assert found[f"imputation_error/{name}"] == pytest.approx(error, rel=0.02 if name == "class" else 1e-4), name
    assert found["imputation_error"] == pytest.approx(sum(expected.values()) / 4, rel=0.01)


def test_the_epoch_with_the_lowest_error_is_kept(work: Path) -> None:
    changes = ["train.choose=imputation", "train.epochs=60", "train.patience=2", "train.learning_rate=0.03", AVERAGE]
    changes.append("modalities.image=null")
    said = train(work, "chosen", *changes)
    found = lines(work, "chosen", "valid")
    errors = [line["imputation_error"] for line in found]
    best = errors.index(min(errors)) + 1
    progress = state(work, "chosen")["progress"]
    assert progress["best_epoch"] == best and progress["best"] == -min(errors) and min(errors) < errors[0]
    assert f"no lower validation imputation error since epoch {best}" in said and progress["epoch"] == best + 2
    assert "chosen by 12 validation rows, so the choice is noisy" in said
    assert f"imputation error {errors[-1]:.3f} of the training mean's (best {min(errors):.3f} at epoch {best})" in said
    assert f"the weights of epoch {best}, the best" in said
    model = modalkit.load(work / "chosen")
    assert all(torch.equal(value, model.model.state_dict()[n]) for n, value in saved(work, "chosen", "best").items())
    train(work, "resumed", *changes, "train.max_steps=9")
    train(work, "resumed", *changes)
    assert lines(work, "resumed", "valid") == found and state(work, "resumed")["progress"] == progress


def test_what_cannot_be_imputed_is_refused(work: Path) -> None:
    single = ["modalities.position=null", "modalities.class=null", "modalities.counts=null"]
    done = here("train", "circle.yaml", "--out", "no", *options("train.choose=imputation", *single), cwd=work)
    assert done.returncode == 2 and "two modalities" in done.stderr and "train.choose: elbo" in done.stderr
    wrong = here("train", "circle.yaml", "--out", "no", *options("train.choose=best"), cwd=work)
    assert wrong.returncode == 2 and "train.choose" in wrong.stderr and "imputation" in wrong.stderr


@pytest.mark.parametrize("name", ["jmvae", "mmvae", "mopoe", "bivcca", "mixture-mvae", "telbo"])
def test_other_objectives_are_asked_what_they_have_posteriors_of(work: Path, tmp_path: Path, name: str) -> None:
    changes = ["objective.first_stage_epochs=1"] if name == "telbo" else []
    complete = ["modalities.class=null", "modalities.image=null"] if name in ("jmvae", "telbo") else []
    given = [f"objective.name={name}", "objective.warmup_epochs=0", "train.choose=imputation", *changes, *complete]
    trainer = Trainer(load_recipe(work / "circle.yaml", [*SHORT, *given]), tmp_path / "run")
    found = imputation(trainer).measure()
    assert 0 < found["imputation_error"] < float("inf") and len(found) > 1


def test_a_run_answers_with_its_last_weights_if_asked(work: Path) -> None:
    run = work / "ended"
    train(work, "ended", "train.epochs=1")
    weights = saved(work, "ended", "last")
    for name in weights:
        if name.startswith("encoders.position"):
            weights[name] += 0.5
    save_file(weights, run / "checkpoints" / "last.safetensors")
    best, last = (modalkit.load(run, weights=which) for which in ("best", "last"))
    assert best.weights == modalkit.load(run).weights != last.weights
    for which in ("best", "last"):
        command = ["impute", "ended", "-o", f"{which}.parquet", "--draws", "2", "--weights", which]
        done = here(*command, cwd=work)
        assert done.returncode == 0, done.stderr
    assert (work / "best.parquet").read_bytes() != (work / "last.parquet").read_bytes()
    done = here("embed", "ended", "-o", "z.csv", "--weights", "first", cwd=work)
    assert done.returncode == 2 and "weights 'first': choose best or last" in done.stderr
    (run / "checkpoints" / "last.safetensors").unlink()
    done = here("sample", "ended", "-o", "drawn", "--weights", "last", cwd=work)
    assert done.returncode == 2 and "there are no last weights: they are written when training ends" in done.stderr
