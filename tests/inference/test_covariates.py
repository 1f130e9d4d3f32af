"""Covariates as a user meets them: a recipe with a site and a dose, trained, asked, changed, exported, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from covariates import World, decoded, moved, sample, standardised, trained
from pyarrow import csv
from safetensors.torch import load_file
from starlette.testclient import TestClient
from support.toys import here

import modalkit
from modalkit.errors import InputError
from modalkit.inference import TrainedModel
from modalkit.playground.app import make_app

RECIPE = """\
data: {path: data}
modalities:
  site: {kind: label, names: [north, south], role: covariate}
  x: {kind: vector, size: 2, names: [x_0, x_1], network: &net {type: mlp, hidden: [8], decoder_hidden: [8]}}
  dose: {kind: vector, size: 1, role: covariate}
  y: {kind: vector, size: 1, network: *net}
  sick: {kind: bit, network: *net}
model: {latent_dim: 2}
train: {epochs: 2, batch_size: 20, learning_rate: 0.01, accelerator: cpu, checkpoint_every: 2, log_every: 2}
"""
COVARIATES = ("site", "dose")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covariates")
    g = torch.Generator().manual_seed(0)
    z, site = torch.randn(80, 1, generator=g), (torch.rand(80, generator=g) < 0.5).long()
    schemas = {"x": modalkit.schema("vector", size=2, names=["x_0", "x_1"]), "y": modalkit.schema("vector", size=1)}
    schemas |= {"sick": modalkit.schema("bit"), "site": modalkit.schema("label", names=["north", "south"])}
    schemas |= {"dose": modalkit.schema("vector", size=1)}
    values = {"x": torch.cat([z, -z], 1) + 2 * site[:, None], "y": z - site[:, None], "sick": (z > 0).squeeze(1)}
    values |= {"site": site, "dose": torch.rand(80, 1, generator=g)}
    present = {name: torch.rand(80, generator=g) < 0.8 for name in ("y", "sick", "dose")}
    modalkit.write_dataset(folder / "data", schemas, values, present=present)
    (folder / "sites.yaml").write_text(RECIPE)
    done = here("train", "sites.yaml", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def model(work: Path) -> TrainedModel:
    return modalkit.load(work / "run")


def test_covariates_are_no_targets_and_no_givens_of_a_run(work: Path, model: TrainedModel) -> None:
    assert (model.modalities, tuple(model.covariates)) == (("x", "y", "sick"), COVARIATES)
    translated = json.loads((work / "run" / "translations.json").read_text())
    assert {one["given"] for one in translated} == {"all", "x", "y", "sick"}
    assert {one["want"] for one in translated} == {"x", "y", "sick"}
    assert not any("site" in key or "dose" in key for line in model.history for key in line)
    asked = here("evaluate", "run", "--particles", "5", "--rows", "3", cwd=work)
    assert asked.returncode == 0, asked.stderr
    assert "site" not in asked.stdout
    refused = here("evaluate", "run", "--targets", "x", "--given", "site", cwd=work)
    assert refused.returncode == 2
    assert "'site' is a covariate: every question is asked given it" in refused.stderr


def test_a_run_that_was_interrupted_ends_with_the_same_bits(work: Path) -> None:
    short = here("train", "sites.yaml", "--out", "again", "--set", "train.max_steps=3", cwd=work)
    assert short.returncode == 0, short.stderr
    recipe = work / "again" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 3", "max_steps: null"))
    assert here("train", "again", cwd=work).returncode == 0
    whole, parts = (load_file(work / run / "checkpoints" / "last.safetensors") for run in ("run", "again"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["covariates.examples"].std() > 0


def test_a_covariate_is_given_changed_or_left_out(model: TrainedModel) -> None:
    given = {"x": [[0.0, 1.0], [0.0, 1.0]], "site": ["north", "south"], "dose": [[0.5], [0.5]]}
    found = model.infer(given)
    assert set(found) == {"y", "sick"}
    assert not torch.equal(found.posterior.loc[0], found.posterior.loc[1])
    moved = model.infer(given, as_if={"site": "south"})
    assert torch.equal(moved.posterior.loc, found.posterior.loc)  # what was seen is still seen at its own site
    assert not torch.equal(moved["y"].value[0], found["y"].value[0])
    assert torch.equal(moved["y"].value[1], found["y"].value[1])
    both = model.infer(given, as_if={"site": ["south", None], "dose": [[0.9], [0.9]]})
    assert not torch.equal(both["y"].value, moved["y"].value)
    unknown = model.infer({"x": [[0.0, 1.0]], "site": [None]}, ["y"])["y"].value
    without = model.infer({"x": [[0.0, 1.0]]}, ["y"])["y"].value
    assert torch.equal(unknown, without)
    assert not torch.equal(model.embed({"x": [0.0, 1.0]}).loc, model.embed({"x": [0.0, 1.0], "site": 0}).loc)
    z = torch.zeros(2, 2)
    decoded = model.decode(z, ["y"], {"site": ["north", "south"]})["y"].value
    assert not torch.equal(decoded[0], decoded[1])


def test_gaps_are_filled_as_at_the_own_or_another_site(model: TrainedModel) -> None:
    values = {"x": [[0.0, 1.0], None], "y": [None, [2.0]], "site": ["north", None]}
    own, other = model.impute(values), model.impute(values, as_if={"site": "south"})
    assert own.imputed.tolist() == [[False, True, True], [True, False, True]]
    assert not torch.equal(own.batch.values["y"][0], other.batch.values["y"][0])
    assert torch.equal(own.batch.values["x"][0], other.batch.values["x"][0])
    nothing = model.impute({"site": ["north", "south"]})  # rows without a modality still have their site
    assert nothing.imputed.all()
    assert not torch.equal(nothing.batch.values["y"][0], nothing.batch.values["y"][1])


def test_a_table_keeps_its_covariates(model: TrainedModel) -> None:
    table = pd.DataFrame({"y": [np.nan, 2.0], "site": ["north", None], "dose": [0.5, np.nan]})
    filled = model.impute(table)
    assert filled["site"].isna().tolist() == [False, True]
    assert filled["dose"].isna().tolist() == [False, True]
    assert not filled["y"].isna().any()
    other = model.impute(table, as_if={"site": "south"})
    assert filled["y"][0] != other["y"][0]
    assert filled["y"][1] == other["y"][1] == 2.0


def test_samples_have_the_covariates_that_are_given_or_those_of_training_rows(model: TrainedModel) -> None:
    north, south = (model.sample(40, given={"site": site, "dose": [0.5]})["y"].value for site in ("north", "south"))
    drawn = model.sample(40)["y"].value
    assert not torch.equal(north, south)
    assert torch.equal(drawn, model.sample(40)["y"].value)
    with pytest.raises(InputError, match=r"given: no modality 'x'.*only covariates can be given here"):
        model.sample(2, given={"x": [0.0, 1.0]})


def test_the_commands_take_covariates(work: Path) -> None:
    asked = ["translate", "run", "--given", "x=0 1", "--given", "site=north", "--want", "y"]
    done = here(*asked, "-o", "own", cwd=work)
    moved = here(*asked, "--as-if", "site=south", "-o", "moved", cwd=work)
    assert done.returncode == moved.returncode == 0, done.stderr + moved.stderr
    one, two = (json.loads((work / out / "answer.json").read_text()) for out in ("own", "moved"))
    assert two["as_if"] == {"site": "south"}
    assert one["posterior"] == two["posterior"]
    assert one["predictions"] != two["predictions"]
    for command, message in (
        (["translate", "run", "--given", "x=0 1", "--want", "site", "-o", "z"], "'site' is a covariate"),
        (["translate", "run", "--given", "x=0 1", "--as-if", "y=1", "-o", "z"], "as_if: no modality 'y'"),
        (["translate", "run", "--given", "x=0 1", "--as-if", "site", "-o", "z"], "--as-if site: write NAME=VALUE"),
        (["embed", "run", "--given", "site", "-o", "z.csv"], "'site' is a covariate"),
        (["export", "run", "z", "--onnx", "--given", "x", "--want", "y"], "--onnx: this model has covariates"),
    ):
        refused = here(*command, cwd=work)
        assert refused.returncode == 2, refused.stdout
        assert message in refused.stderr
    assert here("embed", "run", "-o", "z.csv", cwd=work).returncode == 0
    assert csv.read_csv(work / "z.csv").num_rows == 80
    assert here("sample", "run", "-n", "3", "--given", "site=north", "-o", "drawn", cwd=work).returncode == 0
    assert (work / "drawn" / "samples.csv").read_text().splitlines()[0] == "x_0,x_1,y,sick"
    for out in ("filled.csv", "filled"):
        done = here("impute", "run", "-o", out, "--as-if", "site=south", cwd=work)
        assert done.returncode == 0, done.stderr
    filled = modalkit.Dataset(work / "filled")
    present = dict(zip(filled.names, filled.present.all(0).tolist(), strict=True))
    assert present == {"x": True, "y": True, "sick": True, "site": True, "dose": False}
    assert here("report", "run", cwd=work).returncode == 0


def test_an_export_answers_the_same(work: Path, model: TrainedModel) -> None:
    assert here("export", "run", "shared", cwd=work).returncode == 0
    again, given = modalkit.load(work / "shared"), {"x": [0.0, 1.0], "site": "south"}
    assert torch.equal(again.infer(given)["y"].value, model.infer(given)["y"].value)
    assert torch.equal(again.sample(5)["y"].value, model.sample(5)["y"].value)
    assert "a covariate" in (work / "shared" / "README.md").read_text()


def test_a_sampler_is_fitted_beside_covariates(work: Path, model: TrainedModel) -> None:
    assert here("fit-sampler", "shared", "--steps", "2", "--data", "data", cwd=work).returncode == 0
    fitted = modalkit.load(work / "shared")
    north, south = (fitted.sample(5, given={"site": site})["y"].value for site in ("north", "south"))
    assert not torch.equal(north, south)


def test_the_page_asks_for_covariates_too(model: TrainedModel, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    client = TestClient(make_app(model), base_url="http://127.0.0.1")
    assert "site, a covariate" in client.get("/").text
    assert len(client.get("/rows/0").json()["cells"]) == 5

    def ask(site: str) -> dict[str, object]:
        form = {"known": ["0", "3"], "want": ["1"], "value-0": "0 1", "value-3": site}
        found: dict[str, object] = client.post("/answer", data=form).json()
        return found

    north, south = ask("0"), ask("1")
    assert [step["added"] for step in north["steps"]] == [None, "x"]  # type: ignore[attr-defined]
    assert north["predictions"] != south["predictions"]
    assert client.post("/answer", data={"known": ["0"], "want": ["3"], "value-0": "0 1"}).status_code == 422


def test_z_forgets_the_site_and_keeps_the_biology() -> None:
    world = standardised(World.random(0), 1)
    fit, test = sample(world, 800, 2), sample(world, 400, 3)
    model = trained(fit, 5, covariate=True)
    told = decoded(model, fit, test, ["first", "second", "site"])
    assert max(told["site, near"], told["site, linear"]) < 0.62  # chance is 0.5
    assert told["biology, near"] > 0.9
    # The sites differ by 1.5, in standard deviations.
    assert max(moved(model, world, test, site) for site in (0, 1)) < 0.25
    told = decoded(trained(fit, 2, covariate=False), fit, test, ["first", "second"])
    assert min(told["site, near"], told["site, linear"]) > 0.9


WRONG = {
    "sites.yaml:4: modalities.x.role: the kind image cannot be": "x: {kind: image, size: 8, role: covariate}",
    "modalities.x.role: the kind tokens": "x: {kind: tokens, alphabet: ab, max_length: 2, role: covariate}",
    "sites.yaml:4: modalities.x.role: the kind counts cannot": "x: {kind: counts, size: 2, role: covariate}",
    "sites.yaml:4: modalities.x.weight: a covariate has no likelihood": "x: {kind: bit, role: covariate, weight: 2}",
    "sites.yaml:4: modalities.x.role:": "x: {kind: bit, role: condition}",
}


@pytest.mark.parametrize("message", WRONG)
def test_modalities_that_cannot_be_covariates_are_refused(message: str, tmp_path: Path) -> None:
    lines = ["data: {path: data}", "modalities:", "  y: {kind: bit}", f"  {WRONG[message]}"]
    (tmp_path / "sites.yaml").write_text("\n".join(lines))
    done = here("validate", "sites.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective={name: jmvae}", "the objective jmvae has networks of its own, which cannot see a covariate"),
        ("objective={name: telbo, first_stage_epochs: 1}", "the objective telbo"),
        ("data.weak={groups: [[x, site]]}", "'site' is a covariate, which is neither hidden nor guessed"),
        ("train.self_training={modalities: [site]}", "'site' is a covariate"),
        ("modalities={site: {kind: bit, role: covariate}}", "all of them are covariates"),
    ],
)
def test_recipes_that_cannot_be_conditioned_are_refused(change: str, message: str, work: Path) -> None:
    if change.startswith("modalities"):
        (work / "alone.yaml").write_text("data: {path: data}\nmodalities: {site: {kind: bit, role: covariate}}\n")
        done = here("validate", "alone.yaml", cwd=work)
    else:
        done = here("validate", "sites.yaml", "--set", change, cwd=work)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_model_without_covariates_says_so(tmp_path: Path) -> None:
    recipe = modalkit.Recipe(modalities={"x": modalkit.schema("bit")}, model={"latent_dim": 2}, train={"epochs": 1})
    model = modalkit.train(recipe, {"x": torch.arange(40) % 2 == 0}, progress=False)
    assert model.covariates == {}
    with pytest.raises(InputError, match="as_if: this model has no covariates"):
        model.infer({"x": 1}, ["x"], as_if={"site": "north"})
