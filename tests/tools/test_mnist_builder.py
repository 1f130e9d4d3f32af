"""The builders of MNIST's family: the published files become datasets, and nothing else does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modalkit_tools.mnist.binary_mnist import binarize
from modalkit_tools.mnist.idx import FAMILIES, FILES, MNIST, Family, IdxOptions, load, read_idx
from modalkit_tools.mnist.multimnist import CORNERS, pick, shrink
from torchvision import datasets

from modalkit import registry
from modalkit.data import Dataset, Rows
from modalkit.errors import InputError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def build(source: Path, out: Path, name: str = "mnist", **options: Any) -> str:
    builder = registry.get(registry.BUILDERS, name)
    line: str = builder.build(builder.options(source=source, **options), out)
    return line


def everything(out: Path) -> dict[str, bytes]:
    """Return the bytes of a dataset's files."""
    files = [out / "manifest.json", *(out / "shards").iterdir()]
    return {path.name: path.read_bytes() for path in files}


def interrupt(out: Path, shard: int) -> None:
    """Bring a dataset into the state that it has while it is being built and one shard is still to be written."""
    manifest = json.loads((out / "manifest.json").read_text())
    modalities = {name: m["facts"] for name, m in manifest["modalities"].items()}
    begun = {"builder": manifest["builder"], "shards": len(manifest["shards"]), "modalities": modalities}
    (out / "build.json").write_text(json.dumps(begun))
    (out / "manifest.json").unlink()
    (out / "shards" / f"{shard:05d}.safetensors").unlink()
    (out / "shards" / f".{shard:05d}.safetensors.1.tmp").write_bytes(b"half")


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

    before = everything(out)
    assert json.loads(before["manifest.json"])["builder"] == {"name": "mnist", "version": 1}
    interrupt(out, 3)
    build(real_data / "mnist", out)
    assert everything(out) == before


def test_fashion_mnist_becomes_a_dataset(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "fashion"
    assert "train 50000, valid 10000, test 10000" in build(real_data / "fashion-mnist", out, "fashion-mnist")
    data = Dataset(out)
    assert data[torch.tensor([0, 1, 60_000])].values["label"].tolist() == [9, 0, 9]  # boot, T-shirt, boot
    assert data[data.rows("test")].values["label"].bincount().tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ("fashion-mnist", "mnist", "is not MNIST's .*, but Fashion-MNIST's.* build-dataset fashion-mnist`"),
        ("mnist", "fashion-mnist", "is not Fashion-MNIST's .*, but MNIST's.* build-dataset mnist`"),
        ("fashion-mnist", "binary-mnist", "is not MNIST's .*, but Fashion-MNIST's"),
        ("fashion-mnist", "multimnist", "is not MNIST's .*, but Fashion-MNIST's"),
    ],
)
def test_the_files_of_the_other_family_are_refused(
    files: str, name: str, message: str, real_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"train-images-idx3-ubyte\.gz: {message}"):
        build(real_data / files, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_an_unknown_file_of_the_right_shape_is_refused_with_its_checksum(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Fashion-MNIST's train.* MD5 f4a8712d.*, found .* \(such as MNIST\)"):
        build(made(tmp_path / "raw", idx(60_000, 28, 28)), tmp_path / "out", "fashion-mnist")


def test_a_label_out_of_range_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte"
    labels = bytearray(idx(10_000))
    labels[8 + 7] = 10
    path.write_bytes(labels)
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte: row 7: label 10 is not in 0 to 9"):
        read_idx(path, MNIST, "test_labels")
    labels[8 + 7] = 9
    path.write_bytes(labels)
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte: is not MNIST's .* MD5"):
        read_idx(path, MNIST, "test_labels")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_torchvision_keeps_the_same_files_in_the_folder_that_is_looked_in(family: Family, tmp_path: Path) -> None:
    their = getattr(datasets, family.torchvision)
    assert {name for name, _ in their.resources} == {f"{file.name}.gz" for file in FILES.values()}
    made(tmp_path / their.__name__ / "raw", b"")
    with pytest.raises(InputError, match=rf"{family.torchvision}/raw/train-images-idx3-ubyte: .* found nothing"):
        build(tmp_path, tmp_path / "out", family.builder)


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"{tmp_path.as_uri()}/nowhere/"])
    with pytest.raises(InputError, match=r"source: Fashion-MNIST could not be downloaded \(.*\); check the network"):
        build(tmp_path / "source", tmp_path / "out", "fashion-mnist", download=True)


@pytest.fixture(scope="module")
def digits(real_data: Path) -> Rows:
    """MNIST's own rows."""
    return load(MNIST, IdxOptions(source=real_data / "mnist"))


def test_binary_pixels_are_white_as_often_as_they_are_bright(digits: Rows) -> None:
    intensity = digits.values["image"][:5000]
    drawn = np.stack([binarize(image, 0, row) for row, image in enumerate(intensity)])
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, 255}
    assert not drawn[intensity == 0].any()
    assert (drawn[intensity == 255] == 255).all()
    for low in range(1, 255, 32):
        some = (intensity >= low) & (intensity < min(low + 32, 255))
        p = intensity[some] / 255
        error = np.count_nonzero(drawn[some]) - p.sum()
        assert abs(error) < 5 * np.sqrt((p * (1 - p)).sum())


