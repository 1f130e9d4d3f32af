"""The builder of captioned shapes: pictures show what captions and attributes say, at every difficulty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modalkit_tools.captioned_shapes import COLOURS, make_schemas
from support.command_line import refused
from support.toys import here

from modalkit.data import Dataset
from modalkit.pictures import show

FEW = ("--train", 24, "--valid", 6, "--test", 6, "--size", 24, "--shard-rows", 16)
SHAPES = {0: "circle", 2: "triangle", 4: "square"}
"""By how many corners of a square around it are inside."""


def build(folder: Path, name: str, *options: object) -> Path:
    done = here("build-dataset", "captioned-shapes", "--out", name, *FEW, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / name


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [out / "manifest.json", *(out / "shards").iterdir()]}


def seen(picture: Any, geometry: Any) -> tuple[str, str]:
    """Return the colour and the kind of a shape, from the pixels at its centre and near its corners."""
    x, y, radius = geometry.tolist()
    pixels = picture.numpy().transpose(1, 2, 0) / 255  # (size, size, 3)
    size, dark = len(pixels), np.median(pixels[0], axis=0)
    colour = pixels[int(y * size), int(x * size)]
    corners = [(y + down * radius, x + right * radius) for down in (-0.74, 0.74) for right in (-0.78, 0.78)]
    near = [pixels[int(y * size), int(x * size)] for y, x in corners]
    inside = sum(float(np.abs(one - colour).sum()) < float(np.abs(one - dark).sum()) for one in near)
    return min(COLOURS, key=lambda one: float(np.abs(colour - COLOURS[one]).sum())), SHAPES[inside]


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_pictures_show_what_captions_and_attributes_say(tmp_path: Path, difficulty: int) -> None:
    data = Dataset(build(tmp_path, "shapes", "--difficulty", difficulty, "--size", 160, "--train", 12))
    values, schemas = data[data.rows("train")].values, make_schemas(difficulty, 160)
    words = {}
    for name, value in values.items():
        if name == "caption" or schemas[name].kind == "label":
            words[name] = [show(schemas[name], one) for one in value]
    for row, picture in enumerate(values["picture"]):
        said = {name: one[row] for name, one in words.items()}
        if difficulty == 3:
            parts = [" ".join(said[f"{s}_{name}"] for name in ("size", "colour", "shape")) for s in ("left", "right")]
            assert said["caption"] == " left of ".join(parts)
            for before in ("left_", "right_"):
                assert seen(picture, values[f"{before}geometry"][row]) == (
                    said[f"{before}colour"],
                    said[f"{before}shape"],
                )
                assert (said[f"{before}size"] == "large") == (values[f"{before}geometry"][row, 2] > 0.15)
            continue
        names = ("colour", "shape") if difficulty == 1 else ("size", "colour", "shape", "side")
        assert said["caption"] == " ".join(said[name] for name in names)
        geometry = values["geometry"][row]
        assert seen(picture, geometry) == (said["colour"], said["shape"])
        if difficulty == 2:
            assert (said["side"] == "right", said["size"] == "large") == (geometry[0] > 0.5, geometry[2] > 0.2)
    assert len(set(words["caption"])) > 6


def test_more_rows_leave_the_others_as_they_are(tmp_path: Path) -> None:
    few, more = (Dataset(build(tmp_path, f"rows{n}", "--train", n, "--shard-rows", 50)) for n in (24, 40))
    other = Dataset(build(tmp_path, "other", "--seed", 1))
    for split in ("train", "valid", "test"):
        here_, there = (data[data.rows(split)[:6]] for data in (few, more))
        assert all(bool((here_.values[name] == there.values[name]).all()) for name in few.names)
        elsewhere = other[other.rows(split)[:6]]
        assert not bool((here_.values["picture"] == elsewhere.values["picture"]).all())


def test_a_build_that_was_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = build(tmp_path, "whole"), build(tmp_path, "broken")
    (broken / "manifest.json").unlink()
    (broken / "shards" / "00001.safetensors").unlink()
    manifest = json.loads((whole / "manifest.json").read_text())
    facts = {name: modality["facts"] for name, modality in manifest["modalities"].items()}
    (broken / "build.json").write_text(json.dumps({"builder": manifest["builder"], "shards": 3, "modalities": facts}))
    other = here("build-dataset", "captioned-shapes", "--out", "broken", *FEW, "--seed", 4, cwd=tmp_path)
    refused(other, "begun with other settings", "seed: 0 there, 4 now")
    build(tmp_path, "broken")
    assert everything(broken) == everything(whole)


def test_wrong_options_are_named(tmp_path: Path) -> None:
    for options, said in ((("--difficulty", 4), "--difficulty"), (("--size", 4), "--size")):
        done = here("build-dataset", "captioned-shapes", "--out", "no", *FEW, *options, cwd=tmp_path)
        refused(done, said)
    assert not (tmp_path / "no").exists()
