"""The tutorials do what they say: everything that they show is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from support.documents import follow

SMALLER = {
    "modalkit train quickstart": [
        *("--set", "data.build.0.count=60", "--set", "data.build.0.workers=1", "--set", "data.build.1.workers=1"),
        *("--set", "train.epochs=2"),
    ],
    "modalkit train patients.yaml": ["--set", "train.max_steps=400"],
    "modalkit train wind.yaml": ["--set", "train.epochs=12"],
    "modalkit train circle.yaml": ["--set", "train.epochs=6"],
}
"""What makes the default run short; the slow one does exactly what the reader does."""


@pytest.fixture(params=["small", pytest.param("whole", marks=pytest.mark.slow)])
def smaller(request: pytest.FixtureRequest) -> Any:
    return SMALLER if request.param == "small" else {}


def test_faces(tmp_path: Path, smaller: Any) -> None:
    names = follow("tutorials/faces.md", tmp_path, smaller)
    assert names["coloured"].shape == (32, 32, 3) and names["coloured"].dtype == np.uint8
    for name in ("image-mean", "image-7", "edges-mean", "sheet"):
        assert (tmp_path / f"coloured/{name}.png").is_file()
    assert (tmp_path / "runs/quickstart/pictures/final.png").is_file()
    written = np.asarray(Image.open(tmp_path / "coloured/image-mean.png")).astype(int)
    assert written.ndim == 3 and np.abs(written[..., 0] - written[..., 2]).max() > 20  # it has colours


def test_table(tmp_path: Path, smaller: Any) -> None:
    names = follow("tutorials/table.md", tmp_path, smaller)
    for name, (ours, of_the_mean) in names["errors"].items():
        assert ours < 0.7 * of_the_mean, name
    assert names["right"].mean() > names["often"] + 0.2


@pytest.mark.slow
def test_pooled(tmp_path: Path) -> None:
    names = follow("tutorials/pooled.md", tmp_path)
    assert all(
        low < true < high for low, true, high in zip(names["low"][1:], names["truth"], names["high"][1:], strict=True)
    )
    assert (names["widths"] < 0.9).all()


@pytest.mark.slow
def test_captions(tmp_path: Path) -> None:
    names = follow("tutorials/captions.md", tmp_path)
    assert names["from_picture"] >= 0.95 and names["often"] < 0.1
    heard = names["by_sound"]
    assert min(heard["size"], heard["shape"]) > 0.9
    assert max(names["by_caption"], names["by_both"]) < 0.7 * names["of_the_mean"]
    painted = np.asarray(Image.open(tmp_path / "triangle.png")).astype(int)
    yellow = painted[..., :2].min(2) - painted[..., 2]
    assert yellow[:, :120].max() > 100 > 50 > yellow[:, 190:].max()
    wave, rate = soundfile.read(tmp_path / "triangle.wav")
    assert (len(wave), rate) == (2000, 8000) and 0.05 < np.abs(wave).max() <= 1


def test_modality(tmp_path: Path, smaller: Any) -> None:
    names = follow("tutorials/modality.md", tmp_path, smaller)
    assert (tmp_path / "wind-speed/wind_speed_kind.py").is_file()
    east, west = names["found"]["speed"].value.flatten().tolist()
    assert east > 6 and west < 4


def test_objective(tmp_path: Path, smaller: Any) -> None:
    names = follow("tutorials/objective.md", tmp_path, smaller)
    assert "elbo/without:position" in (tmp_path / "runs/circle/metrics.jsonl").read_text()
    off = names["found"]["position"].value - torch.tensor([[0.6, 0.8], [0.6, -0.8]])
    assert off.norm(dim=1).max() < 0.4
