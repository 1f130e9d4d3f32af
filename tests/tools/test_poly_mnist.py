"""The builder of views of a digit: what its pictures are made of, and that they depend on what they should alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from modalkit_tools.mnist.poly_mnist import BACKGROUNDS
from modalkit_tools.mnist.small_digits import TRAIN, VALID, load_small
from support.command_line import refused
from support.toys import here

from modalkit.data import Dataset
from modalkit.util.picture_files import read_picture

pytest.importorskip("sklearn")
FEW = ("--digits", "sklearn", "--train", 24, "--valid", 6, "--test", 6, "--views", 3, "--shard-rows", 16)


def build(folder: Path, name: str, *options: object) -> Path:
    done = here("build-dataset", "poly-mnist", "--out", name, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 rows of three views; tests leave it as it is."""
    return build(tmp_path_factory.mktemp("poly"), "small", *FEW)


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [out / "manifest.json", *(out / "shards").iterdir()]}


def rows(out: Path, split: str, count: int | None = None) -> dict[str, torch.Tensor]:
    data = Dataset(out)
    values: dict[str, torch.Tensor] = data[data.rows(split)[:count]].values
    return values


def crops_with_border(background: Any, picture: Any) -> list[tuple[int, int]]:
    """Return where a crop of the background equals the picture in a corner of 4 x 4 pixels, which no digit reaches."""
    height, width = background.shape[:2]
    alike = (background[: height - 27, : width - 27] == picture[:, 0, 0]).all(2)
    corner = picture[:, :4, :4].transpose(1, 2, 0)
    return [(y, x) for y, x in np.argwhere(alike).tolist() if (background[y : y + 4, x : x + 4] == corner).all()]


def test_a_view_is_a_digit_of_the_label_and_split_on_a_crop_of_its_background(small: Path) -> None:
    digits, folder = load_small(), Path(skimage.__file__).parent / "data"
    pools = {"train": (0, TRAIN), "valid": (TRAIN, TRAIN + VALID), "test": (TRAIN + VALID, None)}
    shown: dict[int, set[int]] = {}
    for split, (start, stop) in pools.items():
        values = rows(small, split, 3)
        own = slice(start, stop)
        images, labels = digits.values["image"][own, 0], digits.values["label"][own]
        for view in range(3):
            background = np.asarray(read_picture(folder / BACKGROUNDS[view], "RGB"))
            for row, label in enumerate(values["label"].tolist()):
                picture = values[f"view{view}"][row].numpy()
                found = []
                for y, x in crops_with_border(background, picture):
                    crop = background[y : y + 28, x : x + 28].transpose(2, 0, 1).astype(float)
                    share = images[labels == label][:, None] / 255  # (digits, 1, 28, 28)
                    painted = (1 - share) * crop + share * (255 if crop.mean() < 128 else 0)
                    found += np.flatnonzero((np.abs(painted - picture) <= 0.51).all((1, 2, 3))).tolist()
                assert found, (split, view, row)
                shown.setdefault(row, set()).add(found[0])
    assert max(len(one) for one in shown.values()) > 3  # the views of a row show different pictures


def test_more_rows_and_views_leave_the_others_as_they_are(small: Path, tmp_path: Path) -> None:
    more = build(tmp_path, "more", *FEW, "--train", 30, "--views", 4)
    assert sorted(rows(more, "train")) == ["label", "view0", "view1", "view2", "view3"]
    for split in ("train", "valid", "test"):
        fewer = rows(small, split)
        for name, value in rows(more, split, len(fewer["label"])).items():
            assert name == "view3" or torch.equal(value, fewer[name])
    other = rows(build(tmp_path, "other", *FEW, "--seed", 1), "train")
    assert not torch.equal(other["view0"], rows(small, "train")["view0"])


def test_a_build_that_was_killed_ends_with_the_same_bytes(small: Path, tmp_path: Path) -> None:
    out = build(tmp_path, "again", *FEW)
    assert everything(out) == everything(small)
    manifest = json.loads((out / "manifest.json").read_text())
    facts = {name: modality["facts"] for name, modality in manifest["modalities"].items()}
    begun = {"builder": manifest["builder"], "shards": 3, "modalities": facts}
    (out / "build.json").write_text(json.dumps(begun))
    (out / "manifest.json").unlink()
    (out / "shards" / "00001.safetensors").unlink()
    other = here("build-dataset", "poly-mnist", "--out", "again", *FEW, "--seed", 4, cwd=tmp_path)
    refused(other, "begun with other settings", "seed: 0 there, 4 now")
    build(tmp_path, "again", *FEW)
    assert everything(out) == everything(small)


def test_without_mnists_files_scikit_learns_digits_are_taken_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODALKIT_DATA", raising=False)
    options = ("--train", 3, "--valid", 1, "--test", 1, "--views", 1)
    done = here("build-dataset", "poly-mnist", "--out", "poly", *options, cwd=tmp_path)
    assert done.returncode == 0 and "5 rows" in done.stdout, done.stderr
    assert "MNIST's files are not there, so the digits are scikit-learn's 1,797" in done.stderr
    for asked in (("--digits", "mnist"), ("--source", "nowhere")):
        refused(here("build-dataset", "poly-mnist", "--out", "no", *asked, cwd=tmp_path), "lacks MNIST's train-images")
    assert not (tmp_path / "no").exists()


def test_mnists_digits_are_preferred(real_data: Path, tmp_path: Path) -> None:
    options = ("--train", 200, "--valid", 1, "--test", 1, "--views", 1, "--source", real_data / "mnist")
    out = build(tmp_path, "poly", *options)
    assert '"digits": "mnist"' in (out / "manifest.json").read_text()
    assert set(rows(out, "train")["label"].tolist()) == set(range(10))


def test_a_background_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "skimage" / "__init__.py"))
    done = here("build-dataset", "poly-mnist", "--out", "poly", *FEW, cwd=tmp_path)
    refused(done, "skimage/data/coffee.png: is missing", "install scikit-image again")
