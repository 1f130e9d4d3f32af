"""Augmentation: where pixels go, that a row's pictures go together, and that only training rows do."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.command_line import refused
from support.toys import here, write_circle, write_recipe
from torch import Tensor

from modalkit.data import Batch, Dataset
from modalkit.data.augment import AugmentSettings, sample_maps, warp
from modalkit.recipe.loading import load_recipe
from modalkit.registry import schema
from modalkit.training.trainer import Trainer

SOME = ["data.augment.shift=0.2", "data.augment.rotate=30", "data.augment.scale=0.2", "data.augment.flip=true"]


def picture(height: int, width: int, rows: int = 1) -> Tensor:
    return torch.randint(256, (rows, 1, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def moved(stored: Tensor, *entries: float) -> Tensor:
    """Move pictures by one map, given row by row."""
    maps = torch.tensor(entries, dtype=torch.float32).reshape(1, 2, 3).expand(len(stored), 2, 3)
    return schema("image", size=list(stored.shape[2:]), channels=1).warp(stored, maps)


def test_pixels_come_from_where_the_map_says() -> None:
    x = picture(6, 8)
    assert torch.equal(moved(x, 1, 0, 0, 0, 1, 0), x)
    assert torch.equal(moved(x, -1, 0, 0, 0, 1, 0), x.flip(-1))
    assert torch.equal(moved(x, -1, 0, 0, 0, -1, 0), x.flip(-1, -2))
    # A pixel is 2/8 wide and 2/6 high; from outside comes the border.
    assert torch.equal(moved(x, 1, 0, 2 * 2 / 8, 0, 1, 0), torch.cat([x[..., 2:], x[..., -1:], x[..., -1:]], -1))
    assert torch.equal(moved(x, 1, 0, 0, 0, 1, -2 / 6), torch.cat([x[..., :1, :], x[..., :-1, :]], -2))


def test_turning_does_not_distort_a_picture_that_is_no_square() -> None:
    x = torch.zeros(1, 1, 20, 40, dtype=torch.uint8)
    x[..., 9:11, 13:27] = 200  # a bar, 14 wide and 2 high, in the middle
    turned = moved(x, 0, -1, 0, 1, 0, 0)
    expected = torch.zeros_like(x)
    expected[..., 3:17, 19:21] = 200
    assert torch.equal(turned, expected)


@settings(deadline=None, max_examples=30)
@given(
    st.builds(
        AugmentSettings, shift=st.floats(0, 0.9), rotate=st.floats(0, 180), scale=st.floats(0, 0.9), flip=st.booleans()
    ),
    st.integers(0, 9),
)
def test_maps_stay_within_their_bounds(augment: AugmentSettings, seed: int) -> None:
    shift, rotate, scale, flip = augment.shift, augment.rotate, augment.scale, augment.flip
    maps = sample_maps(augment, 40, torch.Generator().manual_seed(seed))
    linear, offset = maps[:, :, :2].double(), maps[:, :, 2]
    assert maps.shape == (40, 2, 3) and (offset.abs() <= 2 * shift + 1e-6).all()
    across, down = linear[:, :, 0].norm(dim=1), linear[:, :, 1].norm(dim=1)
    assert all(((s >= 1 - scale - 1e-5) & (s <= 1 + scale + 1e-5)).all() for s in (across, down))
    mirrored = linear.det() < 0
    assert mirrored.any() and not mirrored.all() if flip else not mirrored.any()
    cosine = linear[:, 1, 1] / down  # of the angle by which the vertical turns, which a mirror leaves alone
    assert (cosine >= math.cos(math.radians(rotate)) - 1e-5).all()


def test_the_pictures_of_a_row_move_alike_and_nothing_else_moves() -> None:
    names = {n: schema(n, size=12, **more) for n, more in {"image": {"channels": 1}, "edges": {}}.items()}
    names["label"] = schema("label", classes=3)
    x = picture(12, 12, rows=5)
    present = torch.ones(5, 3, dtype=torch.bool)
    present[1, 0] = False
    batch = Batch({"image": x, "edges": x, "label": torch.arange(5) % 3}, present)
    maps = sample_maps(AugmentSettings(rotate=90, shift=0.1), 5, torch.Generator().manual_seed(0))
    after = warp(batch, names, maps)
    here_, edges = after.values["image"], after.values["edges"]
    assert all(torch.equal(here_[i], edges[i]) and not torch.equal(here_[i], x[i]) for i in (0, 2, 3, 4))
    assert torch.equal(here_[1], x[1]), "what is absent is left as it is"
    assert torch.equal(after.values["label"], batch.values["label"]) and torch.equal(after.present, present)
    assert torch.equal(batch.values["image"], x), "the batch that was given is not changed"
    for i in range(5):  # a row moves as it would alone
        alone = warp(batch.part(slice(i, i + 1)), names, maps[i : i + 1])
        assert torch.equal(alone.values["edges"][0], edges[i])


def test_training_rows_move_anew_at_every_step_and_validation_rows_never(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, write_circle(tmp_path)), SOME)
    trainer = Trainer(recipe, tmp_path / "run")
    rows = trainer.data.train[:8]
    stored = Dataset(tmp_path / "circle")[rows].values
    first, again, later = (trainer.prepare(rows, "train", step, 1.0).batch.values for step in (0, 0, 1))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], later["image"]) and not torch.equal(first["image"], stored["image"])
    assert torch.equal(first["position"], stored["position"])
    valid = trainer.prepare(trainer.data.valid, "valid", 0, 1.0).batch.values["image"]
    assert torch.equal(valid, Dataset(tmp_path / "circle")[trainer.data.valid].values["image"])


def test_a_run_that_was_stopped_goes_on_with_the_same_moves(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_circle(tmp_path))
    change = [part for setting in [*SOME, "train.epochs=2"] for part in ("--set", setting)]
    for out, stops in (("whole", [[]]), ("halves", [["--set", "train.max_steps=4"], []])):
        for stop in stops:
            done = here("train", "circle.yaml", "--out", out, *change, *stop, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    whole, halves = (load_file(tmp_path / out / "checkpoints" / "last.safetensors") for out in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


WRONG = {
    "data.augment.shift=1.5": ("--set data.augment.shift=1.5",),
    "data.augment.turn=3": ("--set data.augment.turn=3", "turn"),
    "data.augment.rotate=10": ("data.augment: none of the modalities has pictures to move",),
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_cannot_be_done_is_refused(tmp_path: Path, setting: str) -> None:
    write_recipe(tmp_path, write_circle(tmp_path, 20))
    gone = [] if "augment.rotate" not in setting else ["--set", "modalities.image=null"]
    refused(here("train", "circle.yaml", "--set", setting, *gone, cwd=tmp_path), *WRONG[setting])
