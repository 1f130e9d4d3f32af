"""The paper's tables and figures, as a user asks for them, from runs of the shipped recipes on small datasets."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from support.made import write_made
from typer.testing import CliRunner

from modalkit.cli import app
from modalkit.reproduction.figures import tile
from modalkit.reproduction.paper import DATASETS, KNOWN_DIFFERENCES, TABLE1, TABLES

SMALL = {"train.max_steps": 2, "train.batch_size": 2, "train.pictures_every": 0, "train.accelerator": "cpu"}
FEW = ["--epochs", 1, "--rows=2", "--particles=10", *(w for k, v in SMALL.items() for w in ("--set", f"{k}={v}"))]
COLUMNS = ["quantity", "system", "dataset", "paper", "measured", "error", "note"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data where the recipes expect it; runs gather here."""
    folder = tmp_path_factory.mktemp("reproduction")
    write_made(folder / "data")
    yield folder
    shutil.rmtree(folder)  # networks of the paper's size


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    yield


def reproduce(part: str, *arguments: object, code: int = 0) -> str:
    """Run `modalkit reproduce`, without those of the options in FEW that the part does not take."""
    not_taken = {"fig2": ("--rows=2", "--particles=10"), "fig4": ("--particles=10",)}.get(part, ())
    given = [str(argument) for argument in arguments if argument not in not_taken]
    done = CliRunner().invoke(app, ["reproduce", part, *given])
    assert done.exit_code == code and (done.exception is None or isinstance(done.exception, SystemExit)), done.output
    return done.output


