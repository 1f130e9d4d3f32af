"""Errors of predictions in the user's measures, and what simple predictions achieve on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as of_skimage
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.data import Dataset
from modalkit.evaluation.measures import Measure, measure_of, structural_similarity
from modalkit.evaluation.reference import ALL, columns_of, constant_errors, linear_errors, training_columns
from modalkit.evaluation.translation import Translation
from modalkit.evaluation.translation_text import quality, value_text

ROWS = 200


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run of four kinds, two of them with gaps."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = write_recipe(folder, write_circle(folder, rows=ROWS))
    done = here("train", recipe, "--out", "run", "--set", "train.epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_training_ends_with_errors_in_plain_words_before_nats(work: Path) -> None:
    printed = (work / "printed.txt").read_text()
    words = " ".join(printed.split())  # without line breaks
    assert words.index("A linear model of the same size (4 dimensions) is better in") < words.index("Nats per dim")
    assert "RMSE of intensities, 0 to 1" in printed and "Share of right classes" in printed
    assert max(map(len, printed.split("Nats per")[0].splitlines())) <= 100


def test_saved_cells_have_errors_and_references(work: Path) -> None:
    saved = json.loads((work / "run" / "translations.json").read_text())
    by = {(one["given"], one["want"]): one for one in saved}
    assert {one["measure"] for one in saved} == {"rmse", "accuracy"}
    for one in saved:
        lower = one["measure"] == "rmse"
        assert one["behind"] == (one["linear_value"] < one["value"] if lower else one["linear_value"] > one["value"])
        assert one["explained"] <= 1 and one["mean_value"] is not None
    assert by["position", "position"]["linear_value"] < 1e-6  # four components of two numbers
    assert by["class", "class"]["linear_value"] == 1 and by["class", "image"]["similarity"] is not None
    assert by["position", "image"]["linear_value"] < by["position", "image"]["mean_value"]


def test_the_report_shows_the_errors(work: Path) -> None:
    assert here("report", "run", "-o", "report.html", cwd=work).returncode == 0
    assert "A linear model of the same size (4 dimensions)" in (work / "report.html").read_text()


def test_references_equal_direct_computations(work: Path) -> None:
    schemas = {
        "position": modalkit.schema("vector", size=2),
        "class": modalkit.schema("label", classes=3),
    }
    dataset = Dataset(work / "circle", list(schemas))
    measures = {name: Measure(schema) for name, schema in schemas.items()}
    train, test = training_columns(dataset, schemas, measures, 0), dataset.rows("test")
    asked = columns_of(dataset[test], schemas, measures)
    there = dataset.present[test][:, 1]
    rows = {(ALL, "class"): there, ("position", "position"): torch.ones(len(test), dtype=torch.bool)}
    constant = constant_errors(train, asked, measures, rows)
    fit, truth = dataset.rows("train"), dataset.values("class", test)[there]
    classes = dataset.values("class", fit)[dataset.present[fit, 1]]
    frequent = int(torch.bincount(classes).argmax())
    assert constant[ALL, "class"].value == pytest.approx(float((truth == frequent).double().mean()))
    mean, position = dataset.values("position", fit).mean(0), dataset.values("position", test)
    expected = float((position - mean).square().mean().sqrt())
    assert constant["position", "position"].value == pytest.approx(expected, rel=1e-4)
    one = linear_errors(train, asked, measures, rows, 1)["position", "position"].value
    assert 0.1 < one < expected  # a circle has no direction that explains it


def test_similarity_is_that_of_scikit_image() -> None:
    g = torch.Generator().manual_seed(0)
    one, other = torch.rand(3, 2, 12, 9, generator=g).double(), torch.rand(3, 2, 12, 9, generator=g).double()
    expected = [
        np.mean([of_skimage(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(x, y, strict=True)])
        for x, y in zip(one, other, strict=True)
    ]
    assert structural_similarity(one, other).tolist() == pytest.approx(expected)
    assert structural_similarity(one, one).tolist() == pytest.approx([1, 1, 1])


def test_measures_are_in_the_units_of_the_user() -> None:
    alike = modalkit.schema("vector", size=1, standardize={"loc": [5.0], "scale": [10.0]})
    mixed = modalkit.schema("vector", size=2, standardize={"loc": [5.0, 0.0], "scale": [10.0, 2.0]})
    zero = torch.zeros(4, 1)
    assert Measure(alike).errors(zero + 0.5, zero).value == pytest.approx(5)
    assert Measure(mixed).errors(torch.zeros(4, 2) + 0.5, torch.zeros(4, 2)).value == pytest.approx(0.5)
    assert "standard deviations" in Measure(mixed).words and "standard deviations" not in Measure(alike).words
    levels = Measure(modalkit.schema("ordinal", classes=4))
    found = levels.errors(torch.eye(4)[[0, 3, 1]], levels.columns(torch.tensor([0, 1, 1])))
    assert found.value == pytest.approx(2 / 3) and found.levels == pytest.approx(2 / 3)


def test_texts_have_accuracies_and_no_linear_model() -> None:
    schema = modalkit.schema("tokens", max_length=3, alphabet="ab")
    measure = measure_of(schema)
    assert measure is not None and not measure.is_linear
    values = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 2]])
    assert measure.errors(measure.constant(measure.columns(values[:1])), measure.columns(values[1:])).value == 0.75
    shown = Translation(ALL, "text", 2, 0, 0, 0, "accuracy", 0.75)
    assert value_text(shown).strip() == "75 % (-)"
    assert "75 % (-)" in quality([shown], {"text": schema}, 3)


def test_runs_without_errors_have_no_table() -> None:
    assert quality([Translation("a", "b", 9, -1.0, 0.1, 0.01)], {"b": modalkit.schema("bit")}, 3) == ""
