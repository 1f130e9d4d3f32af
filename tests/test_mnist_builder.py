"""The MNIST builder: the published files become a dataset, and nothing else does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modalkit import registry
from modalkit.data import Dataset
from modalkit.errors import InputError

BUILDER = registry.get(registry.BUILDERS, "mnist")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def build(source: Path, out: Path) -> str:
    line: str = BUILDER.build(BUILDER.options(source=source), out)
    return line


def idx(*shape: int, magic: int | None = None, rows: int | None = None) -> bytes:
    """Return the bytes of an IDX file whose header states `shape`, and which holds `rows` rows of zeros."""
    start = (0x800 + len(shape) if magic is None else magic).to_bytes(4, "big")
    size = (shape[0] if rows is None else rows) * int(np.prod(shape[1:]))
    return start + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(size)


def made(folder: Path, first: bytes, suffix: str = "") -> Path:
    """Return a folder of the four files, the first of them with the given bytes."""
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(b"")
    (folder / NAMES[0]).unlink()
    (folder / f"{NAMES[0]}{suffix}").write_bytes(first)
    return folder


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (b"", "start with 00000803, found nothing"),
        (b"<html>not found</html>", "start with 00000803, found 3c68746d"),
        (idx(60_000, 28, 28, magic=0x801), "start with 00000803, found 00000801"),
        (idx(60, 28, 28), r"expected shape \[60000, 28, 28\], found \[60, 28, 28\]"),
        (idx(60_000, 28, 28, rows=10), "truncated: expected 47040016 bytes, found 7856"),
        (idx(60_000, 28, 28), "MD5 6bbc9ace898e44ae57da46a324031adb .* Fashion-MNIST"),
    ],
)
def test_a_wrong_file_is_named_with_what_was_found(first: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"train-images-idx3-ubyte.*{message}"):
        build(made(tmp_path / "raw", first), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(np.random.default_rng(0).bytes(9000))
    for data in (whole[:4000], b"not gzip"):
        source = made(tmp_path / f"raw{len(data)}", data, ".gz")
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: cannot be read, or is truncated"):
            build(source, tmp_path / "out")


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks MNIST's train-images.*--download"):
        build(tmp_path / "nowhere", tmp_path / "out")
    source = made(tmp_path / "MNIST" / "raw", b"")
    (source / NAMES[3]).unlink()
    with pytest.raises(InputError, match=r"raw: lacks MNIST's t10k-labels-idx1-ubyte \(or"):
        build(tmp_path, tmp_path / "out")


def test_mnist_becomes_a_dataset(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mnist"
    assert "train 50000, valid 10000, test 10000" in build(real_data / "mnist", out)
    data = Dataset(out)
    batch = data[torch.tensor([0, 1, 49_999, 60_000])]
    assert batch.values["image"].dtype == torch.uint8
    assert batch.values["image"].shape == (4, 1, 28, 28)
    assert batch.values["label"][[0, 1, 3]].tolist() == [5, 0, 7]
    assert data.rows("valid").tolist() == list(range(50_000, 60_000))
    assert data.key(60_000) == "test/00000"
    assert data[data.rows("test")].values["label"].bincount().tolist()[:2] == [980, 1135]

    shard = out / "shards" / "00003.safetensors"
    before, manifest = shard.read_bytes(), (out / "manifest.json").read_bytes()
    shard.unlink()
    (out / "manifest.json").unlink()
    modalities = {name: m["facts"] for name, m in json.loads(manifest)["modalities"].items()}
    begun = {"builder": {"name": "mnist", "version": 1}, "shards": 7, "modalities": modalities}
    (out / "build.json").write_text(json.dumps(begun))  # as it stands while a dataset is being built
    build(real_data / "mnist", out)
    assert (shard.read_bytes(), (out / "manifest.json").read_bytes()) == (before, manifest)


def test_fashion_mnist_is_refused(real_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Fashion-MNIST"):
        build(real_data / "fashion-mnist", tmp_path / "out")