def read(name: str) -> list[dict[str, str]]:
    with (Path("reproduction") / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def trained() -> dict[Path, int]:
    """Return when each run's state was saved."""
    return {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/checkpoints/state.pt")}


def picture(name: str) -> Image.Image:
    page = Image.open(Path("reproduction") / name)
    low, high = page.convert("L").getextrema()
    assert low != high  # something is drawn
    return page


def lines(table: str, dataset: str) -> set[tuple[str, str, str]]:
    """Return what the paper has of a table's column: quantity, system, number."""
    column = DATASETS.index(dataset)
    found = ((line.quantity, line.system, line.values[column]) for line in TABLES[table])
    return {(quantity, system, str(value)) for quantity, system, value in found if value is not None}


def test_table1_has_every_number() -> None:
    before, shown, written = trained(), reproduce("table1"), read("table1")
    assert list(written[0]) == COLUMNS
    paper = {(system, dataset): n for system, columns in TABLE1.items() for dataset, n in columns.items()}
    assert {(row["system"], row["dataset"]): int(row["paper"]) for row in written} == paper
    for row in written:
        known = KNOWN_DIFFERENCES.get((row["system"], row["dataset"]), "")
        assert (row["measured"] == row["paper"]) == (not known) and row["note"] == known
        assert f"{int(row['paper']):,}" in shown and f"{int(row['measured']):,}" in shown
    assert "written: reproduction/table1.csv" in shown and trained() == before


def test_tables_2_to_5() -> None:
    measured = {}
    for table in TABLES:
        before = trained()
        shown, written = reproduce(table, "--dataset", "mnist", *FEW), read(f"{table}-mnist")
        assert list(written[0]) == COLUMNS and {row["dataset"] for row in written} == {"mnist"}
        assert {(row["quantity"], row["system"], row["paper"]) for row in written} == lines(table, "mnist")
        assert {row["note"] for row in written} == {"epoch 1 of 1"}
        for row in written:
            measured[table, row["quantity"], row["system"]] = float(row["measured"])
            assert float(row["error"]) >= 0 and f"{float(row['measured']):.3f} ± {float(row['error']):.3f}" in shown
        if table != "table2":  # which has trained them all
            assert trained() == before and "training" not in shown
    assert {path.parts[1] for path in trained()} >= {f"mnist_{s}" for s in ("vae", "cvae", "bivcca", "jmvae", "mvae")}
    for (table, quantity, system), value in measured.items():
        assert math.isfinite(value) and (value < 0 if table in ("table2", "table3") else value >= 0)
        if table in ("table4", "table5") and quantity == "conditional" and system != "cvae":
            assert value == measured[table, "joint", system]  # log p(y) is the same for every particle
        if table in ("table2", "table3") and quantity == "conditional" and system != "cvae":
            assert value > measured[table, "joint", system]  # by log p(y), of a label


def test_the_same_again_reads_what_is_there_and_prints_the_same() -> None:
    reproduce("table3", "--dataset", "mnist", *FEW)
    first, before = reproduce("table3", "--dataset", "mnist", *FEW), trained()
    passes = {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/evaluation/*")}
    assert reproduce("table3", "--dataset", "mnist", *FEW) == first
    assert trained() == before and passes
    assert {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/evaluation/*")} == passes


def test_a_dataset_named_by_a_setting() -> None:
    Path("elsewhere").mkdir()
    Path("data/fashion-mnist").rename("elsewhere/fashion")
    runs = ["--runs", "set", "--out", "set/out"]
    shown = reproduce("fig2", "--dataset", "fashion_mnist", *FEW, *runs, "--set", "data.path=elsewhere/fashion")
    assert "set/out/fig2-fashion_mnist-given-9.png" in shown
    assert "data/" not in Path("set/fashion_mnist_mvae/recipe.yaml").read_text()


def test_without_training_what_is_missing_is_left_out_and_said() -> None:
    Path("some").mkdir()
    reproduce("fig2", *FEW)
    Path("some/mnist_mvae").symlink_to(Path("runs/mnist_mvae").resolve())
    shown = reproduce("table3", "--runs", "some", "--no-train", *FEW)
    assert "left out: some/mnist_jmvae: no trained run there; leave out --no-train" in shown
    assert {row["system"] for row in read("table3-mnist")} == {"mvae"}
    shown = reproduce("table3", "--runs", "none", "--no-train", *FEW, code=2)
    assert "error: none: no run of mnist there; leave out --no-train" in shown
    assert {row["system"] for row in read("table3-mnist")} == {"mvae"}  # as it was
    shown = reproduce("fig4", "--runs", "none", "--no-train", *FEW, code=2)
    assert "none/mnist_mvae-paired0: no trained run there" in shown and not Path("none").exists()


def test_a_run_of_other_settings_is_not_gone_on_with() -> None:
    reproduce("fig2", *FEW)
    shown = reproduce("fig2", *FEW[2:], "--epochs", 2, "--set", "train.max_steps=9", "--set", "seed=1", code=2)
    assert "runs/mnist_mvae: holds a run of another recipe" in shown and "seed" in shown
    shown = reproduce("fig2", *FEW, "--set", "train.learning_rate=0.1")  # finished, so it is taken, and that is said
    assert "runs/mnist_mvae: differs from the required recipe in train.learning_rate" in shown


def test_dynamic_binarisation_is_measured_on_the_fixed_images() -> None:
    reproduce("table4", "--dataset", "binary_mnist_dynamic", *FEW)
    written = read("table4-binary_mnist_dynamic")
    assert {(row["quantity"], row["system"], row["paper"]) for row in written} == {
        line for line in lines("table4", "binary_mnist") if line[1] == "mvae"
    }
    kept = list(Path("runs/binary_mnist_dynamic_mvae/evaluation").iterdir())
    for path in kept:
        with safe_open(path, framework="pt") as one:
            about = json.loads(json.loads(one.metadata()["modalkit"])["about"])
        assert about["data"] == "data/binary-mnist"
    assert kept


def test_figure_2_is_64_samples() -> None:
    shown = reproduce("fig2", *FEW)
    for what in ("prior", "given-5"):
        assert f"written: reproduction/fig2-mnist-{what}.png" in shown
        assert picture(f"fig2-mnist-{what}.png").size == (8 * 30, 8 * 30)
    page = tile([np.full((3, 4), 9 * i, np.uint8) for i in range(5)])
    assert page.size == (2 * 6, 3 * 5) and [page.getpixel((6 * (i % 2), 5 * (i // 2))) for i in range(5)] == [
        (9 * i,) * 3 for i in range(5)
    ]


def test_figure_3_sweeps_over_k() -> None:
    shown = reproduce("fig3", "--values", "2", *FEW)
    (row,) = read("fig3")
    assert list(row) == ["k", "log p(all)", "error", "var log w", "epoch"] and row["k"] == "2"
    assert math.isfinite(float(row["log p(all)"])) and float(row["var log w"]) > 0
    assert "written: reproduction/fig3.csv, reproduction/fig3.png" in shown
    assert picture("fig3.png").width > 500
    assert "k: 2" in Path("runs/celeba19_mvae-k2/recipe.yaml").read_text()


def test_figure_4_sweeps_over_supervision() -> None:
    reproduce("fig4", "--values", "0,0.5", *FEW)
    written = read("fig4-mnist")
    assert [list(row.values())[:3] for row in written] == [["0.0", "label", "class"], ["0.5", "label", "class"]]
    assert list(written[0]) == ["paired", "target", "part", "accuracy", "error", "epoch"]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in written)
    assert picture("fig4-mnist.png").width > 500
    assert "paired: 0.5" in Path("runs/mnist_mvae-paired0.5/recipe.yaml").read_text()
    before = trained()
    reproduce("fig4", "--values", "0,0.5", *FEW)
    assert trained() == before
    reproduce("fig4", "--dataset", "mnist_weak", "--values", "0.01,1", *FEW)
    new = {
        path.parent.parent.name: (path.parent.parent / "recipe.yaml").read_text() for path in trained().keys() - before
    }
    assert "paired: 0.01" in new["mnist_weak_mvae"], "the recipe's own fraction is its own run"
    assert "paired: 1.0" in new["mnist_weak_mvae-paired1"]


def test_figure_4_counts_characters_and_strings() -> None:
    reproduce("fig4", "--dataset", "multimnist", "--values", "1", *FEW)
    places = [row["part"] for row in read("fig4-multimnist")]
    assert places == ["character 1", "character 2", "character 3", "character 4", "string"]  # and no mean of these


def test_figure_4_hides_all_attributes_of_a_face_together() -> None:
    reproduce("fig4", "--dataset", "celeba", "--values", "0.5", *FEW)
    written = read("fig4-celeba")
    assert len(written) == 19 and written[-1]["target"] == "mean"
    mean = sum(float(row["accuracy"]) for row in written[:-1]) / 18
    assert float(written[-1]["accuracy"]) == pytest.approx(mean)
    recipe = Path("runs/celeba19_mvae-paired0.5/recipe.yaml").read_text()
    assert "groups" in recipe


def test_figure_5_sweeps_over_what_is_kept() -> None:
    reproduce("fig5", "--values", "0.9", *FEW)
    written = read("fig5-celeba19")
    head = ["keep", "target", "part", "accuracy", "error", "log p(x)", "log p(x|y)", "epoch"]
    assert list(written[0]) == head and len(written) == 19
    assert len({row["log p(x)"] for row in written}) == len({row["log p(x|y)"] for row in written}) == 1
    assert picture("fig5-celeba19.png").width > 1000
    reproduce("fig5", "--dataset", "celeba19_small", "--values", "0.9", *FEW)
    assert len(read("fig5-celeba19_small")) == 19
    assert "size:\n    - 32" in Path("runs/celeba19_small_mvae-keep0.9/recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("table2 --dataset mnits", "--dataset mnits: give one of binary_mnist, mnist, fashion_mnist"),
        ("fig2 --dataset binary_mnist_dynamic", "--dataset binary_mnist_dynamic: give one of mnist"),
        ("fig4 --dataset celeba19", "--dataset celeba19: give one of binary_mnist, mnist"),
        ("fig5 --dataset celeba", "--dataset celeba: give one of celeba19, celeba19_small"),
        ("fig3 --values many", "--values many: give numbers, separated by commas"),
        ("fig4 --values 0.5,nan", "--values 0.5,nan: give numbers, separated by commas"),
        ("fig3 --values 1.5", "--values 1.5: k is a number of subsets"),
        ("fig3 --values -1", "objective.k"),
        ("fig4 --values 1.5", "data.weak.paired"),
        ("fig5 --values -0.1", "data.weak.keep"),
        ("table1 --dataset mnist", "--dataset: table1 does not take it"),
        ("fig4 --particles 5", "--particles: fig4 does not take it"),
        ("fig2 --set modalities.label=null", "fig2 needs the recipe's two modalities, not image"),
        ("table2 --set train.devices=2", "reproduce trains on one device"),
        ("table6", "table6"),
        ("table2 --epochs 0", "--epochs"),
        ("table2 --set train.epoch=3", "train.epoch"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_in_words(arguments: str, words: str) -> None:
    assert words in reproduce(*arguments.split(), "--runs", "refused", code=2)
    assert not Path("refused").exists()
