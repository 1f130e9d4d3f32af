"""Bits by the hundred: the builder, and what a thousand modalities make of a run folder."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from modalkit_tools.sample_bits import SampleBitsOptions, draw, factors
from support.toys import here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modalkit.data import Batch, Dataset
from modalkit.errors import InputError
from modalkit.recipe.loading import load_recipe
from modalkit.util.text import evenly_spaced, listed


def build(folder: Path, name: str, *options: object, code: int = 0) -> Path:
    done = here("build-dataset", "sample-bits", "--out", name, *options, cwd=folder)
    assert done.returncode == code, done.stderr
    return folder / name


FEW = ("--rows", 40, "--modalities", 7, "--shard-rows", 16, "--latent-dim", 2)


def test_a_build_that_was_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = build(tmp_path, "whole", *FEW), build(tmp_path, "broken", *FEW)
    (broken / "manifest.json").unlink()
    (broken / "shards" / "00001.safetensors").unlink()
    manifest = json.loads((whole / "manifest.json").read_text())
    facts = {name: modality["facts"] for name, modality in manifest["modalities"].items()}
    (broken / "build.json").write_text(json.dumps({"builder": manifest["builder"], "shards": 3, "modalities": facts}))
    build(tmp_path, "broken", *FEW)
    for file in sorted(whole.rglob("*")):
        if file.is_file():
            assert (broken / file.relative_to(whole)).read_bytes() == file.read_bytes(), file
    opened = Dataset(whole)
    assert opened.manifest.splits == {"train": 32, "valid": 4, "test": 4} and opened.names[-1] == "bit6"
    build(tmp_path, "whole", *FEW, "--seed", 1, code=2)


def test_a_bit_is_a_function_of_the_seed_its_row_and_its_number() -> None:
    few = SampleBitsOptions(rows=6, modalities=5, latent_dim=3, missing=0.3)
    many = SampleBitsOptions(rows=90, modalities=11, latent_dim=3, missing=0.6, shard_rows=9)
    one, other = draw(few, slice(2, 6)), draw(many, slice(0, 90))
    for name in one.values:
        assert np.array_equal(one.values[name], other.values[name][2:6])
        assert not (other.present[name][2:6] & ~one.present[name]).any()  # what is hidden stays hidden
    assert one.keys == ["2", "3", "4", "5"]


def test_bits_follow_the_model(tmp_path: Path) -> None:
    """First and second moments against quadrature over the latent, one dimension."""
    options = SampleBitsOptions(rows=20_000, modalities=4, latent_dim=1, missing=0.25)
    rows, (weights, biases) = draw(options, slice(0, 20_000)), factors(options)
    z = np.linspace(-8, 8, 4001)
    p = 1 / (1 + np.exp(-(z[:, None] * weights[:, 0] + biases)))  # (points, modalities)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    bits = np.stack(list(rows.values.values()), 1).astype(float)
    assert np.abs(bits.mean(0) - density @ p).max() < 5 * 0.5 / 20_000**0.5
    both = bits.T @ bits / 20_000
    expected = (density[:, None] * p).T @ p
    off = ~np.eye(4, dtype=bool)
    assert np.abs(both - expected)[off].max() < 5 * 0.5 / 20_000**0.5
    assert np.abs(np.stack(list(rows.present.values())).mean() - 0.75) < 5 * 0.433 / 80_000**0.5


@pytest.mark.parametrize("in_memory", [True, False])
def test_fetching_many_at_once_is_fetching_each(tmp_path: Path, in_memory: bool) -> None:
    path = build(tmp_path, "bits", *FEW)
    names = ["bit6", "bit0", "bit3"]
    opened, rows = Dataset(path, names, in_memory=in_memory), torch.tensor([39, 0, 17, 17])
    batch = opened[rows]
    assert list(batch.values) == names
    whole = draw(SampleBitsOptions(rows=40, modalities=7, shard_rows=16, latent_dim=2), slice(0, 40))
    for column, name in enumerate(names):
        present = whole.present[name][rows]
        assert np.array_equal(batch.values[name].numpy(), whole.values[name][rows] * present)
        assert np.array_equal(batch.present[:, column].numpy(), present)
        assert torch.equal(opened.values(name, rows), batch.values[name])
    mixed = Batch(batch.values | {"picture": torch.ones(4, 2)}, torch.ones(4, 4, dtype=torch.bool))
    for device in ("cpu", "meta"):
        moved = mixed.to(torch.device(device))
        assert list(moved.values) == list(mixed.values)
        assert {(v.shape, v.dtype, v.device.type) for v in moved.values.values()} == {
            ((4,), torch.uint8, device), ((4, 2), torch.float32, device)
        }  # fmt: skip
    assert all(torch.equal(v, mixed.values[n]) for n, v in mixed.to(torch.device("cpu")).values.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The shipped recipe, two steps and a validation of it, on few rows."""
    folder = tmp_path_factory.mktemp("thousand")
    few = ["data.build.0.rows=60", "train.batch_size=24", "train.log_every=1", "train.pictures_every=0"]
    settings = [word for text in [*few, "train.epochs=1"] for word in ("--set", text)]
    done = here("train", "bits1000_mvae", "--out", "run", "--device", "cpu", *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_a_thousand_modalities_leave_a_run_that_a_person_can_read(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    run = folder / "run"
    assert "24 of 1000 modalities" in printed and len(max(printed.splitlines(), key=len)) < 400
    translations = json.loads((run / "translations.json").read_text())
    assert {t["want"] for t in translations} <= set(evenly_spaced([f"bit{i}" for i in range(1000)], 24))
    assert {t["given"] for t in translations} == {t["want"] for t in translations} | {"all"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in lines] == [("train", 1), ("train", 2), ("valid", 2)]
    assert {"elbo/single:0", "elbo/single:3"} <= lines[0].keys() and lines[0]["elbo"] < 0
    assert sum(key.startswith("log_px/") for key in lines[0]) > 990  # the lines have all; but for bits that no row has
    board = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert 20 <= sum("train/log_px/" in tag for tag in board) <= 24 and "valid/elbo" in board
    assert len((run / "recipe.yaml").read_text().splitlines()) < 80
    assert load_recipe(run / "recipe.yaml").modalities == load_recipe(Path("bits1000_mvae")).modalities


@pytest.mark.slow
def test_what_is_said_of_a_thousand_modalities_is_short(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    inspected = here("inspect", "data/bits1000", cwd=folder).stdout
    assert "(24 of 1000 modalities, evenly spaced)" in inspected and "(12 of 1000 modalities" in inspected
    assert len(inspected.splitlines()) < 40 and re.search(r"bit999 +bit +one +uint8", inspected)
    valid = here("validate", "bits1000_mvae", cwd=folder).stdout
    assert "1000 modalities (bit0, bit1," in valid and "and 976 more" in valid and len(valid) < 500
    other = ["--set", "modalities.bit{}.each=1000..1999"]
    refused = here("validate", "bits1000_mvae", *other, cwd=folder)
    assert refused.returncode == 2 and "the dataset lacks bit1000, bit1001, " in refused.stderr
    assert "and 976 more; it has bit0" in refused.stderr and len(refused.stderr) < 1000
    with pytest.raises(InputError, match="and 991 more") as caught:
        Dataset(folder / "data/bits1000", [f"byte{i}" for i in range(1000)])
    assert len(str(caught.value)) < 2000


def test_names_are_spread_and_cut() -> None:
    assert (
        evenly_spaced("abc", 5) == ["a", "b", "c"] and evenly_spaced("abc", 1) == ["a"] and evenly_spaced([], 3) == []
    )
    assert listed(["a", "b"]) == "a, b" and listed([]) == ""
