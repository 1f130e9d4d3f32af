"""A sampler of z fitted after training: completions of several modes, its file, and the commands that use it."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.linear import LINEAR, fill, linear_run, write_linear
from support.toys import here, write_circle, write_recipe
from torch import Tensor, nn

import modalkit
from modalkit.data import Dataset
from modalkit.distributions import CorrelatedGaussian, Gaussian
from modalkit.errors import InputError
from modalkit.inference import TrainedModel
from modalkit.inference.results import moments
from modalkit.inference.sampler import LatentSampler, SamplerSettings, shaped
from modalkit.inference.sampler_pairs import random_subsets
from modalkit.model import assemble
from modalkit.nn.patterns import Patterns
from modalkit.recipe import load_recipe
from modalkit.runs.checkpoint import save_weights

POSITIVE = 0.7
RECIPE = """\
data: {path: signs}
modalities:
  x: &number {kind: vector, size: 1, scale: 0.1, network: {type: mlp, hidden: [1], decoder_hidden: []}}
  size: *number
model: {latent_dim: 1}
"""


class Log(nn.Module):
    """The logarithm as an encoder."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Dataset]:
    """Numbers x, and their absolute values, which have the Gaussian q(z|size) about 0 with variance x^2 / (1 + x^2)."""
    folder = tmp_path_factory.mktemp("signs")
    g = torch.Generator().manual_seed(0)
    size = 0.5 + 1.5 * torch.rand(1000, 1, generator=g)
    x = torch.where(torch.rand(1000, 1, generator=g) < POSITIVE, size, -size)
    schema = modalkit.schema("vector", size=1)
    modalkit.write_dataset(folder / "signs", {"x": schema, "size": schema}, {"x": x, "size": size})
    (folder / "recipe.yaml").write_text(RECIPE.replace("signs", str(folder / "signs")))
    recipe = load_recipe(folder / "recipe.yaml")
    model = assemble(recipe)
    model.encoders["x"], model.encoders["size"] = nn.Identity(), Log()
    for name, weight, bias in (("x", [[1.0], [0.0]], [0.0, math.log(1e-3)]), ("size", [[0.0], [2.0]], [0.0, 0.0])):
        model.heads[name] = nn.Linear(1, 2)
        fill(model.heads[name], torch.tensor(weight), torch.tensor(bias))
    (decode,) = (part for part in model.decoders["x"].modules() if isinstance(part, nn.Linear))
    fill(decode, torch.ones(1, 1), torch.zeros(1))
    return TrainedModel(model.eval(), recipe, folder, "own"), Dataset(folder / "signs", ["x", "size"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of rows with gaps, as trained as its first weights, and a sampler fitted to it."""
    folder = tmp_path_factory.mktemp("sampler")
    recipe = write_recipe(folder, write_circle(folder, 60))
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(recipe.read_text())
    save_weights(folder / "run" / "checkpoints" / "best.safetensors", assemble(load_recipe(recipe)))
    done = here("fit-sampler", "run", "--steps", 3, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_given_the_size_both_signs_are_sampled(signs: tuple[TrainedModel, Dataset]) -> None:
    model, dataset = signs
    sizes = {"size": torch.linspace(0.6, 1.9, 100).unsqueeze(1)}
    plain = model.infer(sizes, ["x"], samples=10)["x"]
    model.fit_sampler(dataset, steps=200)
    found = model.infer(sizes, ["x"], samples=10)["x"]
    wrong, right = ((one.samples.abs() - sizes["size"]).abs().mean() for one in (plain, found))
    assert right < 0.5 * wrong
    assert float((found.samples > 0).double().mean()) == pytest.approx(POSITIVE, abs=0.1)
    assert float((plain.samples > 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(found.value, plain.value) and torch.equal(found.scale, plain.scale)
    free = model.sample(1000)["x"].value
    assert float((free > 0).double().mean()) == pytest.approx(POSITIVE, abs=0.1)
    filled = model.impute(dict.fromkeys(["size"], sizes["size"]) | {"x": [None] * 100}, sample=True)
    assert (filled.batch.values["x"].abs() - sizes["size"]).abs().mean() < 0.5 * wrong


def test_an_untrained_sampler_samples_from_the_posterior() -> None:
    """Of any posterior that is Gaussian: with the same noise, its samples are those of the posterior."""
    g = torch.Generator().manual_seed(0)
    root, given = torch.randn(1, 3, 3, generator=g), torch.tensor([[True, False]] * 2)
    loc, precision = torch.randn(1, 2, 3, generator=g), 1 + 3 * torch.rand(1, 2, 3, generator=g)
    matrix = root @ root.mT + torch.eye(3)
    correlated = CorrelatedGaussian.from_natural(loc, matrix, Patterns(torch.zeros(1, 2, dtype=torch.long)))
    sampler = LatentSampler(SamplerSettings(3, ("a", "b"), 8, 1, ""))
    for posterior in (Gaussian(loc, precision), correlated):
        normal = torch.randn(50, 1, 2, 3, generator=g)
        z = sampler.sample(moments(posterior), given, shaped(posterior, normal).squeeze(1))
        torch.testing.assert_close(z, posterior.rsample(normal).squeeze(1), atol=0.02, rtol=0)


def test_a_sampler_of_correlated_experts_is_fitted(tmp_path: Path) -> None:
    data = write_linear(tmp_path)
    dataset = Dataset(data, ["a", "b", "c"])
    dataset.split = torch.zeros_like(dataset.split)  # all rows train: a tenth of them is held out
    (tmp_path / "recipe.yaml").write_text(
        LINEAR.replace("DATA", str(data))
        .replace("OBJECTIVE", "{name: mvae}")
        .replace("2}\nobj", "2, experts: full}\nobj")
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    model = TrainedModel(assemble(recipe).eval(), recipe, tmp_path, "own")
    before = model.infer({"a": [0.1, 0.2]}, samples=2)
    model.fit_sampler(dataset, steps=2)
    after = model.infer({"a": [0.1, 0.2]}, samples=2)
    assert torch.equal(before["b"].value, after["b"].value)
    assert bool(after["b"].samples.isfinite().all()) and not torch.equal(before["b"].samples, after["b"].samples)


@pytest.mark.parametrize("objective", ["mvae", "jmvae", "bivcca", "mmvae"])
def test_only_subsets_with_a_posterior_are_learned_from(tmp_path: Path, objective: str) -> None:
    model = linear_run(tmp_path, f"{{name: {objective}}}").model
    present = torch.tensor([[True, True, True], [False, True, False]])
    chosen = random_subsets(model, present, 50, torch.Generator().manual_seed(0))
    assert chosen.shape == (50, 2, 3) and bool(model.allows(chosen).all()) and not bool((chosen & ~present).any())
    assert bool((~chosen.any(-1)).any()) and bool(chosen[:, 0, 0].any()) and bool(chosen[:, 1, 1].any())


def test_the_same_seed_gives_the_same_file(work: Path) -> None:
    before = (work / "run" / "sampler.safetensors").read_bytes()
    assert here("fit-sampler", "run", "--steps", 3, cwd=work).returncode == 0
    assert (work / "run" / "sampler.safetensors").read_bytes() == before


def test_python_fits_the_same_sampler_as_the_command(work: Path, tmp_path: Path) -> None:
    """From the run's dataset, from its path, and from the same with its modalities in another order."""
    shutil.copytree(work / "run", tmp_path / "run")
    file = tmp_path / "run" / "sampler.safetensors"
    expected = file.read_bytes()
    model = modalkit.load(tmp_path / "run")
    path = model.recipe.data.path
    names = modalkit.Dataset(path).names
    for data in (None, path, modalkit.Dataset(path, names[::-1])):
        file.unlink()
        model.fit_sampler(data, steps=3)
        assert file.read_bytes() == expected
    own = model.sample(2)["position"].value
    assert torch.equal(modalkit.load(tmp_path / "run").sample(2)["position"].value, own)


def test_a_model_of_a_table_is_fitted_to_the_table(tmp_path: Path) -> None:
    """The rows of a table are split as they were for the training, so a run's dataset gives the same sampler."""
    g = np.random.default_rng(0)
    size = g.normal(size=60)
    frame = pd.DataFrame({"weight": 70 + 9 * size, "height": 170 + 6 * size, "sex": np.where(size > 0, "m", "f")})
    frame = frame.mask(g.random(frame.shape) < 0.2)
    in_run = modalkit.train(data=frame, run=tmp_path / "run", epochs=1, progress=False)
    in_memory = modalkit.train(data=frame, epochs=1, progress=False)
    plain = in_memory.sample(3)["weight"].value
    in_run.fit_sampler(steps=3)
    in_memory.fit_sampler(frame, steps=3)
    own = in_memory.sample(3)["weight"].value
    assert torch.equal(own, in_run.sample(3)["weight"].value) and not torch.equal(own, plain)
    assert torch.equal(in_memory.sample(3, sampler=False)["weight"].value, plain)
    in_memory.save(tmp_path / "saved")
    for other in (modalkit.load(tmp_path / "saved"), modalkit.load(tmp_path / "run")):
        assert torch.equal(other.sample(3)["weight"].value, own)
        filled = other.impute(frame, sample=True)
        pd.testing.assert_frame_equal(filled, in_memory.impute(frame, sample=True))
        assert not filled.equals(in_memory.impute(frame, sample=True, sampler=False))


def test_a_sampler_of_the_last_weights_is_not_written_beside_the_best(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "run", tmp_path / "run")
    other = assemble(load_recipe(work / "circle.yaml"))
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    save_weights(tmp_path / "run" / "checkpoints" / "last.safetensors", other)
    before = (tmp_path / "run" / "sampler.safetensors").read_bytes()
    model = modalkit.load(tmp_path / "run", weights="last")
    model.fit_sampler(steps=1)
    assert model.sampler is not None
    assert (tmp_path / "run" / "sampler.safetensors").read_bytes() == before


def test_rows_that_no_sampler_can_be_fitted_to_are_refused(work: Path, tmp_path: Path) -> None:
    model = modalkit.load(work / "run")
    model.sampler = None
    points = {"position": torch.zeros(5, 2)}
    with pytest.raises(InputError, match=r"the given rows: has 1 training and 0 validation rows"):
        model.fit_sampler({"position": [0.0, 1.0]})
    with pytest.raises(InputError, match=r"no modality 'positon'.*position"):
        model.fit_sampler({"positon": points["position"]})
    with pytest.raises(InputError, match="split: 1 names given for 5 rows"):
        model.fit_sampler(points, split=["train"])
    with pytest.raises(InputError, match="a dataset has its splits"):
        model.fit_sampler(modalkit.Dataset(model.recipe.data.path), split={"train": 1.0})
    with pytest.raises(InputError, match="steps: 0 is too few"):
        model.fit_sampler(points, steps=0)
    with pytest.raises(InputError, match="nowhere"):
        model.fit_sampler(tmp_path / "nowhere")
    assert model.sampler is None
    kept = modalkit.train(data={"a": [0.1, 0.5, 2.5] * 9, "b": [0.3, 1.5, 9.5] * 9}, epochs=1, progress=False)
    with pytest.raises(InputError, match=r"rows that this model was trained on are not at .*: fit_sampler\(data\)"):
        kept.fit_sampler()


def test_commands_use_the_sampler_unless_asked_not_to(work: Path) -> None:
    model = modalkit.load(work / "run")
    plain, own = model.sample(3, sampler=False)["position"].value, model.sample(3)["position"].value
    model.sampler = None
    assert torch.equal(model.sample(3)["position"].value, plain) and not torch.equal(own, plain)
    for option, expected in (("", own), ("--prior", plain)):
        given = [one for one in ("sample", "run", "-n", 3, "-o", "drawn", option) if one]
        assert here(*given, cwd=work).returncode == 0
        drawn = json.loads((work / "drawn" / "answer.json").read_text())["drawn"]
        found = torch.tensor(drawn["position"]["samples"])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_an_export_and_a_copy_have_the_sampler(work: Path, tmp_path: Path) -> None:
    model = modalkit.load(work / "run")
    own = model.sample(2)["position"].value
    assert here("export", "run", tmp_path / "shared", cwd=work).returncode == 0
    model.save(tmp_path / "saved")
    for other in (
        modalkit.load(tmp_path / "shared"),
        modalkit.load(tmp_path / "saved"),
        pickle.loads(pickle.dumps(model)),
    ):
        assert torch.equal(other.sample(2)["position"].value, own)


def test_a_sampler_of_other_weights_is_not_used(work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(work / "run", tmp_path / "run")
    save_weights(
        tmp_path / "run" / "checkpoints" / "best.safetensors", assemble(load_recipe(work / "circle.yaml")).double()
    )
    assert modalkit.load(tmp_path / "run").sampler is None
    assert "other weights" in caplog.text and "modalkit fit-sampler" in caplog.text


def test_a_damaged_sampler_is_an_error(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "run", tmp_path / "run")
    file = tmp_path / "run" / "sampler.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"sampler cannot be read.*modalkit fit-sampler"):
        modalkit.load(tmp_path / "run")
    assert here("fit-sampler", "run", "--steps", 1, cwd=tmp_path).returncode == 0
    assert modalkit.load(tmp_path / "run").sampler is not None
