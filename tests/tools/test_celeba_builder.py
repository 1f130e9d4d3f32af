from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from modalkit_tools.execution.tasks import map_tasks
from modalkit_tools.faces import transforms
from modalkit_tools.faces.annotations import ATTRIBUTES, Annotations, read_annotations
from modalkit_tools.faces.sources import assign_splits, open_source, read_photo
from pydantic import ValidationError
from support.processes import Child

from modalkit.data import Dataset
from modalkit.errors import InputError, RunError
from modalkit.registry import BUILDERS, get, schema

SIX = ["image", "gray", "edges", "mask", "obscured", "watermark"]
HEADER = ["5_o_Clock_Shadow", *reversed(ATTRIBUTES), "Young"]


def noise(seed: int, height: int = 60, width: int = 50) -> np.ndarray:
    raw = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(raw, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def photos(folder: Path, count: int, height: int = 60, width: int = 50) -> Path:
    """Write faceless photos named as CelebA's are."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), noise(number, height, width))
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """Zip a folder as CelebA's zip is made."""
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.mkdir("img_align_celeba")
        for path in sorted(folder.iterdir()):
            file.write(path, f"img_align_celeba/{path.name}")
    return archive


def true_bits(number: int) -> list[int]:
    return [(number + column) % 3 == 0 for column in range(len(ATTRIBUTES))]


def annotate(folder: Path, numbers: range, partition: dict[int, int] | None = None, people: int = 0) -> None:
    """Write annotation files as CelebA's are: DOS line ends, a count, a header, aligned columns."""

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_bytes("".join(line + "\r\n" for line in lines).encode())

    rows = []
    for number in numbers:
        bits = dict(zip(ATTRIBUTES, true_bits(number), strict=True))
        rows.append(f"{number:06d}.jpg " + " ".join(f"{1 if bits.get(name) else -1:2d}" for name in HEADER))
    write("list_attr_celeba.txt", [str(len(rows)), " ".join(HEADER) + " ", *rows])
    if partition is not None:
        write("list_eval_partition.txt", [f"{number:06d}.jpg {which}" for number, which in partition.items()])
    if people:
        write("identity_CelebA.txt", [f"{number:06d}.jpg {number % people}" for number in numbers])


def build(out: Path, **options: Any) -> str:
    builder = get(BUILDERS, "celeba-transforms")
    return str(builder.build(builder.options(**{"size": 16, "workers": 1} | options), out))


def content(out: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"
    }


# What is built


def test_zip_and_folder_and_their_parent_give_the_same_bytes(tmp_path: Path) -> None:
    folder = photos(tmp_path / "a/img_align_celeba", 7)
    annotate(folder.parent, range(1, 6))
    archive = pack(folder, tmp_path / "b/img_align_celeba.zip")
    annotate(archive.parent, range(1, 6))
    (archive.parent / "other").mkdir()
    shutil.copy(folder / "000001.jpg", archive.parent / "other")  # the zip wins
    sources = [folder, folder.parent, archive, archive.parent]
    for number, source in enumerate(sources):
        build(tmp_path / f"out{number}", source=source, shard_rows=3)
        assert content(tmp_path / f"out{number}") == content(tmp_path / "out0")
    names = ["manifest.json", *(f"shards/0000{i}.safetensors" for i in range(3))]
    assert sorted(content(tmp_path / "out0")) == names


def test_rows_are_the_photos_in_the_order_of_their_names_with_their_attributes(tmp_path: Path) -> None:
    folder = photos(tmp_path / "img_align_celeba", 6)
    annotate(tmp_path, range(3, 100))
    line = build(tmp_path / "out", source=tmp_path, shard_rows=4)
    assert "6 rows" in line
    assert "a mask in 0 of them" in line
    data = Dataset(tmp_path / "out")
    assert data.names == (*SIX, "attributes", *ATTRIBUTES)
    batch = data[torch.arange(6)]
    there = dict(zip(data.names, batch.present.T.tolist(), strict=True))
    model = transforms.find_model(None)
    for row in range(6):
        assert data.key(row) == f"{row + 1:06d}.jpg"
        made = transforms.transform((folder / data.key(row)).read_bytes(), 16, 1.0, model)
        for name, picture in made.items():
            assert there[name][row] == (picture is not None)
            assert np.array_equal(batch.values[name][row], picture if picture is not None else np.zeros((1, 16, 16)))
        annotated = row + 1 >= 3
        bits = torch.tensor(true_bits(row + 1)) if annotated else torch.zeros(18)
        assert torch.equal(batch.values["attributes"][row], bits.to(torch.uint8))
        for column, name in enumerate(ATTRIBUTES):
            assert there[name][row] == there["attributes"][row] == annotated
            assert batch.values[name][row] == bits[column]


def test_the_dataset_fits_the_schemas_a_recipe_would_have(tmp_path: Path) -> None:
    folder = photos(tmp_path / "img_align_celeba", 3)
    annotate(tmp_path, range(1, 4))
    build(tmp_path / "out", source=folder, size=24)
    colour, gray = schema("image", size=24, channels=3), schema("image", size=24, channels=1)
    same = {"image": colour, "gray": gray, "edges": schema("edges", size=24), "watermark": colour, "obscured": colour}
    bits = {"attributes": schema("attributes", names=list(ATTRIBUTES)), "Bald": schema("bit")}
    data = Dataset(tmp_path / "out")
    data.require(same | bits)
    with pytest.raises(InputError, match="absent from every training row: mask"):
        data.require({"mask": schema("landmarks", size=24)})


def test_without_annotations_there_are_six_modalities_of_any_folder_of_photos(tmp_path: Path) -> None:
    nested = tmp_path / "photos"
    (nested / "b/deep").mkdir(parents=True)
    (nested / ".hidden").mkdir()
    for name in ("b/deep/x.PNG", "b/y.jpeg", "a.webp", "ü.bmp", ".hidden/no.jpg", "notes.txt"):
        (nested / name).write_bytes(bytes(cv2.imencode(Path(name).suffix.replace(".txt", ".png").lower(), noise(1))[1]))
    build(tmp_path / "out", source=nested)
    data = Dataset(tmp_path / "out")
    assert data.names == tuple(SIX)
    assert [data.key(row) for row in range(len(data))] == ["a.webp", "b/deep/x.PNG", "b/y.jpeg", "ü.bmp"]


def test_pictures_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = photos(tmp_path / "faces", 3)
    for name in ("a.tif", "b.GIF", "notes.txt", ".hidden.tif"):
        (folder / name).write_bytes(b"x")
    assert "3 rows" in build(tmp_path / "out", source=folder)
    assert "faces: 2 pictures are not used, such as a.tif; photos end in .bmp" in caplog.text


def test_limit_takes_the_first_photos(tmp_path: Path) -> None:
    folder = photos(tmp_path / "faces", 5)
    build(tmp_path / "out", source=folder, limit=2)
    build(tmp_path / "all", source=folder, limit=99)
    data = Dataset(tmp_path / "out")
    assert [data.key(row) for row in range(len(data))] == ["000001.jpg", "000002.jpg"]
    assert len(Dataset(tmp_path / "all")) == 5


def test_manifest_tells_how_it_was_built_and_names_no_path_of_the_machine(tmp_path: Path) -> None:
    build(tmp_path / "out", source=photos(tmp_path / "faces", 3), sigma=2.0, seed=4)
    text = (tmp_path / "out/manifest.json").read_text()
    assert str(tmp_path) not in text
    about = json.loads(text)["builder"]
    assert {k: about[k] for k in ("name", "photos", "size", "sigma", "seed")} == {
        "name": "celeba-transforms",
        "photos": 3,
        "size": 16,
        "sigma": 2.0,
        "seed": 4,
    }
    assert "workers" not in about


@pytest.mark.parametrize("wrong", [{"size": 7}, {"limit": 0}, {"sigma": 0}, {"workers": 0}, {"splits": "half"}])
def test_options_are_checked(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(tmp_path / "out", source=tmp_path, **wrong)


# What cannot be used


def test_unusable_photos_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    folder = photos(tmp_path / "faces", 3)
    whole = (folder / "000002.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    cv2.imwrite(str(folder / "tiny.png"), noise(1, 7, 9))
    line = build(tmp_path / "out", source=folder, shard_rows=2)
    assert "3 rows" in line
    assert "5 set aside, see set_aside.tsv" in line
    listed = dict(row.split("\t") for row in (tmp_path / "out/set_aside.tsv").read_text().splitlines())
    assert listed == {
        "cut.jpg": "truncated file",
        "empty.jpg": "empty file",
        "gone.jpg": "No such file or directory",
        "text.jpg": "not an image, or a damaged one",
        "tiny.png": "9 x 7 pixels; both must be at least 8",
    }
    data = Dataset(tmp_path / "out")
    assert [data.key(row) for row in range(len(data))] == ["000001.jpg", "000002.jpg", "000003.jpg"]


def test_a_damaged_member_of_a_zip_is_set_aside(tmp_path: Path) -> None:
    archive = pack(photos(tmp_path / "faces", 3), tmp_path / "img_align_celeba.zip")
    with zipfile.ZipFile(archive) as file:
        at = file.getinfo("img_align_celeba/000002.jpg").header_offset + 200
    data = bytearray(archive.read_bytes())
    data[at : at + 50] = bytes(50)
    archive.write_bytes(data)
    assert "2 rows" in build(tmp_path / "out", source=archive)
    listed = (tmp_path / "out/set_aside.tsv").read_text()
    assert listed.startswith("000002.jpg\tdamaged in the zip: Bad CRC-32")


def test_a_source_that_goes_away_stops_the_build(tmp_path: Path) -> None:
    for container in (photos(tmp_path / "faces", 2), pack(tmp_path / "faces", tmp_path / "faces.zip")):
        source = open_source(container)
        container.rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match=r"is gone.*run the same command again"):
            read_photo(source.container, source.photos[0])
        (tmp_path / "elsewhere").rename(container)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"nothing could be read, 3 set aside; the first: 0\.jpg: not an image"):
        build(tmp_path / "out", source=folder)


def test_sources_that_are_none(tmp_path: Path) -> None:
    archive = pack(photos(tmp_path / "faces", 2), tmp_path / "img_align_celeba.zip")
    archive.write_bytes(archive.read_bytes()[:-60])
    (tmp_path / "empty").mkdir()
    wrong = {
        archive: "not a complete zip file.*download it again",
        tmp_path: "not a complete zip file",
        tmp_path / "faces/000001.jpg": "not a complete zip file.*folder of photos",
        tmp_path / "nowhere": "there is no such zip or folder",
        tmp_path / "empty": r"holds no photos \(\.bmp",
    }
    for source, message in wrong.items():
        with pytest.raises(InputError, match=message):
            build(tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list_attr_celeba.txt", "Bald Bangs\n", ":1: the first line must be the number"),
        ("list_attr_celeba.txt", "", ":1: the first line must be the number"),
        ("list_attr_celeba.txt", "1\nBald Bangs\n", ":2: the header has no Black_Hair, .*Wearing_Hat"),
        ("list_attr_celeba.txt", f"1\n{' '.join(HEADER)}\n000001.jpg 1 -1\n", ":3: expected a file name and 20 values"),
        ("list_attr_celeba.txt", f"1\n{' '.join(HEADER)}\n000001.jpg{' 1' * 19} 2\n", ":3: .*each 1 or -1"),
        ("list_attr_celeba.txt", f"1\n{' '.join(HEADER)}\n" + 2 * f"000001.jpg{' 1' * 20}\n", ":4: .*listed twice"),
        ("list_eval_partition.txt", "000001.jpg 0\n\n000002.jpg 3\n", ":3: .*a number from 0 to 2"),
        ("list_eval_partition.txt", "000001.jpg\n", ":1: expected"),
        ("identity_CelebA.txt", "000001.jpg 12\n000002.jpg someone\n", ":2: .*a whole number"),
        ("identity_CelebA.txt", "\udcff\udcfe", "cannot be read"),
        ("list_attr_celeba.csv", "image_id,Bald,Bangs\n", ":1: the header has no Black_Hair"),
        ("list_attr_celeba.csv", f"image_id,{','.join(HEADER)}\n1.jpg,1,-1\n", ":2: expected a file name and 20"),
        ("list_eval_partition.csv", "image_id,partition\n000001.jpg,0\n000002.jpg,x\n", ":3: .*from 0 to 2"),
    ],
)
def test_malformed_annotations_name_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = photos(tmp_path / "faces", 1)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        build(tmp_path / "out", source=folder)


