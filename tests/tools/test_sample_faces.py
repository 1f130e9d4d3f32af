"""The drawn portraits: true, found by a face detector, and the same whoever draws them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
import pytest
from support.processes import Child

from modalkit import registry
from modalkit.errors import InputError

COUNT = 60
BUILDER = registry.get(registry.BUILDERS, "sample-faces")
ROOM = importlib.import_module(BUILDER.build.__module__)
PORTRAIT = importlib.import_module(".portrait", ROOM.__package__)
PAINT = importlib.import_module(".portrait_paint", ROOM.__package__)
FOREHEAD, HAIR, EYES = np.s_[80:92, 80:98], np.s_[34:58, 70:108], np.s_[98:126, 50:128]
LIPS = np.s_[146:168, 76:102]


def build(out: Path, **options: Any) -> str:
    line: str = BUILDER.build(BUILDER.options(**{"count": COUNT, "seed": 5, "workers": 1} | options), out)
    return line


def content(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


def attribute_table(out: Path) -> dict[str, dict[str, bool]]:
    raw = (out / "list_attr_celeba.txt").read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n")
    count, header, *lines = raw.decode().split("\r\n")[:-1]
    assert int(count) == len(lines)
    rows = [line.split() for line in lines]
    assert {value for row in rows for value in row[1:]} <= {"1", "-1"}
    return {row[0]: dict(zip(header.split(), [v == "1" for v in row[1:]], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "faces"
    assert f"{COUNT} portraits" in build(out)
    return out


def test_it_lies_on_disk_as_celeba_does(faces: Path) -> None:
    names = [f"{i:06d}.jpg" for i in range(1, COUNT + 1)]
    assert sorted(p.name for p in (faces / "img_align_celeba").iterdir()) == names
    assert {cv2.imread(str(faces / "img_align_celeba" / n)).shape for n in names} == {(218, 178, 3)}
    table = attribute_table(faces)
    assert list(table) == names
    assert list(table[names[0]]) == sorted(table[names[0]])
    assert len(table[names[0]]) == 18
    people = dict(line.split() for line in (faces / "identity_CelebA.txt").read_text().splitlines())
    splits = dict(line.split() for line in (faces / "list_eval_partition.txt").read_text().splitlines())
    assert list(people) == list(splits) == names
    assert len(set(people.values())) == COUNT // 3
    assert len({(people[n], splits[n]) for n in names}) == COUNT // 3, "a person must be in one split only"
    assert {s: list({people[n]: splits[n] for n in names}.values()).count(s) for s in "012"} == {
        "0": 16,
        "1": 2,
        "2": 2,
    }


def test_every_attribute_is_true_of_some_and_false_of_others() -> None:
    rows = [PORTRAIT.attributes(ROOM.describe(0, number)) for number in range(1, 1001)]
    for name in rows[0]:
        assert 0.015 < np.mean([row[name] for row in rows]) < 0.9, name
    males = [row for row in rows if row["Male"]]
    assert all(row["Male"] for row in rows if row["Mustache"])
    assert np.mean([row["Heavy_Makeup"] for row in males]) < 0.05
    colours = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald")
    assert max(sum(row[c] for c in colours) for row in rows) == 1


def test_people_keep_their_faces(faces: Path) -> None:
    people: dict[int, set[Any]] = {}
    for number in range(1, COUNT + 1):
        people.setdefault(ROOM.person_of(5, number)[0], set()).add(ROOM.describe(5, number).face)
    assert all(len(same) == 1 for same in people.values())
    assert len(set.union(*people.values())) == len(people)


def test_a_portrait_depends_on_its_seed_and_number_alone(faces: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    build(few, count=7)
    name = "img_align_celeba/000007.jpg"
    assert content(few)[name] == content(faces)[name]
    assert np.array_equal(PAINT.paint(ROOM.describe(5, 7)), PAINT.paint(ROOM.describe(5, 7)))
    assert ROOM.describe(6, 7) != ROOM.describe(5, 7)


def test_work_goes_on_where_it_stopped(faces: Path, tmp_path: Path) -> None:
    again = tmp_path / "faces"
    shutil.copytree(faces, again)
    for name in ("000003.jpg", "000044.jpg", "000060.jpg"):
        (again / "img_align_celeba" / name).unlink()
    (again / "img_align_celeba" / ".000003.jpg.1.tmp").write_bytes(b"half")
    for name in ("list_attr_celeba.txt", "identity_CelebA.txt"):
        (again / name).unlink()
    build(again)
    assert content(again) == content(faces)


def test_killed_and_run_again_it_ends_with_the_same_bytes(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    options = ("--out", out, "--count", COUNT, "--seed", 5, "--workers", 2)
    first = Child("build-dataset", "sample-faces", *options, cwd=tmp_path, alone=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("img_align_celeba/*.jpg"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)  # with its workers, which would otherwise finish a file during the next build
    assert first.wait() == -signal.SIGKILL
    assert not (out / "list_attr_celeba.txt").exists()
    build(out)
    assert content(out) == content(faces)


def test_a_folder_begun_with_other_options_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other options.*choose another folder"):
        build(faces, seed=6)
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="not empty"):
        build(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sample_faces.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        build(tmp_path / "x")
    assert json.loads((faces / "sample_faces.json").read_text())["seed"] == 5


def test_dlib_finds_the_faces_and_their_landmarks(faces: Path) -> None:
    spec = importlib.util.find_spec("face_recognition_models")
    assert spec and spec.submodule_search_locations
    model = Path(spec.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
    find, predict = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))
    found, off = 0, []
    for number in range(1, COUNT + 1):
        gray = cv2.imread(str(faces / "img_align_celeba" / f"{number:06d}.jpg"), cv2.IMREAD_GRAYSCALE)
        boxes = find(gray, 0) or find(gray, 1)
        if not boxes:
            continue
        found += 1
        points = np.array([(p.x, p.y) for p in predict(gray, boxes[0]).parts()])
        view = ROOM.describe(5, number).view
        drawn = view.turn([(-19.4, 0.5), (19.4, 0.5), (0, 44)]) @ view.matrix()[:, :2].T / 2 + view.matrix()[:, 2] / 2
        seen = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[48:60].mean(0)])
        off.append(np.linalg.norm(seen - drawn, axis=1))
    assert found >= 0.95 * COUNT
    assert np.median(off) < 3, "eyes and mouth must be where they were drawn, in pixels"


def plain(**face: Any) -> Any:
    """Return a portrait without anything before the face, its person changed as told."""
    portrait = next(p for p in (ROOM.describe(1, i) for i in range(1, 200)) if not p.face.male and p.length == "long")
    bare: dict[str, Any] = {"hat": "", "glasses": "", "bangs": False, "swept": False, "makeup": False, "grain": 0.0}
    still = {"smile": 0.0, "opening": 0.0, "warmth": 0.0, "view": type(portrait.view)()}
    return replace(portrait, **bare, **still, face=replace(portrait.face, bald=False, receding=False, **face))


def mean(portrait: Any, where: tuple[slice, slice]) -> np.ndarray:
    return PAINT.paint(portrait)[where].reshape(-1, 3).mean(0)  # (rows, columns, 3) -> (pixels, 3)


def change(a: Any, b: Any, where: tuple[slice, slice]) -> float:
    return float(abs(PAINT.paint(a).astype(float) - PAINT.paint(b))[where].mean())


def test_hair_has_its_colour() -> None:
    seen = {n: mean(plain(hair=n, hair_colour=c), HAIR) for n, c in PORTRAIT.HAIR.items()}
    assert seen["black"].max() < 60 < seen["brown"].mean() < seen["blond"].mean()
    assert seen["blond"][0] - seen["blond"][2] > 50, "blond hair is yellow"
    assert np.ptp(seen["gray"]) < 15 < 110 < seen["gray"].mean()
    assert seen["brown"][0] > 1.3 * seen["brown"][2]


def test_bald_and_receding_heads_show_skin() -> None:
    usual = plain(hair="black", hair_colour=PORTRAIT.HAIR["black"], skin=PORTRAIT.SKIN[0])
    bald = replace(usual, face=replace(usual.face, bald=True))
    receding = replace(usual, face=replace(usual.face, receding=True))
    assert mean(bald, HAIR).mean() > mean(usual, HAIR).mean() + 60
    temple = np.s_[54:70, 64:72]
    assert mean(receding, temple).mean() > mean(usual, temple).mean() + 30
    assert PORTRAIT.attributes(bald)["Bald"] and not PORTRAIT.attributes(bald)["Black_Hair"]


def test_pale_skin_is_brighter_than_any_other() -> None:
    lightest = mean(plain(skin=PORTRAIT.SKIN[0], pale=False), FOREHEAD)
    assert mean(plain(skin=PORTRAIT.PALE, pale=True), FOREHEAD).mean() > lightest.mean() + 15


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"glasses": "square"}, EYES),
        ({"bangs": True}, FOREHEAD),
        ({"makeup": True}, EYES),
        ({"makeup": True}, LIPS),
        ({"opening": 1.0}, LIPS),
        ({"smile": 1.0}, LIPS),
        ({"mustache": True}, np.s_[142:150, 72:106]),
        ({"hat": "beanie"}, HAIR),
        ({"hat": "cap"}, HAIR),
        ({"hat": "fedora"}, HAIR),
    ],
)
def test_what_an_attribute_adds_is_to_be_seen(changed: dict[str, Any], where: tuple[slice, slice]) -> None:
    without = plain()
    having = replace(without, **changed)
    assert change(without, having, where) > 5
    before, after = PORTRAIT.attributes(without), PORTRAIT.attributes(having)
    assert sum(after[name] and not before[name] for name in after) == 1
    corner = np.s_[200:, :20]
    assert change(without, having, corner) < 2, "and leaves the rest of the picture as it was"


def test_bushy_brows_are_darker() -> None:
    brows = np.s_[94:104, 56:122]
    assert mean(plain(bushy=True), brows).mean() < mean(plain(bushy=False), brows).mean() - 8
