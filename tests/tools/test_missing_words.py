"""Words that mean an empty cell, unless they are values."""

from __future__ import annotations

from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from support.toys import here

from modalkit.data import Dataset

ROWS = 60
PAIN, COUNTRY = ("none", "mild", "severe"), ("NA", "DE", "FR", "US")
DECLARED = """
modalities:
  pain: {kind: ordinal, columns: pain, names: [none, mild, severe]}
  country: {kind: label, columns: "c*", names: ["NA", DE, FR, US]}
  x: {kind: vector, columns: x}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    lines = [f"{PAIN[i % 3]},{COUNTRY[i % 4]},{i * 0.37 % 3:.2f}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["pain,country,x", *lines, ",,NA"]) + "\n")
    return tmp_path


def built(work: Path, table: str, *options: str) -> tuple[Dataset, str]:
    done = here("build-dataset", "table", table, "--out", "data", *options, cwd=work)
    assert done.returncode == 0, done.stderr
    return Dataset(work / "data"), done.stderr


def present(data: Dataset) -> dict[str, int]:
    return dict(zip(data.names, data.present.sum(0).tolist(), strict=True))


def test_usual_words_are_empty_cells_and_those_of_texts_are_reported(work: Path) -> None:
    data, said = built(work, "t.csv", "--yes")
    assert present(data) == {"pain": 40, "country": 45, "x": ROWS}
    assert "pain: 20 cells 'none' taken as empty" in said and "country: 15 cells 'NA' taken as empty" in said
    assert "x:" not in said.partition("Please check")[2]  # nobody takes NA for a number


def test_declared_names_are_values_here_and_in_new_rows_and_in_the_filled_table(work: Path) -> None:
    (work / "columns.yaml").write_text(DECLARED)
    data, said = built(work, "t.csv", "--columns", "columns.yaml")
    assert present(data) == {"pain": ROWS, "country": ROWS, "x": ROWS} and "taken as empty" not in said
    assert data.values("country", torch.arange(4)).tolist() == [0, 1, 2, 3]
    new = here("build-dataset", "table", "t.csv", "--columns", "data", "--out", "new", cwd=work)
    assert new.returncode == 0 and present(Dataset(work / "new")) == present(data)
    (work / "r.yaml").write_text(here("init", "data", cwd=work).stdout)
    assert here("train", "r.yaml", "--out", "run", "--set", "train.max_steps=2", cwd=work).returncode == 0
    filled = here("impute", "run", "data", "-o", "filled.csv", cwd=work)
    assert filled.returncode == 0, filled.stderr
    before, after = ((work / name).read_text().splitlines() for name in ("t.csv", "filled.csv"))
    assert after[:-1] == before[:-1] and after[-1].split(",")[0] in PAIN and after[-1].split(",")[1] in COUNTRY


def test_an_option_turns_the_usual_words_off(work: Path) -> None:
    data, said = built(work, "t.csv", "--yes", "--missing-words", "own", "--missing", "NA")
    assert present(data) == {"pain": ROWS, "country": 45, "x": ROWS} and "'NA' taken as empty" in said
    assert data.manifest.builder["missing_words"] == "own"


def test_in_a_typed_file_only_null_and_nan_are_missing(work: Path) -> None:
    table = {"country": [*COUNTRY, None] * 8, "x": [0.5, float("nan"), None, 2.0, 1.5] * 8}
    parquet.write_table(arrow.table(table), work / "t.parquet")
    data, said = built(work, "t.parquet", "--yes")
    assert present(data) == {"country": 32, "x": 24} and "taken as empty" not in said


@pytest.mark.parametrize(
    ("odd", "flagged"), [("0", True), ("-999", True), ("99", True), ("5.2", False), ("8", False), ("57", False)]
)
def test_a_number_that_may_mean_missing_is_listed_and_kept(tmp_path: Path, odd: str, flagged: bool) -> None:
    lines = [f"{3 + i / 10},{i % 7}" for i in range(40)]  # heights of 3.0 to 6.9
    (tmp_path / "t.csv").write_text("\n".join(["height,level", *lines, f"{odd},1"]) + "\n")
    data, said = built(tmp_path, "t.csv", "--yes")
    assert present(data)["height"] == 41
    told = f"height: {odd} (1 cell) is far from the other numbers, 3 to 6.9; if it means missing, empty it"
    assert (told in said) == flagged and "level:" not in said.partition("Please check")[2]
