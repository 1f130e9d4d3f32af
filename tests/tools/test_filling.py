"""A person's table comes back with its gaps filled: what was known as it was, and what was filled said."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from support.toys import here

from modalkit.data import Dataset

HEADER = ["patient", "blood_1", "blood_2", "blood_3", "age", "smoker", "flag_1", "flag_2", "stage", "visits", "note"]


def patients(rows: int = 60) -> list[list[str]]:
    """Return rows of text; every sixth has only one number of its blood, and all columns have holes."""
    draw, made = random.Random(0), []
    for i in range(rows):
        blood = [f"{100 + draw.gauss(0, 3):.2f}", f"{draw.gauss(0, 1):.4f}", f"{5 + draw.random():.1f}0"]
        if i % 6 == 1:
            blood = ["", blood[1], "NA"]
        elif i % 6 == 4:
            blood = ["", "", ""]
        flags = ["TRUE" if draw.random() < 0.5 else "FALSE" for _ in range(2)]
        if i % 10 == 3:
            flags[0] = ""
        line = [str(30 + i % 40), "yes" if i % 2 else "no", *flags, "I" * (1 + i % 3), str(i % 4)]
        holes = {0: i % 7 == 2, 1: i % 8 == 5, 4: i % 5 == 2, 5: i % 9 == 4}
        line = ["" if holes.get(place) else cell for place, cell in enumerate(line)]
        made.append([f"p{i:02d}", *blood, *line, f'said "no, {i}"' if i % 3 else ""])
    return made


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER, separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, the dataset made of it, and a run of a few steps."""
    folder = tmp_path_factory.mktemp("filling")
    write_csv(folder / "patients.csv", patients())
    built = here("build-dataset", "table", "patients.csv", "--out", "data", "--yes", cwd=folder)
    assert built.returncode == 0, built.stderr
    (folder / "mine.yaml").write_text(here("init", "data", cwd=folder).stdout)
    trained = here("train", "mine.yaml", "--set", "train.max_steps=4", "--out", "run", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    done = here("impute", "run", "data", "-o", "complete", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_known_cells_of_partly_filled_groups_stay(work: Path) -> None:
    dataset = Dataset(work / "data")
    assert {n: m.partly for n, m in dataset.manifest.modalities.items() if m.partly} == {"blood": 10, "flag": 6}
    assert here("inspect", "data", cwd=work).stdout.count("10 more in part") == 1
    for options in ((), ("--sample",)):
        out = "-".join(("complete", *options))
        assert here("impute", "run", "data", "-o", out, *options, cwd=work).returncode == 0
        filled, rows = Dataset(work / out), torch.arange(60)
        assert bool(filled.present.all()) and not any(m.partly for m in filled.manifest.modalities.values())
        table = parquet.read_table(work / out / "imputed").to_pydict()
        blood, flags = filled.values("blood", rows), filled.values("flag", rows)
        for i, line in enumerate(patients()):
            known = [cell not in ("", "NA") for cell in line[1:4]]
            for place in range(3):
                assert table[f"blood.imputed.{place}"][i] is not known[place]
                assert (table[f"blood.scale.{place}"][i] is None) is known[place]
                if known[place]:
                    assert float(blood[i, place]) == float(torch.tensor(float(line[1 + place])))
            for place in range(2):
                assert (table[f"flag.probability.{place}"][i] is None) is bool(line[6 + place])
                if line[6 + place]:
                    assert flags[i, place] == (line[6 + place] == "TRUE")
            assert table["blood.imputed"][i] is not all(known)
        sure = [p for p in table["smoker.probability"] if p is not None]
        assert len(sure) == sum(not line[5] for line in patients()) and all(0 < p < 1 for p in sure)
        assert options or min(sure) >= 0.5


def read(path: Path, separator: str = ",") -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter=separator)
    return header, rows


def test_the_table_comes_back_in_its_own_layout(work: Path) -> None:
    done = here("impute", "run", "data", "-o", "filled.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "how sure each is: filled-uncertainty.csv" in done.stdout and "note 20" in done.stderr
    header, rows = read(work / "filled.csv")
    same, unsure = read(work / "filled-uncertainty.csv")
    assert header == same == HEADER and len(rows) == len(unsure) == 60
    words = {4: None, 5: {"yes", "no"}, 6: {"TRUE", "FALSE"}, 7: {"TRUE", "FALSE"}, 8: {"I", "II", "III"}, 9: None}
    for before, after, sure in zip(patients(), rows, unsure, strict=True):
        assert before[0] == after[0] == sure[0]
        for place, (old, new, how) in enumerate(zip(before, after, sure, strict=True)):
            if place in (0, 10) or old not in ("", "NA"):
                assert new == old and (place == 0 or how == "")
                continue
            if place in (1, 2, 3):
                assert len(new.partition(".")[2]) <= (2, 4, 2)[place - 1] and float(how) > 0
            elif words[place] is None:
                assert new.isdigit() and float(how) > 0  # integers stay integers
            else:
                assert new in words[place] and 0 < float(how) <= 1
    complete = Dataset(work / "complete")
    blood = complete.values("blood", torch.arange(60))
    assert all(abs(float(line[2]) - float(blood[i, 1])) < 6e-5 for i, line in enumerate(rows))


def test_whole_numbers_are_whole_in_a_filled_dataset_too(work: Path) -> None:
    assert Dataset(work / "data").manifest.modalities["age"].facts["whole"] is True
    ages = Dataset(work / "complete").values("age", torch.arange(60))
    assert torch.equal(ages, ages.round()) and bool((ages >= 0).all())
    assert "whole" not in Dataset(work / "data").manifest.modalities["blood"].facts


def test_a_filled_table_as_parquet_has_types(work: Path) -> None:
    assert here("impute", "run", "data", "-o", "filled.parquet", cwd=work).returncode == 0
    assert here("impute", "run", "data", "-o", "filled.tsv", cwd=work).returncode == 0
    table, texts = parquet.read_table(work / "filled.parquet"), read(work / "filled.tsv", "\t")[1]
    kinds = {name: str(table.schema.field(name).type) for name in HEADER}
    assert kinds == {
        "patient": "string", "blood_1": "double", "blood_2": "double", "blood_3": "double", "age": "int64",
        "smoker": "string", "flag_1": "string", "flag_2": "string", "stage": "string", "visits": "int64",
        "note": "string",
    }  # fmt: skip
    assert [float(line[1]) for line in texts] == table["blood_1"].to_pylist()
    unsure = parquet.read_table(work / "filled-uncertainty.parquet")
    assert unsure.column_names == HEADER and unsure["patient"].to_pylist() == table["patient"].to_pylist()
    assert unsure["age"].null_count == sum(bool(line[4]) for line in patients())


def test_new_rows_are_filled_and_parquet_keeps_its_types(work: Path) -> None:
    import pyarrow

    columns = {
        "patient": pyarrow.array(["a", "b", "c"]),
        "day": pyarrow.array([0, None, 2], pyarrow.date32()),
        "age": pyarrow.array([41.0, None, 42.0]),
        "blood_1": pyarrow.array([100.5, None, 99.25]), "blood_2": pyarrow.array([0.5, None, None], pyarrow.float32()),
        "blood_3": pyarrow.array([5.5, None, 5.25]), "smoker": pyarrow.array([True, None, True]),
        "visits": pyarrow.array([1, None, 2], pyarrow.int16()),
        "flag_1": pyarrow.array(["TRUE", None, "TRUE"]).dictionary_encode(),
        "flag_2": pyarrow.array(["FALSE", None, "TRUE"]),
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), work / "new.parquet")
    options = ("--columns", "data", "--train", 0, "--valid", 0)
    built = here("build-dataset", "table", "new.parquet", "--out", "new", *options, cwd=work)
    assert built.returncode == 0, built.stderr
    assert here("impute", "run", "new", "-o", "new-filled.parquet", cwd=work).returncode == 0
    found = parquet.read_table(work / "new-filled.parquet")
    assert found.column_names == [*columns, "stage"]  # which the new rows lacked, is added
    assert [found.schema.field(name).type for name in columns] == [column.type for column in columns.values()]
    rows = found.to_pylist()
    assert rows[0]["blood_1"] == 100.5 and rows[2]["blood_3"] == 5.25 and rows[2]["blood_2"] is not None
    assert (
        rows[1]["day"] is None and rows[1]["age"].is_integer() and all(r["stage"] in ("I", "II", "III") for r in rows)
    )
    assert here("impute", "run", "new", "-o", "new-filled.csv", cwd=work).returncode == 0
    header, texts = read(work / "new-filled.csv")
    assert header == found.column_names and texts[0][:4] == ["a", "1970-01-01", "41", "100.5"]
    assert texts[1][header.index("flag_1")] in ("TRUE", "FALSE") and texts[1][header.index("smoker")] in (
        "True",
        "False",
    )


def test_semicolons_marks_of_excel_and_own_words_for_nothing_stay(work: Path) -> None:
    header = ["patient", "blood_1", "blood_2", "blood_3", "smoker"]
    text = ";".join(header) + "\r\n" + "x;-999; 2.5 ;3;no\r\n" + "y;101.5;?;?;\r\n"
    (work / "excel.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    options = ("--columns", "data", "--train", 0, "--valid", 0, "--missing", "-999,?")
    built = here("build-dataset", "table", "excel.csv", "--out", "excel", *options, cwd=work)
    assert built.returncode == 0, built.stderr
    assert here("impute", "run", "excel", "-o", "excel-filled.csv", cwd=work).returncode == 0
    raw = (work / "excel-filled.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf" + text.splitlines()[0].encode()) and raw.count(b"\r\n") == 3
    first, second = (line.split(";") for line in raw.decode("utf-8-sig").splitlines()[1:])
    assert first[0] == "x" and first[1] != "-999" and first[2:5] == [" 2.5 ", "3", "no"]
    assert second[:2] == ["y", "101.5"] and "?" not in second and second[4] in ("yes", "no")
    # What the new rows do not tell is written as the table that the model knows writes it.
    assert second[5].isdigit() and second[6] in ("TRUE", "FALSE") and second[8] in ("I", "II", "III")
    assert len(second[2].partition(".")[2]) > 1


def test_gaps_that_were_filled_with_means_are_as_unsure_as_their_column(work: Path) -> None:
    options = ("--yes", "--incomplete", "mean")
    assert here("build-dataset", "table", "patients.csv", "--out", "mean", *options, cwd=work).returncode == 0
    (work / "mean.yaml").write_text(here("init", "mean", cwd=work).stdout)
    assert here("train", "mean.yaml", "--set", "train.max_steps=2", "--out", "mean-run", cwd=work).returncode == 0
    assert here("impute", "mean-run", "mean", "-o", "mean.csv", cwd=work).returncode == 0
    rows, unsure = read(work / "mean.csv")[1], read(work / "mean-uncertainty.csv")[1]
    gaps = [i for i, line in enumerate(patients()) if not line[1] and line[2]]
    assert len({rows[i][1] for i in gaps}) == len({unsure[i][1] for i in gaps}) == 1 and float(unsure[gaps[0]][1]) > 1


def test_a_dataset_of_no_table_is_filled_as_one_all_the_same(work: Path) -> None:
    assert here("impute", "run", "complete", "-o", "general.csv", cwd=work).returncode == 0
    header, rows = read(work / "general.csv")
    assert header[:2] == ["key", "split"] and "blood.0" in header and len(rows) == 60
    assert not (work / "general-uncertainty.csv").exists()


def test_a_table_that_cannot_be_written_is_refused(work: Path) -> None:
    for name in ("filled.xlsx", "filled.txt"):
        done = here("impute", "run", "data", "-o", name, cwd=work)
        assert done.returncode == 2 and "FILE.csv, FILE.tsv or FILE.parquet" in done.stderr
    done = here("impute", "run", "data", "-o", "patients.csv", cwd=work)
    assert done.returncode == 2 and "choose another name" in done.stderr
    assert read(work / "patients.csv") == (HEADER, patients())
    copy = work / "data" / "table.csv"
    content = copy.read_bytes()
    for change, message in ((b"a,b\n1,2\n", "has changed"), (None, "is missing")):
        copy.unlink() if change is None else copy.write_bytes(change)
        done = here("impute", "run", "data", "-o", "never.csv", cwd=work)
        assert done.returncode == 2 and message in done.stderr and not list(work.glob("never*"))
    again = here("build-dataset", "table", "patients.csv", "--out", "data", "--yes", cwd=work)
    assert again.returncode == 0 and copy.read_bytes() == content  # the build brings it back


def test_rows_without_anything_get_one_answer_and_constants_their_value(tmp_path: Path) -> None:
    draw, rows = random.Random(0), []
    for i in range(60):
        a, nothing = draw.gauss(0, 1), i % 7 == 3
        x, y = ("", "") if nothing else (f"{a:.4f}", "" if i % 5 == 1 else f"{2 * a:.4f}")
        constant = "" if i % 3 == 0 else "7.5"
        lone = "yes" if constant else ""
        rows.append([f"r{i}", x, y, constant, lone, "Chile" if i % 4 else "", "seen" if i == 5 else ""])
    write_csv(tmp_path / "t.csv", rows, ["id", "x", "y", "constant", "lone", "country", "note"])
    built = here("build-dataset", "table", "t.csv", "--out", "data", "--yes", cwd=tmp_path)
    assert "constant: '7.5' in every row that has it" in built.stderr
    (tmp_path / "r.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    assert here("train", "r.yaml", "--set", "train.max_steps=4", "--out", "run", cwd=tmp_path).returncode == 0
    found = set()
    for seed in (0, 1):
        done = here("impute", "run", "data", "-o", "filled.csv", "--seed", seed, cwd=tmp_path)
        assert "9 rows have nothing to infer from: filled with what the model expects of any row" in done.stdout
        assert "the one value that their column holds: constant 20, country 15" in done.stderr
        assert "stay empty, since the model does not infer them or they are pictures: lone 20, note 59" in done.stderr
        (_, filled), (_, unsure) = read(tmp_path / "filled.csv"), read(tmp_path / "filled-uncertainty.csv")
        found |= {tuple(line[1:3]) for line, before in zip(filled, rows, strict=True) if not before[1]}
        assert {(line[3], line[5]) for line in filled} == {("7.5", "Chile")}
        assert {line[3] for line in unsure} == {"", "0"} and {line[5] for line in unsure} == {"", "1"}
    assert len(found) == 1
    drawn = here("impute", "run", "data", "-o", "drawn.csv", "--sample", cwd=tmp_path)
    assert "9 rows have nothing to infer from: filled with samples of what any row might be" in drawn.stdout
    several = {line[1] for line, before in zip(read(tmp_path / "drawn.csv")[1], rows, strict=True) if not before[1]}
    assert len(several) == 9
    sampled = here("sample", "run", "-n", 4, "-o", "prior", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "prior").iterdir()} - {".lock"} == {"samples.csv", "answer.json"}
    header, prior = read(tmp_path / "prior" / "samples.csv")
    assert header == ["x", "y"] and len(prior) == 4 and all(cell in sampled.stdout for line in prior for cell in line)
