"""`modalkit evaluate` measures errors beside references, as training does; the card and `compare` show them first."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.errors import InputError
from modalkit.evaluation.saved import read_errors, read_evaluated
from modalkit.runs.folder import RunFolder

FEW = ("--targets", "class", "--particles", 3)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, and what its training printed."""
    folder = tmp_path_factory.mktemp("errors")
    recipe = write_recipe(folder, write_circle(folder, rows=160))
    done = here("train", recipe, "--out", "run", "--set", "train.epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def run(work: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return shutil.copytree(work / "run", tmp_path / "run")


def asked(run: Path, *options: object) -> str:
    """Return what `modalkit evaluate` prints."""
    done = here("evaluate", run, *FEW, *options, cwd=run.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def section(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "evaluation.json").read_text())["translations"]
    return found


def table(printed: str) -> str:
    """Return the table of errors with the words around it."""
    return printed[printed.index("Share of the variation") : printed.index("most frequent class.")]


def test_it_prints_and_saves_the_table_of_the_end_of_training(work: Path, run: Path) -> None:
    printed = asked(run)
    assert table(printed) == table((work / "printed.txt").read_text())
    assert printed.index("Errors of predictions, on the") < printed.index("Log-likelihoods, 3 particles")
    saved = section(run)
    assert saved["cells"] == json.loads((run / "translations.json").read_text())
    assert all("explained" in one and "similarity" in one for one in saved["cells"])  # type: ignore[attr-defined]


def test_other_rows_and_weights_have_a_table_of_their_own(run: Path) -> None:
    best = asked(run)
    some = asked(run, "--split", "valid", "--rows", 4)
    assert re.search(r"on the (\d to )?4 valid rows that have both", some) and table(some) != table(best)
    path = run / "checkpoints" / "last.safetensors"
    save_file({name: value / 2 for name, value in load_file(path).items()}, path)
    assert table(asked(run, "--weights", "last")) != table(best)
    settings = section(run)["settings"]
    assert settings["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[index]


def test_predictions_that_are_no_numbers_are_behind(run: Path) -> None:
    path = run / "checkpoints" / "best.safetensors"
    weights = load_file(path)
    for name in [one for one in weights if one.startswith("decoders.position")]:
        weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, path)
    printed = asked(run)
    assert re.search(r"nan \(\.\d+\) \*", printed)
    kept = [one for one in section(run)["cells"] if one["want"] == "position"]  # type: ignore[attr-defined]
    assert all(one["value"] is None and one["explained"] is None and one["behind"] for one in kept)
    refused = here("report", run, "-o", "page.html", cwd=run.parent)
    assert refused.returncode == 2 and "best.safetensors: these weights are NaN or infinite" in refused.stderr


def test_a_second_question_reads_the_table(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = asked(run)
    monkeypatch.setattr("modalkit.evaluation.translating.translations", None)  # it would be called
    again = here("evaluate", run, "--targets", "counts", "--particles", 2, cwd=run.parent).stdout
    assert table(again) == table(first) and "log p(counts)" in again
    with pytest.raises(TypeError):
        asked(run, "--seed", 1)


def test_another_dataset_is_compared_with_models_of_the_training_rows(work: Path, run: Path, tmp_path: Path) -> None:
    data = modalkit.Dataset(work / "circle")
    rows = data.rows("test")
    values = {name: data.values(name, rows) for name in data.names}
    schemas = {
        "image": modalkit.schema("image", size=12, channels=1),
        "position": modalkit.schema("vector", size=2),
        "class": modalkit.schema("label", classes=3),
        "counts": modalkit.schema("counts", size=2),
    }
    present = {name: data.present[rows][:, column] for column, name in enumerate(data.names)}
    modalkit.write_dataset(tmp_path / "rows", schemas, values, present=present, split=["test"] * len(rows))
    assert table(asked(run, "--data", tmp_path / "rows")) == table(asked(run))
    evaluated = read_evaluated(RunFolder(run))
    assert evaluated is not None and all(one.linear_value is not None for one in evaluated.results)


def test_the_report_shows_every_measure_of_a_cell(run: Path) -> None:
    asked(run)
    assert here("report", run, "-o", "page.html", cwd=run.parent).returncode == 0
    page = (run.parent / "page.html").read_text()
    cells = [one for one in section(run)["cells"] if one["similarity"] is not None]  # type: ignore[attr-defined]
    for one in cells:
        assert f"SSIM {one['similarity']:.3f}".replace("SSIM 0.", "SSIM .").replace("-", "−") in page
    found = re.findall(r" <small>explains −?\d+ %, SSIM", page)
    assert len(found) == 2 * len(cells) == 10  # in Translations and in Evaluation
    assert 'title="linear model: explains' in page and "by the best weights" in page


def test_the_card_and_compare_show_errors_before_nats(work: Path, run: Path) -> None:
    done = here("export", run, run.parent / "shared", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    card = (run.parent / "shared" / "README.md").read_text()
    said = "A linear model of the same size (4 dimensions) is better in"
    assert card.index("Errors, on the") < card.index(said) < card.index("nats per dimension")
    assert re.search(r"\| class \| image \| \d+ \| RMSE \| \.\d+ \| \.\d+ \| \.\d+ \| explains .*SSIM", card)
    shutil.copytree(run, run.parent / "second")
    done = here("compare", run, "second", "-o", "both.html", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Errors\n") and done.stdout.index("Errors") < done.stdout.index("Metrics")
    line = next(one for one in done.stdout.splitlines() if one.startswith("cells in which a linear model is better"))
    assert re.findall(r"\d+ of 20", line) and "image from all, RMSE" in done.stdout
    assert "position from class, RMSE" in (run.parent / "both.html").read_text()


def test_evaluate_gives_errors_to_runs_that_lack_them(run: Path) -> None:
    path = run / "translations.json"
    old = [{key: one[key] for key in ("given", "want", "rows", "log_px", "margin", "standard_error")}
           for one in json.loads(path.read_text())]  # fmt: skip
    path.write_text(json.dumps(old))
    (run / "evaluation.json").write_text(json.dumps({"log_likelihoods": {}, "parameters": {}}))
    assert read_errors(RunFolder(run)) == ([], "") and read_evaluated(RunFolder(run)) is None
    asked(run, "--split", "train")
    assert read_errors(RunFolder(run))[0] == []  # the model has seen these rows
    asked(run)
    cells, rows = read_errors(RunFolder(run))
    assert len(cells) == 20 and rows.endswith("test rows that have both, of circle")
    with (run / "checkpoints" / "best.safetensors").open("ab") as file:
        file.write(b" ")
    assert read_errors(RunFolder(run))[0] == []  # other weights


@pytest.mark.parametrize("text", ['{"translations": 3}', '{"translations": {"cells": [{}], "settings": {}}}', "[1]"])
def test_a_damaged_file_is_named(run: Path, text: str) -> None:
    (run / "evaluation.json").write_text(text)
    with pytest.raises(InputError, match=r"evaluation\.json: cannot be read"):
        read_evaluated(RunFolder(run))
    done = here("evaluate", run, *FEW, cwd=run.parent)
    assert not (run / "evaluation").exists()  # the message comes before any work
    assert done.returncode == 2 and "delete it, or move it away" in done.stderr


def test_units_in_the_words_of_training_are_those_of_the_dataset(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.randn(80, 2, generator=g) * torch.tensor([10.0, 2.0])
    modalkit.write_dataset(
        tmp_path / "data",
        {"size": modalkit.schema("vector", size=2), "bit": modalkit.schema("bit")},
        {"size": values, "bit": (values[:, 0] > 0).long()},
        standardize=["size"],
    )
    (tmp_path / "r.yaml").write_text(
        "data: {path: data}\nmodalities: {size: {kind: vector, size: 2}, bit: {kind: bit}}\n"
        "model: {latent_dim: 2}\ntrain: {max_steps: 1, accelerator: cpu}\n"
    )
    done = here("train", "r.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RMSE of values, in standard deviations" in " ".join(done.stdout.split())
