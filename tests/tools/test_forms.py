"""Numbers as people write them: read by column, named in the proposal, and written back in the same form."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modalkit_tools.own_data.forms import NumberForm, forms
from support.toys import here

from modalkit.data import Dataset

ROWS = 60


def write(folder: Path, columns: dict[str, list[str]], separator: str = ";") -> Path:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, delimiter=separator)
        lines.writerow(columns)
        lines.writerows(zip(*columns.values(), strict=True))
    return folder / "t.csv"


def shown(folder: Path, *options: str) -> str:
    done = here("build-dataset", "table", "t.csv", "--out", "d", *options, cwd=folder)
    assert done.returncode == 2 and "nothing was built" in done.stderr, done.stderr
    return done.stdout


def built(folder: Path, *options: str) -> Dataset:
    done = here("build-dataset", "table", "t.csv", "--out", "d", "--yes", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Dataset(folder / "d")


def numbers(data: Dataset, name: str) -> list[float]:
    return [value[0] for value in data.values(name, data.rows("train").new_tensor(range(ROWS))).tolist()]


READ = {  # cells, separator, what the first is read as
    "decimal comma": (["1,51", "2", "-0,25"], ";", 1.51),
    "comma and points": (["1.234,50", "7"], ";", 1234.5),
    "points alone": (["1.234.567", "5"], ",", 1234567),
    "thousands": (["1,234.50", "7"], ",", 1234.5),
    "spaces": (["1 234", "7"], ",", 1234),
    "apostrophes": (["1'234.5", "7"], ",", 1234.5),
    "percent": (["12 %", "3.5 %"], ",", 12),
    "currency": (["€ 5", "€ 1,234.50"], ",", 5),
    "minus before currency": (["-$5", "$7"], ",", -5),
    "currency before minus": (["$-5", "$7"], ",", -5),
    "comma between thousands, or decimal": (["1,234", "5,678"], ",", 1234),
    "the same, separated by semicolons": (["1,234", "5,678"], ";", 1.234),
    "exponent": (["1,5e3", "2"], ";", 1500),
}


@pytest.mark.parametrize("name", READ)
def test_a_column_is_read_by_all_of_its_cells(name: str) -> None:
    cells, separator, expected = READ[name]
    form = forms({"x": cells}, separator)["x"]
    assert float(form.plain(cells[0])) == expected


PLAIN = {
    "numbers": ["1.5", "-2", "1e5"],
    "three decimals": ["1.234", "5.678"],
    "codes": ["01234", "00012"],
    "mixed units": ["5 %", "6 €"],
    "units in some cells": ["5 %", "6"],
    "words": ["1,5", "many"],
    "both marks": ["1,5", "2.5"],
    "nothing": ["", ""],
}


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("name", PLAIN)
def test_other_columns_stay_as_they_are(name: str, separator: str) -> None:
    assert forms({"x": PLAIN[name]}, separator) == {}


def test_columns_that_show_the_mark_decide_for_others() -> None:
    unclear = {"a": ["1,234"], "b": ["1.234"]}
    comma = forms(unclear | {"c": ["2,5"]}, ",")
    assert (comma["a"].plain("1,234"), comma["b"].plain("1.234")) == ("1.234", "1234")
    point = forms(unclear | {"c": ["2.5"]}, ";")
    assert point["a"].plain("1,234") == "1234" and "b" not in point
    assert comma["a"].guessed and comma["b"].guessed and not comma["c"].guessed
    said = forms(unclear | {"c": ["2,5"]}, ",", ".")
    assert said["a"].plain("1,234") == "1234" and "b" not in said and said["c"].plain("2,5") == "2.5"


def test_numbers_of_a_typed_file_are_never_read_anew() -> None:
    assert set(forms({"float": ["1.234", "5.678"], "text": ["1,5"]}, "")) == {"text"}


FORMS = st.builds(
    lambda marks, before, after: NumberForm(*marks, before, after),
    st.sampled_from([(".", ""), (",", ""), (",", "."), (".", ","), (",", " "), (".", "'")]),
    st.sampled_from(["", "€ ", "$"]),
    st.sampled_from(["", " %", " EUR"]),
)


@given(FORMS, st.decimals(-(10**9), 10**9, places=3))
def test_what_is_written_is_read_again(form: NumberForm, number: Decimal) -> None:
    assert Decimal(form.plain(form.written(f"{number:f}"))) == number


def test_a_table_with_decimal_commas_is_imputed_in_its_own_form(tmp_path: Path) -> None:
    height = [f"{1.4 + i % 41 / 100:.2f}".replace(".", ",") if i % 7 else "" for i in range(ROWS)]
    share = [f"{10 + i * 7 % 60} %" if i % 5 else "" for i in range(ROWS)]
    pay = [f"{1 + i % 9}.{100 + i},50 €" if i % 6 else "" for i in range(ROWS)]
    write(tmp_path, {"height": height, "share": share, "pay": pay})
    text = shown(tmp_path)
    assert "height: {kind: vector, columns: height}" in text
    assert "#   height: numbers with a decimal comma: '1,41' is 1.41" in text
    assert "the unit '%'" in text and "'.' between thousands" in text
    data = built(tmp_path)
    assert numbers(data, "height")[1] == pytest.approx(1.41) and numbers(data, "share")[1] == 17
    assert numbers(data, "pay")[1] == 2101.5
    (tmp_path / "r.yaml").write_text(
        "data: {path: d}\nmodalities: {height: {kind: vector, size: 1}, share: {kind: vector, size: 1}, "
        "pay: {kind: vector, size: 1}}\nmodel: {latent_dim: 2}\n"
        "train: {epochs: 1, accelerator: cpu, pictures_every: 0}\n"
    )
    for command in (("train", "r.yaml", "--out", "run"), ("impute", "run", "d", "-o", "f.csv", "--draws", "4")):
        done = here(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    for i, row in enumerate(rows):
        assert all(row[n] == old[i] for n, old in (("height", height), ("share", share), ("pay", pay)) if old[i])
    assert rows[0]["height"].replace(",", "").isdigit() and "." not in rows[0]["height"]
    assert rows[0]["share"].endswith(" %") and rows[0]["pay"].endswith(" €")
    again = forms({name: [row[name] for row in rows] for name in ("height", "share", "pay")}, ";")
    assert again["height"].decimal == again["pay"].decimal == "," and again["share"].after == " %"
    assert "." not in (tmp_path / "f-uncertainty.csv").read_text(encoding="utf-8")
    done = here("impute", "run", "d", "-o", "f.parquet", "--draws", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parquet = pytest.importorskip("pyarrow.parquet")
    typed = parquet.read_table(tmp_path / "f.parquet")
    assert typed["height"].to_pylist()[1] == 1.41 and typed["pay"].to_pylist()[1] == 2101.5


def test_an_option_says_the_decimal_mark(tmp_path: Path) -> None:
    write(tmp_path, {"x": [f"{i % 9 + 1},{100 + i}" for i in range(ROWS)], "y": ["a", "b"] * (ROWS // 2)})
    assert "'1,100' is 1.100; if not, add --decimal '.'" in shown(tmp_path)
    assert "'1,100' is 1100\n" in shown(tmp_path, "--decimal", ".")
    assert numbers(built(tmp_path, "--decimal", "."), "x")[0] == 1100


def test_a_kind_of_texts_sees_the_cells_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, {"x": ["10 %", "20 %"] * (ROWS // 2), "y": ["a", "b"] * (ROWS // 2)})
    (tmp_path / "c.yaml").write_text("modalities: {x: {columns: x, kind: label}, y: y}\n")
    data = built(tmp_path, "--columns", "c.yaml")
    assert data.manifest.modalities["x"].facts["names"] == ["10 %", "20 %"]


def test_ids_codes_dates_and_times_are_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "x": [str(i % 13 / 4) for i in range(ROWS)],  # texts that differ in every row, if first, name the rows
            "zip": [f"{i * 37 % 9000 + 100:05d}" for i in range(ROWS)],
            "area": [f"{i % 4:02d}" for i in range(ROWS)],
            "number": [str(1000 + (i * 7) % ROWS) for i in range(ROWS)],
            "day": [f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(ROWS)],
            "at": [f"{i % 24}:{i % 60:02d}" for i in range(ROWS)],
            "case": [str(500_000 + i * 977 % 40_009) for i in range(ROWS)],
            "seen": [str(1_700_000_000 + i * 86_411) for i in range(ROWS)],
        },
        ",",
    )
    text = shown(tmp_path)
    kinds, rest = text.split("# Please check:")
    check, left = rest.split("# Left out:")
    assert "zip: 60 different codes such as '00100', whose zeros count, look like ids" in left
    assert "area: {kind: label" in kinds and "case: {kind: vector" in kinds
    assert "number: numbers the rows" in left
    assert "day: dates or times, such as '2024-01-01'" in left and "at: dates or times" in left
    assert "case: all cells are different whole numbers; if they are ids" in check
    assert "seen: may be times in seconds since 1970" in check


def test_codes_are_numbers_if_the_user_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"zip": [f"{i % 9:03d}" for i in range(ROWS)], "y": ["a", "b"] * (ROWS // 2)})
    (tmp_path / "c.yaml").write_text("modalities: {zip: {columns: zip, kind: vector}, y: y}\n")
    assert numbers(built(tmp_path, "--columns", "c.yaml"), "zip")[:3] == [0, 1, 2]
