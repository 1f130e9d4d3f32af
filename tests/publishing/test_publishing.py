"""A trained model as a folder to share: it answers as it did, its graphs say the same, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.errors import RunError
from modalkit.inference import TrainedModel
from modalkit.model import assemble
from modalkit.publishing import graph
from modalkit.recipe.loading import load_recipe
from modalkit.runs.checkpoint import save_weights


def untrained(folder: Path, recipe: str) -> Path:
    """Return a run of a recipe, as trained as its first weights."""
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe)
    save_weights(run / "checkpoints" / "best.safetensors", assemble(load_recipe(run / "recipe.yaml", trust=True)))
    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publishing")
    untrained(folder, write_recipe(folder, write_circle(folder)).read_text())
    return folder


def test_an_export_answers_the_same_to_the_bit_without_the_dataset(work: Path, tmp_path: Path) -> None:
    given = {"position": torch.randn(5, 2), "class": [0, 1, 2, None, 0]}
    before = modalkit.load(work / "run").infer(given, samples=3)
    done = here("export", work / "run", tmp_path / "shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {Path(line).name for line in done.stdout.splitlines()} == {"README.md", "recipe.yaml", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]  # nothing half-made is left beside it
    shutil.move(work / "circle", work / "elsewhere")
    try:
        after = modalkit.load(tmp_path / "shared").infer(given, samples=3)
        asked = here("sample", tmp_path / "shared", "-o", "drawn", cwd=tmp_path)
    finally:
        shutil.move(work / "elsewhere", work / "circle")
    assert asked.returncode == 0
    assert torch.equal(before.posterior.loc, after.posterior.loc) and set(before) == set(after)
    for name, one in before.items():
        assert torch.equal(one.value, after[name].value) and torch.equal(one.samples, after[name].samples)
    again = here("export", tmp_path / "shared", tmp_path / "twice", cwd=tmp_path)  # an export is a run like another
    assert again.returncode == 0
    assert (tmp_path / "twice" / "recipe.yaml").read_text() == (tmp_path / "shared" / "recipe.yaml").read_text()


def test_the_folder_names_nobodys_paths(work: Path, tmp_path: Path) -> None:
    assert here("export", work / "run", tmp_path / "shared", cwd=tmp_path).returncode == 0
    for name in ("README.md", "recipe.yaml"):
        assert str(work) not in (tmp_path / "shared" / name).read_text()


def test_the_card_says_what_the_run_knows(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "run", run := tmp_path / "circles")
    row = {"given": "class", "want": "image", "rows": 7, "log_px": -0.25, "margin": None, "standard_error": 0.5}
    (run / "translations.json").write_text(json.dumps([row]))
    likelihood = {"log p(class)": {"rows": 9, "log_p": [-1.25, 0.5]}}
    (run / "evaluation.json").write_text(json.dumps({"log_likelihoods": likelihood}))
    assert here("export", run, tmp_path / "shared", cwd=tmp_path).returncode == 0
    said = (tmp_path / "shared" / "README.md").read_text()
    assert (
        said.startswith("---\nlibrary_name: modalkit\n") and "# circles\n\nA point on a circle, seen four ways" in said
    )
    assert "120 rows" in said and "| class | image | 7 | -0.25 |  | 0.5 |" in said and "-1.25" in said
    model = modalkit.load(run)
    assert f"{sum(p.numel() for p in model.model.parameters()):,}" in said and model.weights in said
    assert said.count("TODO") >= 3  # what only its author can say


def test_nothing_is_overwritten_or_half_written(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in ("mine", "file"):
        done = here("export", work / "run", out, cwd=tmp_path)
        assert done.returncode == 2 and f"{out}: exists already" in done.stderr
    monkeypatch.setattr("modalkit.publishing.folder.card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    done = here("export", work / "run", "new", cwd=tmp_path)
    assert done.returncode == 1 and "new: cannot be written: disk full" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file"}


def test_plugins_and_own_networks_travel_with_the_model(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/nets.py").write_text(
        "from torch import nn\n"
        "def enc(schema): return nn.Linear(schema.size, 3)\n"
        "def dec(schema, inputs): return nn.Sequential(nn.Linear(inputs, 4), "
        "nn.Unflatten(1, (2, 2)))\n"
    )
    net = f"{tmp_path}/run/nets.py"
    run = untrained(
        tmp_path,
        "data: {path: data/x}\nmodalities:\n"
        f"  a: {{kind: vector, size: 2, network: {{type: custom, encoder: '{net}:enc', decoder: '{net}:dec'}}}}\n"
        "  b: {kind: vector, size: 2}\nmodel: {latent_dim: 2}\n",
    )
    assert here("export", run, tmp_path / "shared", cwd=tmp_path).returncode == 0
    expected = modalkit.load(run).embed({"a": [1.0, 2.0]})
    (tmp_path / "run/nets.py").unlink()
    moved = (tmp_path / "shared").rename(tmp_path / "moved")
    assert (moved / "plugins" / "nets.py").is_file()
    assert torch.equal(modalkit.load(moved, trust=True).embed({"a": [1.0, 2.0]}).loc, expected.loc)


# Graphs


def test_a_graph_of_a_picture_with_a_learned_scale_given_standardised_numbers(tmp_path: Path) -> None:
    dense = "network: {type: mlp, hidden: [8], decoder_hidden: [8]}"
    run = untrained(
        tmp_path,
        "data: {path: data/x}\nmodalities:\n"
        f"  image: {{kind: image, size: 6, likelihood: discretized_logistic, scale: shared, {dense}}}\n"
        f"  at: {{kind: vector, size: 2, likelihood: laplace, scale: per_dimension, {dense},\n"
        "    standardize: {loc: [100, -3], scale: [20, 0.1]}}\n"
        "model: {latent_dim: 2}\n",
    )
    done = here("export", run, "shared", "--onnx", "--given", "at", "--want", "image", cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # it compares the graph's results with the library's


@pytest.mark.parametrize(("given", "want"), [("at", "level"), ("level", "at")])
def test_a_graph_of_ordered_levels_takes_any_number_of_rows(tmp_path: Path, given: str, want: str) -> None:
    dense = "network: {type: mlp, hidden: [8], decoder_hidden: [8]}"
    run = untrained(
        tmp_path,
        f"data: {{path: x}}\nmodalities:\n  at: {{kind: vector, size: 2, {dense}}}\n"
        f"  level: {{kind: ordinal, classes: 4, {dense}}}\nmodel: {{latent_dim: 2}}\n",
    )
    done = here("export", run, "shared", "--onnx", "--given", given, "--want", want, cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # it compares the graph's results on 1, 2 and 7 rows with the library's


@pytest.mark.parametrize(("given", "want"), [("image,class", "image"), ("position", "class")])
def test_a_graph_says_what_the_library_says(work: Path, tmp_path: Path, given: str, want: str) -> None:
    done = here("export", work / "run", "shared", "--onnx", "--given", given, "--want", want, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "shared" / "onnx").iterdir()
    assert (
        file.name == f"{given.replace(',', '-')}-to-{want}.onnx"
        and file.name in (file.parents[1] / "README.md").read_text()
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [f"given_{name}" for name in given.split(",")]
    model = modalkit.load(work / "run")
    values: dict[str, Any] = {
        "image": torch.rand(4, 1, 12, 12).mul(255).round() / 255,
        "class": torch.tensor([0, 2, 1, 1]),
        "position": torch.randn(4, 2),
        "counts": torch.randint(9, (4, 2)),
    }
    values = {name: values[name] for name in given.split(",")}
    found = session.run(None, {f"given_{n}": v.numpy() for n, v in values.items()})
    expected = model.embed(values)
    assert np.allclose(found[1], expected.loc, atol=1e-5) and np.allclose(found[2], expected.scale, atol=1e-5)
    decoded = model.decode(expected.loc, [want])[want]
    assert np.allclose(found[0], decoded.value if decoded.probabilities is None else decoded.probabilities, atol=1e-5)


def test_a_graph_that_differs_is_not_kept(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = graph.product_of_experts

    def wrong(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **options | {"prior_expert": False})

    monkeypatch.setattr(graph, "product_of_experts", wrong)
    done = here("export", work / "run", "shared", "--onnx", "--given", "counts", "--want", "position", cwd=tmp_path)
    assert done.returncode == 1 and "differs from the library's" in done.stderr
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "no want": (("--onnx", "--given", "class"), "go together"),
    "no onnx": (("--given", "class", "--want", "image"), "go together"),
    "given": (("--onnx", "--given", "clas", "--want", "image"), "did you mean 'class'"),
    "want": (("--onnx", "--given", "class", "--want", "imgae"), "did you mean 'image'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_graph_can_be_made_of_is_said(work: Path, tmp_path: Path, case: str) -> None:
    options, message = REFUSED[case]
    done = here("export", work / "run", "shared", *options, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "shared").exists()


def test_other_posteriors_are_no_graphs(tmp_path: Path) -> None:
    run = untrained(
        tmp_path,
        "data: {path: x}\nmodalities:\n  a: {kind: vector, size: 2}\n  b: {kind: vector, size: 2}\n"
        "model: {latent_dim: 2}\nobjective: {name: mmvae}\n",
    )
    done = here("export", run, "shared", "--onnx", "--given", "a", "--want", "b", cwd=tmp_path)
    assert done.returncode == 2 and "mmvae" in done.stderr and not (tmp_path / "shared").exists()


# The Hub


def test_pushing_needs_the_client(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = here("export", work / "run", "shared", "--push", "me/circles", cwd=tmp_path)
    assert done.returncode == 2 and "pip install huggingface_hub" in done.stderr
    assert isinstance(modalkit.load(tmp_path / "shared"), TrainedModel)  # which is complete all the same


def test_pushing_uploads_the_folder(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class HfApi:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            calls.append((repository, private, exist_ok))

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            if repo_id == "me/none":
                raise RunError("no network")

    client = ModuleType("huggingface_hub")
    client.HfApi = HfApi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    done = here("export", work / "run", tmp_path / "shared", "--push", "me/circles", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("https://huggingface.co/me/circles\n")
    assert calls == [("me/circles", True, True), ("me/circles", ["README.md", "model.safetensors", "recipe.yaml"])]
    failed = here("export", work / "run", tmp_path / "again", "--push", "me/none", cwd=tmp_path)
    assert failed.returncode == 1 and "no network" in failed.stderr and "hf upload me/none" in failed.stderr
