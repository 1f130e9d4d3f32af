"""Weights carry a digest: damage is named with the file, and files without a digest still load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_model
from support.command_line import refused
from support.strangers import recipe_text, shared
from support.toys import here
from torch import nn

import modalkit
from modalkit.errors import InputError
from modalkit.model import assemble
from modalkit.recipe import load_recipe
from modalkit.runs.checkpoint import is_refit, load_weights, save_weights


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoints/best.safetensors"])
def test_a_flipped_bit_is_not_used(tmp_path: Path, file: str) -> None:
    run = shared(tmp_path / "run", recipe_text())
    (run / "checkpoints").mkdir()
    path = (run / "model.safetensors").rename(run / file)
    command = ("translate", run, "--given", "b=1,2", "-o", "out")
    assert here(*command, cwd=tmp_path).returncode == 0
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    refused(here(*command, cwd=tmp_path), f"{path}: these weights are damaged")
    with pytest.raises(InputError, match="these weights are damaged"):
        modalkit.load(run)
    refused(here("export", run, "shared", cwd=tmp_path), "these weights are damaged")


def test_an_exported_model_has_the_digest(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", recipe_text())
    assert here("export", run, "shared", cwd=tmp_path).returncode == 0
    path = tmp_path / "shared/model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"shape":[4,2]', b'"shape":[2,4]', 1))
    refused(here("sample", "shared", "-o", "out", cwd=tmp_path), f"{Path('shared/model.safetensors')}: these weights")


def test_a_run_of_an_earlier_version_loads(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", recipe_text())
    answer = modalkit.load(run).embed({"b": [1.0, 2.0]})
    model = assemble(load_recipe(run / "recipe.yaml"))
    load_weights(run / "model.safetensors", model)
    save_model(model, str(run / "model.safetensors"))
    assert b"sha256" not in (run / "model.safetensors").read_bytes()
    assert torch.equal(modalkit.load(run).embed({"b": [1.0, 2.0]}).loc, answer.loc)
    save_model(model, str(run / "model.safetensors"), {"fit": "refit"})
    assert is_refit(run / "model.safetensors") and modalkit.load(run)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, nn.Linear(3, 2), refit=True)
    return path


@given(data=st.data())
def test_every_flipped_bit_is_found(weights: Path, data: st.DataObject) -> None:
    content = bytearray(weights.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    other = weights.with_name("damaged.safetensors")
    other.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.safetensors: "):
        load_weights(other, nn.Linear(3, 2))


@given(cut=st.integers(0, 200))
def test_every_cut_is_found(weights: Path, cut: int) -> None:
    other = weights.with_name("cut.safetensors")
    other.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"cut\.safetensors: "):
        load_weights(other, nn.Linear(3, 2))


def test_equal_weights_make_equal_files(weights: Path, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    load_weights(weights, model)
    for number in range(4):
        save_weights(tmp_path / f"{number}.safetensors", model, refit=True)
        assert (tmp_path / f"{number}.safetensors").read_bytes() == weights.read_bytes()
    assert is_refit(weights)
    shutil.copyfile(weights, tmp_path / "copied.safetensors")
    load_weights(tmp_path / "copied.safetensors", model)
