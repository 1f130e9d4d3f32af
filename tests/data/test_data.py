from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processes import Child

import modalkit
from modalkit.data import Dataset, DatasetWriter, Rows, read_manifest, write_dataset, write_shard
from modalkit.data.manifest import shard_path
from modalkit.errors import InputError, RunError

SCHEMAS = {"x": modalkit.schema("vector", size=2), "y": modalkit.schema("label", classes=3)}


def write(out: Path, rows: int = 25, **options: Any) -> None:
    values = {"x": torch.arange(2 * rows).reshape(rows, 2).float(), "y": torch.arange(rows) % 3}
    write_dataset(out, SCHEMAS, values, **({"shard_rows": 10} | options))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000), st.booleans())
def test_what_was_written_is_read_back(rows: int, shard_rows: int, seed: int, in_memory: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        x, y = torch.randn(rows, 2, generator=g), torch.randint(0, 3, (rows,), generator=g)
        here = torch.rand(rows, generator=g) < 0.5
        keys = [f"row/{i}é" for i in range(rows)]
        write_dataset(
            Path(folder) / "d", SCHEMAS, {"x": x, "y": y}, present={"y": here}, keys=keys, shard_rows=shard_rows
        )
        dataset = Dataset(Path(folder) / "d", ["y", "x"], in_memory=in_memory)
        wanted = torch.randint(0, rows, (17,), generator=g)
        batch = dataset[wanted]
        assert list(batch.values) == ["y", "x"]
        assert torch.equal(batch.values["x"], x[wanted])
        assert torch.equal(batch.values["y"], (y * here)[wanted])
        assert torch.equal(batch.present, torch.stack([here, torch.ones_like(here)], 1)[wanted])
        assert [dataset.key(int(i)) for i in wanted] == [keys[int(i)] for i in wanted]
        split_rows = [dataset.rows(s) for s in ("train", "valid", "test")]
        assert sorted(torch.cat(split_rows).tolist()) == list(range(rows))


def test_the_same_rows_give_the_same_bytes_whatever_stands_in_absent_entries(tmp_path: Path) -> None:
    for name, junk in (("a", 0.0), ("b", float("nan"))):
        x = np.ones((4, 2), np.float32)
        x[1] = junk
        rows = Rows({"x": x}, {"x": np.array([1, 0, 1, 1], bool)}, np.zeros(4, np.uint8), list("abcd"))
        write_shard(tmp_path / name, 0, {"x": SCHEMAS["x"]}, rows)
    assert shard_path(tmp_path / "a", 0).read_bytes() == shard_path(tmp_path / "b", 0).read_bytes()


def test_a_build_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path: Path) -> None:
    out = tmp_path / "d"
    writer = DatasetWriter(out, SCHEMAS, {"name": "t", "size": 1}, 2)
    rows = Rows(
        {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.int64)},
        {"x": np.ones(3, bool), "y": np.zeros(3, bool)},
        np.zeros(3, np.uint8),
        ["a", "b", "c"],
        [("d.jpg", "truncated\nfile")],
    )
    write_shard(out, 1, SCHEMAS, rows)
    with pytest.raises(InputError, match=r"half-built \(1 of 2 shards\)"):
        Dataset(out)
    with pytest.raises(InputError, match=r"builder.size: 1 there, 2 now"):
        DatasetWriter(out, SCHEMAS, {"name": "t", "size": 2}, 2)
    writer = DatasetWriter(out, SCHEMAS, {"name": "t", "size": 1}, 2)
    assert writer.pending() == [0]
    write_shard(out, 0, SCHEMAS, rows)
    manifest = writer.finish()
    assert (manifest.rows, manifest.set_aside, manifest.modalities["y"].present) == (6, 2, 0)
    assert (out / "set_aside.tsv").read_text() == "d.jpg\ttruncated file\n" * 2
    assert DatasetWriter(out, SCHEMAS, {"name": "t", "size": 1}, 2).complete
    with pytest.raises(InputError, match="absent from every training row: y"):
        Dataset(out).require(SCHEMAS)


def test_nothing_readable_says_why(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "d", SCHEMAS, {"name": "t"}, 1)
    empty = {n: np.zeros((0, *s.event_shape), s.dtype) for n, s in SCHEMAS.items()}
    nothing = Rows(empty, {n: np.zeros(0, bool) for n in SCHEMAS}, np.zeros(0, np.uint8), [], [("a.jpg", "is empty")])
    write_shard(tmp_path / "d", 0, SCHEMAS, nothing)
    with pytest.raises(InputError, match=r"nothing could be read, 1 set aside; the first: a.jpg: is empty"):
        writer.finish()


