"""Damage of a dataset is named with the file and the field, before anything is computed from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import modalkit
from modalkit.data import Dataset, read_manifest, write_dataset
from modalkit.data.inspection import describe
from modalkit.errors import InputError

SCHEMAS = {
    "x": modalkit.schema("vector", size=2),
    "n": modalkit.schema("counts", size=1),
    "y": modalkit.schema("label", classes=3),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    values = {"x": torch.randn(9, 2), "n": torch.ones(9, 1, dtype=torch.long), "y": torch.arange(9) % 3}
    write_dataset(tmp_path / "d", SCHEMAS, values, keys=[f"é{row}" for row in range(9)])
    return tmp_path / "d"


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "manifest.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))


def change_shard(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of the shard; the manifest states its new size."""
    file = folder / "shards" / "00000.safetensors"
    with safe_open(file, "pt") as shard:
        about, tensors = shard.metadata(), {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, about)
    change_manifest(folder, lambda said: said["shards"][0].update(bytes=file.stat().st_size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["modalities"]["x"]["facts"].pop("kind"), "modalities.x.facts: kind: should be the name of a kind"),
        (lambda m: m["modalities"]["x"]["facts"].pop("dtype"), "modalities.x.facts: dtype: should be one of uint8"),
        (lambda m: m["modalities"]["x"]["facts"].update(event_shape=[-2]), "modalities.x.facts: event_shape"),
        (lambda m: m["modalities"]["x"]["facts"].update(event_shape=[2**20, 2**20]), "is too large"),
        (lambda m: m["modalities"]["y"].update(present=10), "modalities.y.present: more than the 9 rows"),
        (lambda m: m["modalities"]["y"].update(present="9"), "modalities.y.present: Input should be a valid integer"),
        (lambda m: m["splits"].update(train=8), "its splits add up to"),
        (lambda m: m["splits"].update(dev=0), "splits.dev"),
        (lambda m: m["shards"][0].update(sha256="no"), "shards.0.sha256"),
        (lambda m: m.update(builder={"a": float("nan")}), "holds nan"),
        (lambda m: m.update(builder={"a": 10**30}), "more than 64 bits"),
        (lambda m: m.update(builder={"a": "\ud800"}), "half of a surrogate pair"),
        (lambda m: m.update(builder={"a": json.loads("[" * 100 + "]" * 100)}), "nested more than 64 levels"),
    ],
)
def test_a_damaged_manifest_is_named(folder: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    change_manifest(folder, change)
    with pytest.raises(InputError) as caught:
        read_manifest(folder)
    assert str(caught.value).startswith(str(folder / "manifest.json")) and words in str(caught.value)


def test_json_of_any_depth_is_refused_in_words(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read \(nested too deeply\)"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("split"), "lacks split"),
        (lambda t: t.update(present=t["present"][:, 0]), "present: is bool (9), should be bool (9, 3)"),
        (lambda t: t.update({"value.x": t["value.x"][:5]}), "value.x: is float32 (5, 2), should be float32 (9, 2)"),
        (lambda t: t.update({"value.x": t["value.x"].double()}), "value.x: is float64 (9, 2), should be float32"),
        (lambda t: t["split"].fill_(3), "split: holds 3, but there are only 3 splits"),
        (lambda t: t["key"][4].fill_(0xFF), "key: that of row 4 of the shard is not UTF-8"),
        (lambda t: t.update({"known.x": torch.zeros(9, 2, dtype=torch.bool)}), "only one of known.x and part.x"),
    ],
)
def test_a_damaged_shard_is_named(folder: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    change_shard(folder, change)
    with pytest.raises(InputError) as caught:
        Dataset(folder)
    assert "00000.safetensors: this shard is truncated or damaged (" in str(caught.value)
    assert words in str(caught.value)


def test_booleans_are_0_or_1(folder: Path) -> None:
    file = folder / "shards" / "00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] = 7  # `present` comes last
    file.write_bytes(content)
    with pytest.raises(InputError, match="present: holds bytes other than 0 and 1"):
        Dataset(folder)


def test_counts_of_the_manifest_must_be_those_of_the_shards(folder: Path) -> None:
    change_manifest(folder, lambda said: said["modalities"]["y"].update(present=8))
    with pytest.raises(InputError, match=r"manifest\.json: modalities\.y\.present: says 8, but the shards hold 9"):
        Dataset(folder)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("x", float("nan"), "modality 'x': kind 'vector' cannot hold the values of 1 row: row 'é2' has nan"),
        ("n", -4, "modality 'n': kind 'counts' cannot hold the values of 1 row: row 'é2' has -4"),
        ("y", 3, "modality 'y': kind 'label' cannot hold the values of 1 row: row 'é2' has 3"),
    ],
)
def test_inspect_names_values_that_a_kind_cannot_hold(folder: Path, name: str, value: float, words: str) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[f"value.{name}"].view(9, -1)[2, 0] = value  # (rows, *event_shape) -> (rows, size)

    change_shard(folder, change)
    with pytest.raises(InputError) as caught:
        describe(Dataset(folder))
    assert words in str(caught.value) and "The dataset is damaged" in str(caught.value)


def test_inspect_compares_facts_with_the_kind(folder: Path) -> None:
    change_manifest(folder, lambda said: said["modalities"]["y"]["facts"].update(classes="many"))
    with pytest.raises(InputError, match=r"modalities\.y\.facts: schema of kind 'label': classes"):
        describe(Dataset(folder))
