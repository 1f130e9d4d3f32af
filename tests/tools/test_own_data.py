"""A person's own table, folder and arrays become datasets with holes, and a recipe is drafted for any of them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from support.toys import here, write_circle

import modalkit
from modalkit.data import Dataset
from modalkit.data.inspection import schemas
from modalkit.errors import InputError
from modalkit.recipe.loading import load_recipe

HEADER = ["patient", "blood_1", "blood_2", "smoker", "stage", "visits"]


def patients(rows: int = 40) -> list[list[str]]:
    """Return rows of text with holes: blood is absent in every third row, stage in every fifth."""
    made = []
    for i in range(rows):
        blood = ["", ""] if i % 3 == 1 else [f"{100 + i}.25", f"{-i / 7:.6f}"]
        made.append([f"p{i}", *blood, "yes" if i % 2 else "no", "" if i % 5 == 2 else "I" * (1 + i % 3), str(i % 4)])
    return made


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def everything(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in [out / "manifest.json", *sorted((out / "shards").iterdir())]}


def whole(out: Path) -> tuple[Dataset, dict[str, torch.Tensor], torch.Tensor]:
    data = Dataset(out)
    batch = data[torch.arange(len(data))]
    return data, batch.values, batch.present


def table(cwd: Path, *arguments: object) -> Any:
    return here("build-dataset", "table", *arguments, cwd=cwd)


def test_a_table_is_inferred_shown_edited_and_built(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", patients())
    shown = table(tmp_path, "t.csv", "--out", "data")
    assert shown.returncode == 2 and "--yes" in shown.stderr and "--columns FILE" in shown.stderr
    assert not (tmp_path / "data").exists()
    for line in (
        "ids: patient",
        "blood: {kind: vector, columns: blood_*}  # 2 columns, in 68 % of rows",
        "smoker: {kind: bit, columns: smoker}",
        "stage: {kind: label, columns: stage}",
        "visits: {kind: counts, columns: visits}",
    ):
        assert line in shown.stdout, shown.stdout
    (tmp_path / "columns.yaml").write_text(shown.stdout)
    edited = table(tmp_path, "t.csv", "--out", "edited", "--columns", "columns.yaml")
    accepted = table(tmp_path, "t.csv", "--out", "data", "--yes")
    assert edited.returncode == accepted.returncode == 0, edited.stderr + accepted.stderr
    assert everything(tmp_path / "edited") == everything(tmp_path / "data")

    data, values, present = whole(tmp_path / "data")
    assert [data.key(i) for i in (0, 39)] == ["p0", "p39"]
    assert values["blood"][3].tolist() == [103.25, np.float32(-0.428571)]
    assert present[:, 0].tolist() == [i % 3 != 1 for i in range(40)]
    assert (values["smoker"][:2].tolist(), values["stage"][:2].tolist()) == ([0, 1], [0, 1])
    assert data.manifest.splits == {"train": 32, "valid": 4, "test": 4}
    known = schemas(data)
    assert known["stage"].model_dump()["names"] == ("I", "II", "III")
    train = present[:, 0] & (data.split == 0)
    standard = known["blood"].unpack(values["blood"][train])
    assert torch.allclose(standard.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(standard.std(0, correction=0), torch.ones(2), atol=1e-5)


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", patients())
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    out, before = tmp_path / "data", everything(tmp_path / "data")
    manifest = json.loads((out / "manifest.json").read_text())
    facts = {name: m["facts"] for name, m in manifest["modalities"].items()}
    (out / "build.json").write_text(json.dumps({"builder": manifest["builder"], "shards": 1, "modalities": facts}))
    (out / "manifest.json").unlink()
    (out / "shards/00000.safetensors").unlink()
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    assert everything(out) == before
    other = table(tmp_path, "t.csv", "--out", "data", "--yes", "--seed", 1)
    assert other.returncode == 2 and "seed: 0 there, 1 now" in other.stderr


def test_rows_with_some_of_the_columns_are_counted_filled_or_split(tmp_path: Path) -> None:
    rows = patients()
    rows[0][1] = rows[3][2] = ""
    write_csv(tmp_path / "t.csv", rows)
    absent = table(tmp_path, "t.csv", "--out", "absent", "--yes")
    assert "blood: 2 of 40 rows have only some of its 2 columns" in absent.stderr and "2 cells" in absent.stderr
    assert table(tmp_path, "t.csv", "--out", "mean", "--yes", "--incomplete", "mean").returncode == 0
    assert table(tmp_path, "t.csv", "--out", "split", "--yes", "--incomplete", "split").returncode == 0
    assert not whole(tmp_path / "absent")[2][[0, 3], 0].any()
    data, values, present = whole(tmp_path / "mean")
    column = np.array([float(r[1] or "nan") for r in rows])
    assert present[[0, 3], 0].all()
    assert float(values["blood"][0, 0]) == pytest.approx(np.nanmean(column[(data.split == 0).numpy()]))
    data, values, present = whole(tmp_path / "split")
    assert data.names[:2] == ("blood_1", "blood_2") and present[[0, 3]][:, :2].tolist() == [
        [False, True],
        [True, False],
    ]


def two_tables(folder: Path) -> None:
    """Write the stages and visits of all patients but two, and in another order the blood of most, and of one more."""
    rows = patients()
    write_csv(folder / "stages.csv", [[row[0], *row[4:]] for row in rows[:38]], ["patient", "stage", "visits"])
    blood = [[row[0], *row[1:3]] for row in [*reversed(rows[10:]), ["new", "100.25", "1.5"]]]
    write_csv(folder / "blood.csv", blood, ["patient", "blood_1", "blood_2"])


def test_several_tables_are_joined_by_their_ids_and_filled_as_one(tmp_path: Path) -> None:
    two_tables(tmp_path)
    built = table(tmp_path, "stages.csv", "blood.csv", "--ids", "patient", "--out", "data", "--yes")
    assert built.returncode == 0, built.stderr
    data, values, present = whole(tmp_path / "data")
    keys = [data.key(row) for row in range(len(data))]
    assert keys == [f"p{i}" for i in range(38)] + ["p39", "p38", "new"]
    there = dict(zip(data.names, present.T.tolist(), strict=True))
    assert not any(there["blood"][:10]) and there["blood"][-1] and not any(there["visits"][38:])
    assert values["blood"][keys.index("p12")].tolist() == [112.25, np.float32(-1.714286)]
    assert data.manifest.builder["files"][1]["name"] == "blood.csv"

    (tmp_path / "r.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    short = ("train.max_steps=1", "model.start=random", "train.refit=false")
    trained = here("train", "r.yaml", "--out", "run", *(word for one in short for word in ("--set", one)), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    for name in ("filled.csv", "filled.parquet"):
        done = here("impute", "run", "data", "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "filled.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [row["patient"] for row in cells] == keys and all(all(row.values()) for row in cells)
    assert cells[12]["blood_1"] == "112.25" and cells[-1]["blood_1"] == "100.25"
    typed = parquet.read_table(tmp_path / "filled.parquet").to_pydict()
    assert [str(one) for one in typed["visits"]] == [row["visits"] for row in cells]


JOINS = {
    "no ids": (
        "stages.csv blood.csv",
        "name the column of ids by which they are joined: --ids COLUMN; all of them",
    ),
    "no column": ("stages.csv blood.csv --ids case", "stages.csv: --ids: there is no column 'case'; it has patient"),
    "twice": ("stages.csv twice.csv --ids patient", "twice.csv: line 2 and line 4 have the same 'patient', 'p1'"),
    "common": ("stages.csv again.csv --ids patient", "again.csv: column 'stage' is in stages.csv too"),
    "apart": ("stages.csv apart.csv --ids patient", "has no id in common with the others, such as 'p0' and 'P1'"),
    "empty id": ("stages.csv none.csv --ids patient", "none.csv: line 3 has no 'patient'; give it one"),
}


@pytest.mark.parametrize("case", JOINS)
def test_tables_that_cannot_be_joined_are_refused(case: str, tmp_path: Path) -> None:
    two_tables(tmp_path)
    write_csv(tmp_path / "twice.csv", [["p1", "1"], ["p2", "2"], ["p1", "3"]], ["patient", "x"])
    write_csv(tmp_path / "again.csv", [["p1", "1"], ["p2", "2"]], ["patient", "stage"])
    write_csv(tmp_path / "apart.csv", [["P1", "1"], ["P2", "2"]], ["patient", "x"])
    write_csv(tmp_path / "none.csv", [["p1", "1"], ["", "2"]], ["patient", "x"])
    given, message = JOINS[case]
    done = table(tmp_path, *given.split(), "--out", "data", "--yes")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "data").exists()


def test_columns_of_bits_are_stored_as_they_are_written(tmp_path: Path) -> None:
    cells = [["no" if (i + j) % 3 else "yes" for j in range(4)] for i in range(30)]
    write_csv(tmp_path / "t.csv", cells, [f"flag_{j}" for j in range(4)])
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    assert whole(tmp_path / "data")[1]["flag"].tolist() == [[int(cell == "yes") for cell in row] for row in cells]


def test_columns_that_are_seldom_filled_together_stay_apart(tmp_path: Path) -> None:
    rows = [[f"{i}.5" if i % 3 else "", f"{i}.25" if i % 2 else ""] for i in range(30)]
    write_csv(tmp_path / "t.csv", rows, ["x1", "x2"])
    shown = table(tmp_path, "t.csv", "--out", "data").stdout
    assert "x1: {kind: vector" in shown and "x2: {kind: vector" in shown


def test_parquet_is_read_with_its_types(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "x": pyarrow.array([1.5 * i if i % 4 else None for i in range(20)]),
        "n": pyarrow.array([i % 5 if i % 3 else None for i in range(20)], pyarrow.int64()),
        "b": pyarrow.array([bool(i % 2) for i in range(20)]),
        "c": pyarrow.array(["u", "v"] * 10).dictionary_encode(),
        "day": pyarrow.array([0] * 20, pyarrow.date32()),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    done = table(tmp_path, "t.parquet", "--out", "data", "--yes")
    assert done.returncode == 0 and "day: its type, date32[day], cannot be used" in done.stderr, done.stderr
    data, values, present = whole(tmp_path / "data")
    assert {n: m.facts["kind"] for n, m in data.manifest.modalities.items()} == {
        "x": "vector", "n": "counts", "b": "bit", "c": "label"
    }  # fmt: skip
    assert values["x"][[1, 3], 0].tolist() == [1.5, 4.5] and present[0].tolist() == [False, False, True, True]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert "is not a readable Parquet file" in table(tmp_path, "bad.parquet", "--out", "x", "--yes").stderr


def test_new_rows_are_built_as_the_rows_a_model_knows(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", patients())
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    write_csv(tmp_path / "new.csv", [["q", "3", "4", "III"]], ["patient", "blood_1", "blood_2", "stage"])
    new = ("new.csv", "--out", "new", "--columns", "data", "--train", 0, "--valid", 0)
    done = table(tmp_path, *new)
    assert done.returncode == 0, done.stderr
    data, values, present = whole(tmp_path / "new")
    assert (data.key(0), values["stage"].tolist(), present.tolist()) == ("q", [2], [[True, False, True, False]])
    assert schemas(data)["blood"] == schemas(Dataset(tmp_path / "data"))["blood"]
    write_csv(tmp_path / "new.csv", [["q", "IV"]], ["patient", "stage"])
    wrong = table(tmp_path, "new.csv", "--out", "new2", *new[3:])
    assert wrong.returncode == 2 and "column 'stage', line 2: 'IV' is no class" in wrong.stderr
    assert not (tmp_path / "new2").exists()


def with_cell(row: int, column: int, text: str) -> list[list[str]]:
    rows = patients()
    rows[row][column] = text
    return rows


WRONG: dict[str, tuple[Callable[[], list[list[str]]], tuple[object, ...], str]] = {
    "one row": (lambda: patients(1)[:1], (), "has one row below its header, which is too few"),
    "no rows": (lambda: [], (), "has no rows below its header"),
    "a word among numbers": (lambda: with_cell(6, 1, "high"), (), "'high' in line 8"),
    "too large": (lambda: with_cell(6, 1, "1e39"), (), "line 8: '1e39' is larger than single precision holds"),
    "infinite": (lambda: with_cell(6, 1, "-inf"), (), "column 'blood_1', line 8: '-inf' is infinite"),
    "duplicate ids": (lambda: with_cell(6, 0, "p2"), ("--ids", "patient"), "line 4 and line 8 have the same 'patient'"),
    "no id": (lambda: with_cell(6, 0, ""), ("--ids", "patient"), "line 8 has no 'patient'"),
    "an unknown id column": (patients, ("--ids", "patent"), "no column 'patent' (did you mean 'patient'?)"),
    "a wrong split": (patients, ("--split", "stage"), "line 2: 'I' is not a split; give train, valid or test"),
    "ragged": (lambda: [*patients(), ["p99", "1"]], (), "t.csv:42: has 2 cells, the header 6"),
    "all missing": (lambda: [["", "", "", "", "", ""]] * 5, (), "blood_1: empty in every row"),
    "parts": (patients, ("--train", "0.9", "--valid", "0.2"), "add up to 1.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    rows, options, message = WRONG[case]
    write_csv(tmp_path / "t.csv", rows())
    done = table(tmp_path, "t.csv", "--out", "data", "--yes", *options)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "data").exists()


NO_TABLES = {
    "# prices\na,b,c\n1,2,3\n4,5,6\n": "t.csv:1: '# prices' was taken as the header",
    "1.0 2.0\n2.0 3.0\n4.0 5.0\n": "it is the only one: cells are separated by commas, semicolons or tabs",
    "A text, which is none\nof rows\nand columns,\nnor a list, as such, of any kind\nat all\n": "t.csv: is not a table",
}


@pytest.mark.parametrize("text", NO_TABLES)
def test_what_looks_like_no_table_is_told_why(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    done = table(tmp_path, "t.csv", "--out", "data", "--yes")
    assert done.returncode == 2 and NO_TABLES[text] in done.stderr, done.stderr


def test_a_column_that_is_constant_where_it_trains_is_named_once(tmp_path: Path) -> None:
    rows = [[str(i), "7" if i < 25 else "8", "train" if i < 25 else "test"] for i in range(30)]
    write_csv(tmp_path / "t.csv", rows, ["x", "c", "fold"])
    done = table(tmp_path, "t.csv", "--out", "data", "--yes")
    assert (
        "c: constant in the training rows, so that nothing can be learned" in done.stderr and "c: c:" not in done.stderr
    )


GROUPINGS = {
    "a: blood_3\n": "no column 'blood_3' (did you mean 'blood_2'?)",
    "a: blood_*\n  b: blood_1\n": "the column 'blood_1' is in 'a' already",
    "all: blood_1\n": "c.yaml:2: modalities.all: 'all' stands for all modalities together",
    "a: {columns: blood_1, kind: wat}\n": "unknown kind 'wat'",
    "a: {columns: stage, kind: vector}\n": "column 'stage', line 2: 'I' is not a number",
    "a: {columns: blood_1, kind: counts}\n": "column 'blood_1', line 2: '100.25' is not a whole number",
    "a: {columns: stage, kind: bit}\n": "column 'stage', line 2: 'I' is not a bit",
    "a: {columns: stage, kind: label, names: [I, II]}\n": "column 'stage', line 7: 'III' is no class",
    "a: {columns: [smoker, stage], kind: label}\n": "kind 'label' is one column, not 2",
    "a: {kind: vector}\n": "c.yaml:2: modalities.a.columns: Field required",
}


@pytest.mark.parametrize("text", GROUPINGS)
def test_a_wrong_grouping_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", patients())
    (tmp_path / "c.yaml").write_text(f"modalities:\n  {text}")
    done = table(tmp_path, "t.csv", "--out", "data", "--columns", "c.yaml")
    assert done.returncode == 2 and GROUPINGS[text] in done.stderr, done.stderr
    assert not (tmp_path / "data").exists()


def test_a_wrong_cell_is_found_by_the_line_that_an_editor_shows(tmp_path: Path) -> None:
    lines = [
        "id,note,x",
        'a,"two',
        'lines",1.5',
        "",
        "b,one,2.5",
        "c,one,high",
        *(f"d{i},one,{i}.5" for i in range(20)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert "'high' in line 6. Correct" in table(tmp_path, "t.csv", "--out", "data", "--yes").stderr
    (tmp_path / "t.csv").write_text("\n".join([*lines[:5], 'c,"torn', 'apart"']))
    assert "t.csv:6: has 2 cells" in table(tmp_path, "t.csv", "--out", "data", "--yes").stderr
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"y": [0.5, 1, 2, 3], "x": ["1.5", "high", "2.5", "3.5"]}), tmp_path / "t.parquet"
    )
    assert "'high' in row 2. Correct" in table(tmp_path, "t.parquet", "--out", "data", "--yes").stderr


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    for name, message in (
        ("t.xlsx", "save it as one of these"),
        ("latin.csv", "save it as CSV in UTF-8"),
        ("twice.csv", "two columns are called 'a'"),
        ("empty.csv", "is empty"),
        ("none.csv", "No such file"),
    ):
        done = table(tmp_path, name, "--out", "data", "--yes")
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_what_teaches_nothing_is_said(tmp_path: Path) -> None:
    splits = ["train"] * 25 + ["val", "test", "test", "test", "test"]
    large = [2**53 + 7 * i % 113 for i in range(30)]  # float64 tells them apart, the float32 of a dataset does not
    rows = [
        [str(i), "7", "", "b" if i == 29 else "ac"[i % 2], str(1e7 + i * 1.5), str(large[i]), splits[i]]
        for i in range(30)
    ]
    write_csv(tmp_path / "t.csv", rows, ["id", "same", "void", "rare", "time", "large", "fold"])
    done = table(tmp_path, "t.csv", "--out", "data", "--yes")
    assert done.returncode == 0, done.stderr
    for message in ("same: '7' in every row", "void: empty in every row", "time: large compared with its spread"):
        assert message in done.stderr, done.stderr
    assert "rare: 'b' is in no training row" in done.stderr
    assert "large: numbers such as 9007199254740992, which single precision" in done.stderr
    assert "large" not in Dataset(tmp_path / "data").names
    assert Dataset(tmp_path / "data").manifest.splits == {"train": 25, "valid": 1, "test": 4}


def folder(root: Path, rows: int = 12) -> Path:
    for name in ("photo", "caption", "mood", "sensor", "level"):
        (root / name).mkdir(parents=True)
    for i in range(rows):
        Image.new("RGB", (20, 30), (i * 20, 0, 0)).save(root / f"photo/{i:03d}.png")
        (root / f"caption/{i:03d}.txt").write_text(f"shot {i}\n")
        (root / f"mood/{i:03d}.txt").write_text(["calm", "wild"][i % 2])
        np.save(root / f"sensor/{i:03d}.npy", np.array([i / 3, -i], np.float32))
        (root / f"level/{i:03d}.txt").write_text(f"{i} 2.5e{i % 3}")
    (root / "photo/001.png").unlink()
    return root


def test_a_folder_is_aligned_by_stem(tmp_path: Path) -> None:
    root = folder(tmp_path / "in")
    shown = here("build-dataset", "folder", "in", "--out", "data", "--size", 16, cwd=tmp_path)
    assert shown.returncode == 2 and "--modalities FILE" in shown.stderr
    (tmp_path / "m.yaml").write_text(shown.stdout)
    (root / "photo/002.png").write_bytes(b"no picture")
    (root / "photo/old").mkdir()
    for stray in ("notes.md", "photo/003.raw", "photo/.thumbs"):
        (root / stray).touch()
    done = here("build-dataset", "folder", "in", "--out", "data", "--modalities", "m.yaml", cwd=tmp_path)
    assert done.returncode == 0 and "1 set aside" in done.stdout, done.stderr + done.stdout
    assert "not used: notes.md, photo/003.raw, photo/old; a modality is a subfolder" in done.stderr
    data, values, present = whole(tmp_path / "data")
    assert {n: m.facts["kind"] for n, m in data.manifest.modalities.items()} == {
        "caption": "tokens", "level": "vector", "mood": "label", "photo": "image", "sensor": "vector"
    }  # fmt: skip
    assert [data.key(i) for i in range(3)] == ["000", "001", "002"]
    assert present[:4, 3].tolist() == [True, False, False, True] and present[:, [0, 1, 2, 4]].all()
    assert values["photo"][3, :, 8, 8].tolist() == [60, 0, 0]
    assert values["sensor"][5].tolist() == [np.float32(5 / 3), -5.0] and values["level"][2].tolist() == [2, 250]
    assert "photo/002.png\t" in (tmp_path / "data/set_aside.tsv").read_text()


def test_a_folder_of_sounds(tmp_path: Path) -> None:
    (tmp_path / "in/clap").mkdir(parents=True)
    for i, seconds in enumerate((0.5, 0.6, 0.9)):
        tone = np.sin(np.arange(int(8000 * seconds)) * (0.1 + 0.1 * i)).astype(np.float32)
        soundfile.write(tmp_path / f"in/clap/{i}.wav", tone, 8000)
    (tmp_path / "in/clap/3.wav").write_bytes(b"no sound")
    done = here("build-dataset", "folder", "in", "--out", "data", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "1 set aside" in done.stdout, done.stderr + done.stdout
    data, values, _ = whole(tmp_path / "data")
    facts = data.manifest.modalities["clap"].facts
    assert (facts["kind"], facts["sample_rate"], facts["seconds"]) == ("audio", 8000, 0.6)
    assert values["clap"].shape == (4, 1, 64, 1 + 4800 // 256) and values["clap"][0].max() > 0


def test_arrays_of_channels_and_steps_mention_series(tmp_path: Path) -> None:
    (tmp_path / "in/wave").mkdir(parents=True)
    for i in range(12):
        np.save(tmp_path / f"in/wave/{i}.npy", np.random.default_rng(i).normal(size=(1, 64)))
    done = here("build-dataset", "folder", "in", "--out", "data", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "{kind: series, channels: 1, length: 64}" in done.stderr, done.stderr
    (tmp_path / "m.yaml").write_text("wave: {kind: series, channels: 1, length: 64}\n")
    again = here("build-dataset", "folder", "in", "--out", "s", "--modalities", "m.yaml", cwd=tmp_path)
    assert again.returncode == 0 and Dataset(tmp_path / "s").manifest.modalities["wave"].facts["kind"] == "series"


def test_a_folder_that_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice/a").mkdir(parents=True)
    for name in ("1.png", "1.jpg"):
        Image.new("L", (8, 8)).save(tmp_path / "twice/a" / name)
    (tmp_path / "mixed/a").mkdir(parents=True)
    (tmp_path / "mixed/a/1.txt").write_text("x")
    np.save(tmp_path / "mixed/a/2.npy", np.zeros(2))
    for name, message in (
        ("empty", "no subfolder has a file that can be used"),
        ("nowhere", "is not a folder"),
        ("twice", "1.jpg and 1.png have the same stem"),
        ("mixed", "holds both 1.txt and 2.npy"),
    ):
        done = here("build-dataset", "folder", name, "--out", "data", "--yes", cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert not (tmp_path / "data").exists()


def test_arrays_with_nan_rows_and_masks(tmp_path: Path) -> None:
    spectrum = np.random.default_rng(0).normal(50, 9, (30, 4)).astype(np.float32)
    spectrum[3], spectrum[5, 1] = np.nan, np.nan
    arrays = {
        "spectrum": spectrum,
        "state": np.arange(30) % 3,
        "picture": np.zeros((30, 12, 12), np.uint8),
        "state_present": np.arange(30) < 20,
        "ids": np.array([f"r{i}" for i in range(30)]),
        "split": np.array(["train"] * 20 + ["valid"] * 5 + ["test"] * 5),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    done = here("build-dataset", "arrays", "a.npz", "--out", "data", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "1 of 30 rows have only some of its 4 columns" in done.stderr, done.stderr
    data, values, present = whole(tmp_path / "data")
    assert data.key(7) == "r7" and data.manifest.splits == {"train": 20, "valid": 5, "test": 5}
    assert torch.equal(values["spectrum"][6:], torch.from_numpy(spectrum[6:]))
    assert present.sum(0).tolist() == [28, 20, 30] and values["picture"].shape == (30, 1, 12, 12)
    for change, message in (
        ({"state": np.arange(29) % 3}, "'state' has 29 rows, 'spectrum' 30"),
        ({"ids": np.array(["x"] * 30)}, "ids: 'x' is there twice"),
        (
            {"spectrum": np.where(np.isnan(spectrum), np.inf, spectrum)},
            "'spectrum', row 4 (counted from 1): is infinite",
        ),
        ({"state_present": np.arange(30)}, "should be 30 booleans"),
        ({"split": np.array(["tain"] * 30)}, "split, row 1 (counted from 1): 'tain' is not a split"),
    ):
        np.savez(tmp_path / "b.npz", **(arrays | change))
        wrong = here("build-dataset", "arrays", "b.npz", "--out", "wrong", "--yes", cwd=tmp_path)
        assert wrong.returncode == 2 and message in wrong.stderr, wrong.stderr
        assert not (tmp_path / "wrong").exists()
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    assert "is not an .npz" in here("build-dataset", "arrays", "c.npz", "--out", "wrong", "--yes", cwd=tmp_path).stderr


def test_arrays_and_texts_in_memory_are_in_the_stored_unit(tmp_path: Path) -> None:
    kinds = {"x": modalkit.schema("vector", size=2, standardize={"loc": [5, 6], "scale": [2, 3]})}
    for name, values in (("arrays", np.array([[7.5, 0.1]] * 4)), ("texts", ["7.5 0.1"] * 4)):
        modalkit.write_dataset(tmp_path / name, kinds, {"x": values})
        assert torch.allclose(whole(tmp_path / name)[1]["x"], torch.tensor([7.5, 0.1]))


def test_masked_rows_of_arrays_in_memory_are_absent(tmp_path: Path) -> None:
    values = np.ma.masked_array(np.arange(20.0).reshape(10, 2), np.zeros((10, 2), bool))
    values[4] = np.ma.masked
    kinds = {"x": modalkit.schema("vector", size=2)}
    assert modalkit.write_dataset(tmp_path / "d", kinds, {"x": values}).modalities["x"].present == 9
    values[5, 0] = np.ma.masked
    with pytest.raises(InputError, match="'x': row 5 is masked in part"):
        modalkit.write_dataset(tmp_path / "e", kinds, {"x": values})


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.none(), st.tuples(finite, finite)), min_size=4, max_size=30))
def test_values_come_back_in_their_units_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float] | None]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    write_csv(folder / "t.csv", [["", ""] if r is None else [repr(x) for x in r] for r in rows], ["v_1", "v_2"])
    (folder / "c.yaml").write_text("modalities: {v: {columns: v_*, kind: vector}}\n")
    done = table(folder, "t.csv", "--out", "data", "--columns", "c.yaml", "--train", 1, "--valid", 0)
    if all(r is None for r in rows):
        assert done.returncode == 2 and "present in no training row" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    _, values, present = whole(folder / "data")
    assert present[:, 0].tolist() == [r is not None for r in rows]
    expected = [r or (0.0, 0.0) for r in rows]
    assert values["v"].tolist() == [list(map(float, r)) for r in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(finite, st.floats(1e-3, 1e3), st.floats(-4, 4)), min_size=1, max_size=5))
def test_standardised_numbers_are_read_shown_and_packed_in_their_units(
    numbers: list[tuple[float, float, float]],
) -> None:
    loc, scale, standard = zip(*[(np.clip(a, -1e4, 1e4), b, c) for a, b, c in numbers], strict=True)
    schema = modalkit.schema("vector", size=len(numbers), standardize={"loc": list(map(float, loc)), "scale": scale})
    value = torch.tensor([standard])
    own = np.array(standard) * scale + loc
    assert np.allclose(schema.pack(value)[0].numpy(), own, rtol=1e-5, atol=1e-2)
    assert torch.allclose(schema.unpack(schema.pack(value)), value, atol=4e-3 / min(scale) + 1e-4)
    from modalkit.registry import modality

    read = modality("vector").read(schema, " ".join(map(repr, own.tolist())))
    assert torch.allclose(read, value[0], atol=4e-3 / min(scale) + 1e-4)


def test_a_recipe_is_drafted_for_a_table_and_trains_as_it_is(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", patients(60))
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    drafted = here("init", "data", cwd=tmp_path)
    assert drafted.returncode == 0, drafted.stderr
    (tmp_path / "mine.yaml").write_text(drafted.stdout)
    assert "standardize" not in drafted.stdout and "# " in drafted.stdout
    assert here("validate", "mine.yaml", cwd=tmp_path).returncode == 0
    trained = here("train", "mine.yaml", "--set", "train.max_steps=4", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    # What the recipe leaves to the dataset is in the run's own copy, so that the run can be asked about other data.
    resolved = load_recipe(tmp_path / "runs/mine/recipe.yaml").modalities
    assert resolved["blood"].model_dump()["names"] == ("blood_1", "blood_2")
    assert resolved["blood"].model_dump()["standardize"] is not None
    again = here("train", "mine.yaml", "--set", "train.max_steps=4", cwd=tmp_path)
    # The second fit says the same, unless it has no step because the start was best.
    assert again.returncode == 0 and re.search("already complete|refit for 0 epochs", again.stderr), again.stderr
    assert here("train", "runs/mine", cwd=tmp_path).returncode == 0


def test_a_recipe_is_drafted_for_any_kinds(tmp_path: Path) -> None:
    write_circle(tmp_path)
    (tmp_path / "mine.yaml").write_text(here("init", "circle", cwd=tmp_path).stdout)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert list(recipe.modalities) == ["image", "position", "class", "counts"]
    assert here("validate", "mine.yaml", cwd=tmp_path).returncode == 0
    assert recipe.objective.model_dump().get("k") == 1 and recipe.objective.beta == 1
    missing = here("init", "nowhere", cwd=tmp_path)
    assert missing.returncode == 2 and "there is no such dataset" in missing.stderr


def test_the_draft_of_a_table_starts_at_a_factor_analysis(tmp_path: Path) -> None:
    rows = [[str(i), *(f"{(i * place) % 7 + 0.5}" for place in range(1, 6)), "ab"[i % 2]] for i in range(60)]
    write_csv(tmp_path / "t.csv", rows, ["id", "v", "w", "x", "y", "z", "side"])
    assert table(tmp_path, "t.csv", "--out", "data", "--yes").returncode == 0
    (tmp_path / "mine.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    recipe = load_recipe(tmp_path / "mine.yaml")
    options = recipe.objective.model_dump()
    assert (options["k"], options["singles"], options["beta"]) == (1, 0, 1)
    assert (recipe.model.experts, recipe.model.start) == ("low_rank", "factor_analysis")
    assert recipe.train.refit
    trained = here("train", "mine.yaml", "--set", "train.max_steps=2", cwd=tmp_path)
    assert trained.returncode == 0 and "with the weights of the refit" in trained.stdout, trained.stderr
    # Without test rows, errors would be those of rows that a refit has trained on.
    held = table(tmp_path, "t.csv", "--out", "held", "--yes", "--train", 0.8, "--valid", 0.2)
    assert held.returncode == 0, held.stderr
    assert "refit" not in here("init", "held", cwd=tmp_path).stdout


def test_so_few_rows_are_said_to_teach_little(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [[str(i), f"{i * i / 7:.3f}", "ab"[i % 2]] for i in range(11)], ["id", "x", "side"])
    built = table(tmp_path, "t.csv", "--out", "data", "--yes")
    assert "9 training rows are too few to learn much, and scores on 1 test row mean nothing" in built.stderr, (
        built.stderr
    )
    (tmp_path / "r.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    trained = here("train", "r.yaml", "--set", "train.max_steps=2", "--out", "run", cwd=tmp_path)
    assert (
        "on the 1 test row that has both\n(too few rows for standard errors)" in trained.stdout
        and "nan" not in trained.stdout
    )
    new = table(tmp_path, "t.csv", "--out", "new", "--columns", "data", "--train", 0, "--valid", 0)
    assert new.returncode == 0 and "too few to learn" not in new.stderr