def test_damage_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write(whole)
    assert len(Dataset(whole)) == 25

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(whole, tmp_path / name))

    with pytest.raises(InputError, match="there is no such dataset"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Dataset(tmp_path)
    truncated = damaged("truncated")
    data = shard_path(truncated, 1).read_bytes()
    shard_path(truncated, 1).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"00001.safetensors: this shard is truncated"):
        Dataset(truncated)
    missing = damaged("missing")
    shard_path(missing, 2).unlink()
    with pytest.raises(InputError, match=r"00002.safetensors: this shard is missing"):
        Dataset(missing)
    garbled = damaged("garbled")
    shard_path(garbled, 0).write_bytes(b"x" * shard_path(garbled, 0).stat().st_size)
    with pytest.raises(InputError, match=r"00000.safetensors: this shard is truncated or damaged"):
        Dataset(garbled)
    for content, words in (("{", "cannot be read"), ('{"format": 99}', "format 99"), ('{"format": 1}', "rows")):
        odd = damaged(f"odd{len(content)}")
        (odd / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=words):
            Dataset(odd)


def test_another_schema_lists_every_difference(tmp_path: Path) -> None:
    write(tmp_path / "d")
    dataset = Dataset(tmp_path / "d")
    other = {"x": modalkit.schema("vector", size=3), "y": modalkit.schema("label", classes=4)}
    other["z"] = modalkit.schema("bit")
    with pytest.raises(InputError) as error:
        dataset.require(other)
    assert "modalities.x.size: 2 in the dataset, 3 here" in str(error.value)
    assert "modalities.y.classes: 3 in the dataset, 4 here" in str(error.value)
    assert "modalities.z: the dataset has no such modality" in str(error.value)
    dataset.require({"x": modalkit.schema("vector", size=2, weight=3.0, network={"type": "mlp", "hidden": [9]})})
    with pytest.raises(InputError, match=r"no modality 'xx' \(did you mean 'x'\?\)"):
        Dataset(tmp_path / "d", ["xx"])


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ({"x": torch.zeros(3, 2), "y": torch.tensor([0, 1, 7])}, {}, "modality 'y', row 2"),
        ({"x": torch.tensor([[0, 1], [float("nan"), 0], [0, 0]]), "y": torch.zeros(3)}, {}, "modality 'x', row 1"),
        ({"x": torch.zeros(3, 3), "y": torch.zeros(3)}, {}, r"modality 'x': got \(3, 3\), expected \(3, 2\)"),
        ({"x": torch.zeros(3, 2)}, {}, "must be the same"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, {"keys": ["a"]}, "keys: 1 given for 3 rows"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, {"present": {"z": [1, 1, 1]}}, "no schema describes"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, {"split": {"train": 0.5}}, "add up to 1"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, {"split": ["train", "dev", "test"]}, "unknown dev"),
    ],
)
def test_values_that_do_not_fit_are_named(
    tmp_path: Path, values: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    values = {k: v.long() if k == "y" else v for k, v in values.items()}
    with pytest.raises(InputError, match=words):
        write_dataset(tmp_path / "d", SCHEMAS, values, **options)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    """A limit on file sizes fails writes as a full disk does."""
    program = (
        "import resource, signal, sys, torch, modalkit\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "schemas = {'x': modalkit.schema('vector', size=1000)}\n"
        "modalkit.write_dataset(sys.argv[1], schemas, {'x': torch.zeros(50, 1000)})\n"
    )
    done = Child(tmp_path / "d", cwd=tmp_path, code=program).done()
    assert RunError.__name__ in done.stderr and "the disk is full; free some space" in done.stderr, done.stderr
    assert not list((tmp_path / "d").rglob("*.tmp")) and not (tmp_path / "d" / "manifest.json").exists()


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "d", split=["train"] * 20 + ["test"] * 5)
    raw = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert raw["splits"] == {"train": 20, "valid": 0, "test": 5}
    assert raw["modalities"]["x"]["facts"]["event_shape"] == [2]
    assert read_manifest(tmp_path / "d").rows == 25 == sum(s["rows"] for s in raw["shards"])


def test_texts_are_read_by_their_kind_and_a_refused_dataset_leaves_nothing(tmp_path: Path) -> None:
    schemas = {
        "name": modalkit.schema("label", names=["cat", "dog"]),
        "digits": modalkit.schema("tokens", alphabet="0123456789", max_length=4),
    }
    out = tmp_path / "d"
    with pytest.raises(InputError, match="modality 'name': 'cow' is no class"):
        write_dataset(out, schemas, {"name": ["cat", "cow"], "digits": ["17", ""]})
    assert not out.exists()
    write_dataset(out, schemas, {"name": ["cat", "dog"], "digits": ["17", ""]}, split=["train", "test"])
    assert Dataset(out)[torch.tensor([0, 1])].values["digits"].tolist() == [[1, 7, 11, 11, 11], [11] * 5]
    with pytest.raises(InputError, match="holds a dataset already; give overwrite=True"):
        write_dataset(out, schemas, {"name": ["dog"], "digits": ["3"]})
    assert write_dataset(out, schemas, {"name": ["dog"], "digits": ["3"]}, overwrite=True).rows == 1
    with pytest.raises(InputError, match="the splits are train, valid, test"):
        Dataset(out).rows("val")


