"""Every command on a run whose experts have a precision matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from starlette.testclient import TestClient
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.playground.app import make_app

CORRELATED = ("--set", "model.experts=low_rank", "--set", "model.rank=3")
PLAIN = "--set", "modalities.image.network={type: mlp, hidden: [16], decoder_hidden: [16]}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of four modalities, its recipe, and a run with experts of low rank."""
    folder = tmp_path_factory.mktemp("correlated")
    write_recipe(folder, write_circle(folder))
    done = here("train", "circle.yaml", "--out", "run", *CORRELATED, *PLAIN, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def succeed(*arguments: object, cwd: Path) -> str:
    done = here(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embed_writes_the_scale_of_each_dimension_alone(work: Path) -> None:
    succeed("embed", "run", "--out", "z.parquet", cwd=work)
    table = parquet.read_table(work / "z.parquet").to_pydict()
    model, dataset = modalkit.load(work / "run"), modalkit.Dataset(work / "circle")
    found = model.embed(dataset[torch.arange(len(dataset))])
    given = dataset.present
    for row in range(5):
        batch = dataset[torch.tensor([row])]
        posterior = model.model.posterior(model.model.observed(batch), given[row : row + 1], given[None, row : row + 1])
        torch.testing.assert_close(found.scale[row], posterior.variance[0, 0].sqrt().detach())  # type: ignore[union-attr]
    scales = torch.tensor([table[f"scale_{i}"] for i in range(4)]).T
    torch.testing.assert_close(scales.float(), found.scale, rtol=1e-5, atol=1e-6)


def test_evaluate_estimates_likelihoods(work: Path) -> None:
    said = succeed("evaluate", "run", "--targets", "class", "--given", "position", "--particles", "50", cwd=work)
    assert "log p(class | position)" in said


def test_translate_impute_and_sample(work: Path) -> None:
    said = succeed("translate", "run", "--given", "position=1 0", "--want", "class", "--out", "one", cwd=work)
    assert "class" in said
    succeed("impute", "run", "--out", "filled", cwd=work)
    assert bool(modalkit.Dataset(work / "filled").present.all())
    succeed("sample", "run", "-n", "3", "--want", "position", "--out", "drawn", cwd=work)


def test_the_report_says_that_dimensions_are_correlated(work: Path) -> None:
    succeed("report", "run", "--out", "report.html", cwd=work)
    page = (work / "report.html").read_text()
    assert "KL per latent dimension" in page and "Dimensions are correlated in this run" in page


def test_the_playground_answers(work: Path) -> None:
    model = modalkit.load(work / "run")
    client = TestClient(make_app(model), base_url="http://localhost")
    assert client.get("/").status_code == 200
    asked = {"known": ["1"], "want": ["2", "3"], "value-1": "1 0"}
    answer = client.post("/answer", data=asked, files={"none": b""})
    assert answer.status_code == 200, answer.text


def test_an_export_loads_and_its_graph_gives_the_same_answers(work: Path) -> None:
    given = "position,class"
    succeed("export", "run", "shared", "--onnx", "--given", given, "--want", "image", cwd=work)
    one, two = modalkit.load(work / "run"), modalkit.load(work / "shared")
    asked = {"position": [1.0, 0.0]}
    assert torch.equal(one.embed(asked).loc, two.embed(asked).loc)
    (path,) = (work / "shared" / "onnx").iterdir()  # the command compares it with the library before it keeps it
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {"given_position": np.array([[1, 0]], np.float32), "given_class": np.array([1])}
    _, loc, scale = session.run(None, inputs)
    found = one.embed({"position": [1.0, 0.0], "class": 1})
    np.testing.assert_allclose(loc, found.loc, atol=1e-4)
    np.testing.assert_allclose(scale, found.scale, atol=1e-4)


@pytest.mark.parametrize("experts", ["low_rank", "full"])
def test_mixed_precision_goes_on_bit_for_bit(work: Path, experts: str) -> None:
    settings = ["--precision", "bf16-mixed", "--set", f"model.experts={experts}", "--set", "train.pictures_every=0"]
    for name, steps in (("mixed", 4), ("mixed", 7), ("unbroken", 7)):
        succeed(
            "train",
            "circle.yaml",
            "--out",
            f"{name}-{experts}",
            *settings,
            "--set",
            f"train.max_steps={steps}",
            cwd=work,
        )
    a, b = (
        load_file(work / f"{name}-{experts}" / "checkpoints" / "last.safetensors") for name in ("mixed", "unbroken")
    )
    assert {v.dtype for v in a.values() if v.is_floating_point()} == {torch.float32}
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    log = [json.loads(line) for line in (work / f"mixed-{experts}" / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(line["elbo"]) < 1e4 for line in log)