def as_csv(folder: Path) -> None:
    """Replace the annotation files by comma-separated ones, with a header and without a count."""
    columns = {"list_attr_celeba": HEADER, "list_eval_partition": ["partition"], "identity_CelebA": ["identity"]}
    for name, header in columns.items():
        text = folder / f"{name}.txt"
        rows = [line.split() for line in text.read_text().splitlines()][2 if name == "list_attr_celeba" else 0 :]
        lines = [",".join(row) for row in [["image_id", *header], *rows]]
        text.with_suffix(".csv").write_text("\n".join(lines) + "\n")
        text.unlink()


@pytest.mark.parametrize("form", ["csv", "png", "png and csv"])
def test_annotations_are_found_as_csv_and_for_photos_kept_in_another_format(tmp_path: Path, form: str) -> None:
    folder = photos(tmp_path / "img_align_celeba", 6)
    annotate(tmp_path, range(1, 40), partition={n: (n > 3) + (n > 5) for n in range(1, 40)}, people=3)
    if "png" in form:
        for path in folder.iterdir():
            path.rename(path.with_suffix(".png"))
    if "csv" in form:
        as_csv(tmp_path)
    assert "train 3, valid 2, test 1; official split" in build(tmp_path / "out", source=folder)
    data = Dataset(tmp_path / "out")
    assert data[torch.arange(6)].values["attributes"].tolist() == [true_bits(n) for n in range(1, 7)]
    assert "identity split" in build(tmp_path / "by-person", source=folder, splits="identity")


