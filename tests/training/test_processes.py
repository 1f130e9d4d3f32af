"""Several processes train as one process does: the same global batches, the same weights, the same log."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.toys import here, write_circle

import modalkit

pytestmark = pytest.mark.slow  # test_training.py compares one training of two processes with that of one

RECIPE = """\
data: {path: DATA}
modalities:
  image: {kind: image, size: 12, channels: 1, binarize: true, network: {type: dcgan, widths: [4, 8], batch_norm: true}}
  position: {kind: vector, size: 2, network: {type: mlp, hidden: [8], decoder_hidden: [8], batch_norm: true}}
  class: {kind: label, classes: 3, network: {type: mlp, hidden: [8, 8], decoder_hidden: [8], batch_norm: true}}
  counts: {kind: counts, size: 2, network: {type: mlp, hidden: [8], decoder_hidden: [8]}}
model: {latent_dim: 4}
objective: OBJECTIVE
train: {epochs: 2, batch_size: 19, learning_rate: 0.003, accelerator: cpu, log_every: 1, pictures_every: 0,
        precision: 64, patience: 2}
"""
TWO = {"class": None, "counts": None}
NETWORKS = """\
from torch import nn

def encoder(schema):
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU())

def decoder(schema, latent_dim):
    layers = nn.Linear(latent_dim, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 4), nn.Unflatten(1, (2, 2))
    return nn.Sequential(*layers)
"""
TORCHS = "{type: custom, encoder: 'networks.py:encoder', decoder: 'networks.py:decoder'}"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # 96 rows in batches of 19: the last batch has one row, so one process has none. An entry in eight is missing.
    "missing": ("{name: mvae}", {}),
    # Most steps lack a modality on one process, many on both; then nothing of that modality may change.
    "rare": ("{name: mvae, warmup_epochs: 1}", {"data.weak.keep": 0.25, "train.batch_size": 9, "train.clip_norm": 5}),
    "present": (
        "{name: mvae, targets: present, k: 2}",
        {"data.weak.keep": 0.6, "train.batch_size": 7, "train.average": 0.9, "train.choose": "imputation"},
    ),
    # Decoders run twice, and each process has rows for any of the two calls or none.
    "given": (
        "{name: mvae, targets: present, decoder_gradients: given}",
        {"data.weak.keep": 0.4, "train.batch_size": 7},
    ),
    "few-pairs": (
        "{name: mvae}",
        {
            "data.weak.paired": 0.3,
            "data.augment.rotate": 20,
            "train.paired_share": 0.4,
            "train.self_training": "{modalities: [class], confidence: 0.4}",
            "train.schedule": "cosine",
        },
    ),
    "two-stages": ("{name: telbo, first_stage_epochs: 1}", {"data.weak.keep": 0.7}),
    "joint": ("{name: jmvae, hidden: 8}", {"data.path": "whole"}),
    "conditional": ("{name: cvae, target: image}", TWO),
    "mixture": ("{name: mmvae}", {"data.weak.keep": 0.5}),
    "draws": ("{name: mmvae, samples: 2, bound: dreg}", {"data.weak.keep": 0.5}),
    "weights-of-experts": ("{name: gpoe}", {"data.weak.keep": 0.5}),
    "pairs-of-experts": ("{name: mmvm, alpha: 0.2}", {"data.weak.keep": 0.5}),
    # A process without rows of a modality must encode none, or the other waits for its statistics forever.
    "mixture-experts": ("{name: mixture-mvae, components: 2}", {"data.weak.keep": 0.25, "train.batch_size": 9}),
    # Most steps lack a modality on one process, whose matrix then has no gradient there.
    "low-rank-experts": (
        "{name: mvae, k: 2}",
        {"model.experts": "low_rank", "data.weak.keep": 0.3, "train.batch_size": 7},
    ),
    "full-experts": ("{name: mvtcae}", {"model.experts": "full", "data.weak.keep": 0.5}),
    "refit": (
        "{name: mvae}",
        {"data.weak.keep": 0.5, "train.refit": "true", "train.average": 0.9, "train.choose": "imputation", **TWO},
    ),
    # torch's own batch normalisation, in networks of the user's.
    "torchs-batch-norm": ("{name: mvae}", {"data.weak.keep": 0.5, "modalities.position.network": TORCHS, **TWO}),
}
SCRIPT = """\
import sys
from pathlib import Path
from modalkit.recipe.loading import load_recipe
from modalkit.training import train
for file in sys.argv[1:]:
    train(load_recipe(Path(file), trust=True), Path(file).parent / f"{Path(file).stem}-two")
