"""A person's table comes back with its gaps filled: what was known as it was, and what was filled said."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from toys import here

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
    return folder


def test_known_cells_of_partly_filled_groups_stay(work: Path) -> None:
    dataset = Dataset(work / "data")
    assert {n: m.partly for n, m in dataset.manifest.modalities.items() if m.partly} == {"blood": 10, "flag": 6}
    assert here("inspect", "data", cwd=work).stdout.count("10 more in part") == 1
    for options in ((), ("--sample",)):
        out = "-".join(("complete", *options))
        done = here("impute", "run", "data", "-o", out, *options, cwd=work)
        assert done.returncode == 0, done.stderr
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