def test_a_photo_s_own_name_goes_before_its_stem(tmp_path: Path) -> None:
    (tmp_path / "list_eval_partition.txt").write_text("1.png 2\n1.jpg 0\n2.jpg 1\n3.jpg 1\n")
    keys = ["1.png", "2.png", "3.png", "3.bmp"]  # two photos with one stem: neither is 3.jpg
    assert read_annotations([tmp_path], keys).partition == {"1.png": 2, "2.png": 1}


def test_annotations_of_few_of_the_photos_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = photos(tmp_path / "img_align_celeba", 3)
    annotate(tmp_path, range(900, 920), partition={n: 0 for n in range(3, 1500)})
    build(tmp_path / "out", source=folder)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("list_attr_celeba.txt: lists 20 images, none of these 3 photos, so it is not used" in w for w in warned)
    assert any("list_eval_partition.txt: lists 1,497 images, 1 of these 3 photos" in w for w in warned)


# Splits


def test_the_official_split_is_used_where_it_leaves_none_empty(tmp_path: Path) -> None:
    folder = photos(tmp_path / "img_align_celeba", 6)
    annotate(tmp_path, range(1, 7), partition={n: (n > 3) + (n > 5) for n in range(1, 30)}, people=3)
    assert "train 3, valid 2, test 1; official split" in build(tmp_path / "out", source=folder)
    assert "identity split" in build(tmp_path / "less", source=folder, limit=4)
    assert "random split" in build(tmp_path / "drawn", source=folder, splits="random")
    asked = build(tmp_path / "asked", source=folder, limit=4, splits="official")
    assert "train 3, valid 1, test 0; official split" in asked