"""


def arguments(overrides: dict[str, Any]) -> list[str]:
    given = {key if "." in key else f"modalities.{key}": "null" if v is None else v for key, v in overrides.items()}
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, and the runs that two processes made of them under torchrun."""
    folder = tmp_path_factory.mktemp("processes")
    data = modalkit.Dataset(write_circle(folder))
    complete = data.present.all(1).nonzero().squeeze(1)
    values = {name: data[complete].values[name] for name in data.names}
    values["image"] = values["image"] / 255
    described = {
        "image": modalkit.schema("image", size=12, channels=1),
        "position": modalkit.schema("vector", size=2),
        "class": modalkit.schema("label", classes=3),
        "counts": modalkit.schema("counts", size=2),
    }
    modalkit.write_dataset(folder / "whole", described, values)
    from modalkit.recipe.loading import load_recipe

    (folder / "train.py").write_text(SCRIPT)
    (folder / "networks.py").write_text(NETWORKS)
    for name, (objective, overrides) in CASES.items():
        plain = folder / "plain.yaml"
        plain.write_text(RECIPE.replace("OBJECTIVE", objective).replace("DATA", str(folder / "circle")))
        given = arguments({k: folder / v if k == "data.path" else v for k, v in overrides.items()})
        (folder / f"{name}.yaml").write_text(load_recipe(plain, given[1::2]).to_yaml())
    done = torchrun(folder, "train.py", *(f"{name}.yaml" for name in CASES))
    assert done.returncode == 0, done.stderr
    return folder


def torchrun(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(work: Path, case: str) -> None:
    done = here("train", f"{case}.yaml", "--out", f"{case}-one", cwd=work)
    assert done.returncode == 0, done.stderr
    one, two = work / f"{case}-one", work / f"{case}-two"
    read = [[(run / "checkpoints" / f"{name}.safetensors") for name in ("last", "best")] for run in (one, two)]
    a, b = ({(path.stem, key): value for path in paths for key, value in load_file(path).items()} for paths in read)
    for key in a:
        # Rounding alone: a bias before batch normalisation has none but rounding for a gradient, which Adam scales up.
        torch.testing.assert_close(b[key], a[key], rtol=1e-6, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")
    x, y = (torch.load(run / "checkpoints" / "state.pt", weights_only=True) for run in (one, two))
    for index, state in x["optimizer"]["state"].items():  # a network that no row needed was left alone by Adam
        assert state["step"] == y["optimizer"]["state"][index]["step"]
    lines, others = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    )
    assert len(lines) == len(others)
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"split", "rows_per_second"}:
            assert math.isclose(line[name], other[name], rel_tol=1e-6, abs_tol=1e-8), name


def test_asked_to_stop_one_process_stops_all_and_one_process_goes_on(work: Path) -> None:
    plain, run = work / "missing.yaml", work / "stopped"
    long = ["--out", str(run), "--set", "train.epochs=1000", "--set", "train.patience=1000"]
    command = [sys.executable, "-m", "modalkit", "train", str(plain), "--devices", "2", *long]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # to the first alone
    _, words = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, words.decode()
    step = torch.load(run / "checkpoints" / "state.pt", weights_only=True)["progress"]["step"]
    done = here("train", plain, *long, "--set", f"train.max_steps={step + 2}", cwd=work)
    assert done.returncode == 0 and f"{step + 2} steps done" in done.stdout, done.stderr
