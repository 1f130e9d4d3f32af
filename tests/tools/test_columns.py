"""A kind says which columns of a table it takes, and when it fits; builders know no kind by name."""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

import pytest
import torch
from modalkit_tools.own_data.table import BUILDER as TABLE
from support.command_line import install
from support.documents import shown_file
from support.toys import here

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.inspection import schemas
from modalkit.plugin import Filled

ROOT = Path(__file__).parents[2]

TAGS = shown_file("extending.md", "tags.py")


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def films(rows: int = 60) -> list[list[str]]:
    """Return rows of a name, a year and a set of genres; every fifth set is unknown, some are empty."""
    chance, made = random.Random(0), []
    for i in range(rows):
        genres = [genre for genre in ("crime", "drama", "love", "war") if chance.random() < 0.4]
        made.append([f"film {i}", f"{1950 + chance.random() * 70:.1f}", "" if i % 5 == 2 else ";".join(genres) or "-"])
    return made


def test_a_new_kind_is_one_file_and_one_entry_point(tmp_path: Path) -> None:
    path = install(tmp_path / "site", "modalkit-tags", {"tags": "tags:TAGS"}, {"tags": TAGS})

    def run(*arguments: object) -> str:
        done = here(*arguments, cwd=tmp_path, path=path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    write_csv(tmp_path / "films.csv", ["film", "year", "genres"], films())
    said = run("build-dataset", "table", "films.csv", "--out", "data", "--yes")
    assert "genres: {kind: tags, columns: genres}  # in 80 % of rows" in said
    dataset = Dataset(tmp_path / "data")
    genres = dataset.manifest.modalities["genres"].facts["names"]
    assert genres == ["crime", "drama", "love", "war"]
    stored, present = dataset.values("genres", torch.arange(60)), dataset.present[:, dataset.names.index("genres")]
    for row, (_, _, cell) in enumerate(films()):
        assert bool(present[row]) is bool(cell)
        assert [name for name, bit in zip(genres, stored[row].tolist(), strict=True) if bit] == [
            tag for tag in cell.split(";") if tag not in ("", "-")
        ]
    (tmp_path / "r.yaml").write_text(here("init", "data", cwd=tmp_path, path=path).stdout)
    run("train", "r.yaml", "--set", "train.max_steps=4", "--out", "run")
    run("impute", "run", "data", "-o", "filled.csv")
    unsure = read_csv(tmp_path / "filled-uncertainty.csv")
    for (_, year, cell), line, sure in zip(films(), read_csv(tmp_path / "filled.csv"), unsure, strict=True):
        assert line["year"] == year
        assert line["genres"] == cell if cell else set(line["genres"].split(";")) <= {*genres, "-"}
        assert bool(sure["genres"]) is not bool(cell)
    # New rows are read with the same categories.
    write_csv(tmp_path / "new.csv", ["film", "genres"], [["a", "war"], ["b", "crime;sport"]])
    new = ("new.csv", "--out", "new", "--columns", "data", "--train", 0, "--valid", 0)
    wrong = here("build-dataset", "table", *new, cwd=tmp_path, path=path)
    assert (
        wrong.returncode == 2 and "column 'genres', line 3: 'sport' is none of crime, drama, love, war" in wrong.stderr
    )


def prices(rows: int = 60) -> list[list[str]]:
    chance = random.Random(1)
    return [
        [*("" if chance.random() < 0.1 else f"{2 ** chance.gauss(0, 2):.4f}" for _ in range(2)), "ab"[i % 2]]
        for i in range(rows)
    ]


def test_positive_takes_several_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["price_1", "price_2", "side"], prices())
    (tmp_path / "c.yaml").write_text("modalities: {price: {columns: price_*, kind: positive}, side: side}\n")
    built = here("build-dataset", "table", "t.csv", "--out", "data", "--columns", "c.yaml", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    dataset = Dataset(tmp_path / "data")
    made = schemas(dataset)["price"]
    assert (made.event_shape, made.part_names) == ((2,), ("price_1", "price_2"))
    values = dataset.values("price", torch.arange(60))
    for row, (first, second, _) in enumerate(prices()):
        expected = [float(first), float(second)] if first and second else [0.0, 0.0]
        assert values[row].tolist() == torch.tensor(expected).tolist()
    (tmp_path / "r.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    trained = here("train", "r.yaml", "--set", "train.max_steps=4", "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert here("impute", "run", "data", "-o", "filled.csv", cwd=tmp_path).returncode == 0
    for (first, _, _), line in zip(prices(), read_csv(tmp_path / "filled.csv"), strict=True):
        assert line["price_1"] == first if first else len(line["price_1"].partition(".")[2]) <= 4


def test_a_kind_in_a_file_needs_no_installation(tmp_path: Path) -> None:
    write_csv(tmp_path / "films.csv", ["film", "year", "genres"], films())
    (tmp_path / "tags.py").write_text(TAGS)
    try:
        for command in (
            ["build-dataset", "table", "films.csv", "--out", "data", "--yes", "--plugin", "tags.py"],
            ["list", "kinds", "tags", "--plugin", "tags.py"],
        ):
            assert here(*command, cwd=tmp_path).returncode == 0
        draft = here("init", "data", "--plugin", "tags.py", cwd=tmp_path).stdout
        assert "plugins:\n  - tags.py\n" in draft and "genres: {kind: tags" in draft
        (tmp_path / "r.yaml").write_text(draft)
        registry.forget_files()
        assert "draft again with --plugin" in here("init", "data", cwd=tmp_path).stdout
        for command in (
            ["train", "r.yaml", "--set", "train.max_steps=2", "--out", "run"],
            ["impute", "run", "data", "-o", "filled.csv"],
        ):
            assert here(*command, cwd=tmp_path).returncode == 0
    finally:
        registry.forget_files()


def test_what_is_filled_stays_valid_when_it_is_rounded(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["price", "side"], [["" if i == 3 else str(1 + i), "ab"[i % 2]] for i in range(20)])
    (tmp_path / "c.yaml").write_text("modalities: {price: {columns: price, kind: positive}, side: side}\n")
    built = here("build-dataset", "table", "t.csv", "--out", "data", "--columns", "c.yaml", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    dataset = Dataset(tmp_path / "data")
    values = dataset.values("price", torch.arange(20)).clone()
    for guess, written in ((0.25, "0.25"), (2.75, "3")):
        values[3] = guess
        filled = Filled(schemas(dataset)["price"], values, torch.ones(20, dtype=torch.bool), torch.ones_like(values))
        TABLE.fill(tmp_path / "data", {"price": filled}, tmp_path / "filled.csv")
        assert read_csv(tmp_path / "filled.csv")[3]["price"] == written


@pytest.mark.parametrize("cell", ["0", "-2.5"])
def test_a_number_that_a_kind_refuses_is_named(tmp_path: Path, cell: str) -> None:
    rows = prices()
    rows[3][1] = cell
    write_csv(tmp_path / "t.csv", ["price_1", "price_2", "side"], rows)
    (tmp_path / "c.yaml").write_text("modalities: {price: {columns: price_*, kind: positive}}\n")
    done = here("build-dataset", "table", "t.csv", "--out", "data", "--columns", "c.yaml", cwd=tmp_path)
    message = f"column 'price_2', line 5: '{cell}' is not above 0, and has no logarithm"
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_the_builders_know_no_kind_by_name() -> None:
    kinds = {path.stem for path in (ROOT / "modalities").glob("*.py")} - {"__init__"}
    for path in (ROOT / "tools" / "own_data").glob("*.py"):
        quoted = set(re.findall(r"[\"']([a-z]+)[\"']", path.read_text()))
        assert not quoted & kinds, path.name