def test_nobody_is_in_two_splits() -> None:
    keys = [f"{n}.jpg" for n in range(2000)]
    notes = Annotations(None, None, {key: n % 200 for n, key in enumerate(keys)})
    rule, splits = assign_splits("auto", keys, notes, 0)
    assert rule == "identity"
    by_person = [{split for n, split in enumerate(splits) if n % 200 == person} for person in range(200)]
    assert all(len(where) == 1 for where in by_person)
    assert 0.7 < splits.count(0) / 2000 < 0.9
    assert assign_splits("auto", keys, notes, 1)[1] != splits
    more = Annotations(None, None, {**(notes.identity or {}), "new.jpg": 777})
    assert assign_splits("auto", [*keys, "new.jpg"], more, 0)[1][:2000] == splits


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 40])
def test_small_sets_leave_no_split_empty_where_that_is_possible(count: int) -> None:
    for seed in range(20):
        rule, splits = assign_splits("auto", [str(n) for n in range(count)], Annotations(None, None, None), seed)
        assert rule == "random"
        assert set(splits) == ({0, 1, 2} if count >= 3 else {0})


def test_a_split_that_was_asked_for_must_cover_the_photos() -> None:
    notes = Annotations(None, {"a.jpg": 0}, None)
    assert assign_splits("official", ["a.jpg"], notes, 0) == ("official", [0])
    with pytest.raises(InputError, match=r"'official' cannot be used: it does not list b\.jpg; use auto or random"):
        assign_splits("official", ["a.jpg", "b.jpg"], notes, 0)
    with pytest.raises(InputError, match="'identity' cannot be used: its annotation file is not there"):
        assign_splits("identity", ["a.jpg"], notes, 0)