def test_a_binary_picture_depends_on_its_seed_and_row_alone() -> None:
    gray = np.full((1, 28, 28), 128, np.uint8)
    first = binarize(gray, 0, 5)
    assert (binarize(gray, 0, 5) == first).all()
    assert (binarize(gray, 1, 5) != first).any()
    assert (binarize(gray, 0, 6) != first).any()


def test_binary_mnist_goes_on_to_the_same_bytes(digits: Rows, real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "binary"
    build(real_data / "mnist", out, "binary-mnist", seed=3)
    batch = Dataset(out)[torch.tensor([20_000, 69_999])]
    for value, row in zip(batch.values["image"], (20_000, 69_999), strict=True):
        assert (value.numpy() == binarize(digits.values["image"][row], 3, row)).all()
    assert batch.values["label"].tolist() == digits.values["label"][[20_000, 69_999]].tolist()
    before = everything(out)
    interrupt(out, 2)
    with pytest.raises(InputError, match=r"begun with other settings .*seed: 3 there, 4 now"):
        build(real_data / "mnist", out, "binary-mnist", seed=4)
    build(real_data / "mnist", out, "binary-mnist", seed=3)
    assert everything(out) == before


COUNTS = {"train": 10_000, "valid": 300, "test": 300}


@pytest.fixture(scope="module")
def multi(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MultiMNIST of two shards; tests leave it as it is."""
    out = tmp_path_factory.mktemp("multi") / "multimnist"
    assert "10600 pictures (train 10000, valid 300, test 300)" in build(
        real_data / "mnist", out, "multimnist", **COUNTS
    )
    return out


def test_a_multimnist_picture_shows_as_many_digits_as_its_text_has(multi: Path) -> None:
    batch = Dataset(multi)[torch.arange(10_600)]
    image, length = batch.values["image"][:, 0], (batch.values["text"] < 10).sum(1)
    outside = torch.ones(50, 50, dtype=torch.bool)
    for place, (top, left) in enumerate(CORNERS):
        inside = image[:, top + 2 : top + 19, left + 2 : left + 19]  # what no neighbour reaches
        assert (inside.flatten(1).any(1) == (length > place)).all()
        outside[top : top + 21, left : left + 21] = False
    assert not image[:, outside].any()


def test_multimnist_counts_are_uniform(multi: Path) -> None:
    text = Dataset(multi)[torch.arange(10_600)].values["text"]
    counts = (text < 10).sum(1).bincount(minlength=5)
    assert len(counts) == 5
    assert (counts - 2120).abs().max() < 5 * (10_600 * 0.2 * 0.8) ** 0.5


def test_a_multimnist_split_shows_its_own_digits_only(multi: Path, digits: Rows) -> None:
    data, read = Dataset(multi), registry.modality("tokens")
    text = registry.schema("tokens", alphabet="0123456789", max_length=4)
    pools = (range(50_000), range(50_000, 60_000), range(60_000, 70_000))
    for split, (name, pool) in enumerate(zip(COUNTS, pools, strict=True)):
        rows = data.rows(name)[:300]
        batch = data[rows]
        assert data.key(int(rows[7])) == f"{name}/00007"
        for number in range(300):
            shown = pick(np.array(pool), 0, split, number)
            assert set(shown.tolist()) <= set(pool)
            assert read.show(text, batch.values["text"][number]) == "".join(map(str, digits.values["label"][shown]))
            for index, (top, left) in zip(shown, CORNERS, strict=False):
                small = shrink(digits.values["image"][index])[0]
                place = batch.values["image"][number, 0, top : top + 21, left : left + 21].numpy()
                assert (place[2:19, 2:19] == small[2:19, 2:19]).all()
                assert (place >= small).all()


def test_multimnist_goes_on_to_the_same_bytes(multi: Path, real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    build(real_data / "mnist", out, "multimnist", **COUNTS)
    assert everything(out) == everything(multi)
    interrupt(out, 1)
    build(real_data / "mnist", out, "multimnist", **COUNTS)
    assert everything(out) == everything(multi)


def test_a_multimnist_row_depends_on_its_seed_split_and_number_alone(
    multi: Path, real_data: Path, tmp_path: Path
) -> None:
    fewer, other, large = tmp_path / "fewer", tmp_path / "other", Dataset(multi)
    build(real_data / "mnist", fewer, "multimnist", train=20, valid=30, test=40)
    build(real_data / "mnist", other, "multimnist", train=20, valid=30, test=40, seed=1)
    for split, count in (("train", 20), ("valid", 30), ("test", 40)):
        small = Dataset(fewer)
        batch, same = small[small.rows(split)], large[large.rows(split)[:count]]
        for name, value in batch.values.items():
            assert torch.equal(value, same.values[name])
        unlike = Dataset(other)[small.rows(split)]
        assert not torch.equal(batch.values["text"], unlike.values["text"])