def test_what_stands_in_absent_entries_is_never_looked_at(tmp_path: Path) -> None:
    schemas = {"label": modalkit.schema("label", classes=3), "image": modalkit.schema("image", size=4, channels=1)}
    image = torch.full((3, 1, 4, 4), 0.5)
    image[2] = float("nan")
    here = np.array([True, True, False])
    write_dataset(
        tmp_path / "d",
        schemas,
        {"label": np.array([0.0, 2.0, np.nan]), "image": image.requires_grad_()},
        present={"label": here, "image": here},
        split=np.array(["train", "train", "test"]),
    )
    assert Dataset(tmp_path / "d")[torch.arange(3)].values["label"].tolist() == [0, 2, 0]


def test_overwrite_deletes_nothing_that_write_dataset_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "web" / "src").mkdir(parents=True)
    (tmp_path / "web" / "manifest.json").write_text("{}")
    (tmp_path / "web" / "src" / "app.js").write_text("x")
    with pytest.raises(InputError, match="did not make"):
        write(tmp_path / "web", overwrite=True)
    assert (tmp_path / "web" / "src" / "app.js").exists()
    write(tmp_path / "d", 25)
    (tmp_path / "d" / "notes.txt").write_text("mine")
    write(tmp_path / "d", 12, overwrite=True)
    assert len(Dataset(tmp_path / "d")) == 12 and (tmp_path / "d" / "notes.txt").read_text() == "mine"


def test_a_manifest_is_not_trusted(tmp_path: Path) -> None:
    here = torch.arange(25) < 10
    write(tmp_path / "d", present={"y": here})
    path = tmp_path / "d" / "manifest.json"
    raw = json.loads(path.read_text())
    # Another order of its keys changes nothing: a shard knows its own.
    path.write_text(json.dumps(raw | {"modalities": {"y": raw["modalities"]["y"], "x": raw["modalities"]["x"]}}))
    dataset = Dataset(tmp_path / "d", ["x", "y"])
    assert dataset.present.sum(0).tolist() == [25, 10]
    for change, words in (
        ({"modalities": {"x": raw["modalities"]["x"]}}, "damaged"),
        ({"rows": 7}, "add up to 25"),
        ({"shards": []}, "shards"),
        ({"shards": [raw["shards"][0] | {"file": "../../x.safetensors"}, *raw["shards"][1:]]}, "file"),
    ):
        path.write_text(json.dumps(raw | change))
        with pytest.raises(InputError, match=words):
            Dataset(tmp_path / "d")


def test_shards_check_their_lengths(tmp_path: Path) -> None:
    x, there = {"x": np.zeros((3, 2), np.float32)}, {"x": np.ones(3, bool)}
    for split in (np.zeros(2, np.uint8), np.full(3, 7, np.uint8)):
        with pytest.raises(InputError, match="split: expected 3 numbers from 0 to 2"):
            write_shard(tmp_path, 0, {"x": SCHEMAS["x"]}, Rows(x, there, split, ["a", "b", "c"]))


def test_arrays_are_stored_as_they_read_however_they_lie_in_memory(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    schemas = {"x": modalkit.schema("vector", size=3)}
    writer = DatasetWriter(tmp_path / "d", schemas, {"name": "test"}, 1)
    write_shard(tmp_path / "d", 0, schemas, Rows({"x": values}, {"x": np.ones(4)}, np.zeros(4), list("abcd")))
    writer.finish()
    assert Dataset(tmp_path / "d").values("x", torch.arange(4)).tolist() == values.tolist()


def test_a_table_of_single_numbers_is_written_as_it_is(tmp_path: Path) -> None:
    """The index of a filtered table does not matter, and the caller's mask is not changed."""
    frame = pd.DataFrame({"n": [5.0, 1.5, 2.5, -1.0], "m": [0.0, 1.0, 2.0, 3.0]})
    frame = frame[frame["n"] < 5]
    present = np.array(frame["n"] > 0)
    schema = modalkit.schema("vector", size=1)
    write_dataset(tmp_path / "d", {"n": schema, "m": schema}, frame, present={"n": present})
    dataset = Dataset(tmp_path / "d")
    assert dataset.values("m", torch.arange(3)).tolist() == [[1.0], [2.0], [3.0]]
    assert dataset.present[:, 0].tolist() == present.tolist() == [True, True, False]