# Going on where it stopped


def test_killed_and_resumed_it_ends_with_the_bytes_of_an_unbroken_build(tmp_path: Path) -> None:
    folder = photos(tmp_path / "faces", 32, 109, 89)
    (folder / "000011.jpg").write_text("no picture")
    build(tmp_path / "unbroken", source=folder, shard_rows=2)
    out = tmp_path / "killed"
    options = ("--source", folder, "--out", out, "--size", 16, "--shard-rows", 2, "--workers", 2)
    process = Child("build-dataset", "celeba-transforms", *options, cwd=tmp_path, alone=True)
    while process.poll() is None and len(list(out.glob("shards/*.safetensors"))) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.safetensors")}
    assert 2 <= len(done) < 16
    with pytest.raises(InputError, match=r"half-built \(\d+ of 16 shards\)"):
        Dataset(out)
    (out / "shards/.00015.safetensors.123.tmp").write_text("what a killed process leaves behind")

    build(out, source=folder, shard_rows=2)
    assert content(out) == content(tmp_path / "unbroken")
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_finished_dataset_is_left_as_it_is_and_other_settings_are_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "faces", 4)
    line = build(tmp_path / "out", source=folder)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.name != ".lock"}
    assert build(tmp_path / "out", source=folder, workers=2) == line
    for other, named in [({"sigma": 2.0}, "sigma"), ({"size": 24}, "size"), ({"limit": 3}, "photos")]:
        with pytest.raises(InputError, match=f"built with other settings.*{named}"):
            build(tmp_path / "out", source=folder, **other)
    cv2.imwrite(str(folder / "000002.jpg"), noise(99))
    with pytest.raises(InputError, match=r"other settings \(builder\.listing"):
        build(tmp_path / "out", source=folder)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_one_build_at_a_time_in_a_folder(tmp_path: Path) -> None:
    from modalkit.util.files import locked

    folder = photos(tmp_path / "faces", 1)
    with locked(tmp_path / "out", "building"), pytest.raises(InputError, match="another process is building here"):
        build(tmp_path / "out", source=folder)


# Workers


def test_an_error_in_a_worker_comes_back_and_ends_the_others() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="non-negative"):
        list(map_tasks(time.sleep, [-1, 60, 60], workers=2))
    results = map_tasks(time.sleep, [0, 60, 60], workers=2)
    assert next(results) is None
    results.close()
    assert time.monotonic() - start < 30


def test_a_worker_that_dies_is_explained() -> None:
    with pytest.raises(RunError, match=r"a worker died or ran out of memory \(2 at once\).*fewer --workers.*kept"):
        list(map_tasks(os._exit, [3, 3, 3], workers=2))
    with pytest.raises(InputError, match="use 1 or more"):
        list(map_tasks(abs, [1], workers=0))


SLEEPERS = """
import time
from multiprocessing import active_children
from modalkit_tools.execution.tasks import map_tasks
for _ in map_tasks(time.sleep, [0, 60, 60], workers=2):
    print(*[child.pid for child in active_children()], flush=True)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if how == signal.SIGINT:  # as a terminal does it: to the whole group
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    errors = process.communicate(timeout=30)[1]
    assert errors.count("KeyboardInterrupt\n") == (how == signal.SIGINT)
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, workers))
