"""A metric in one file, of the user or of an installed distribution, appears wherever figures are shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.command_line import install
from support.documents import shown_file
from support.toys import here, write_circle, write_recipe

from modalkit import registry
from modalkit.errors import InputError
from modalkit.evaluation.metrics import of_predictions, predictions
from modalkit.evaluation.questions import Asking, Question
from modalkit.evaluation.records import read_records
from modalkit.plugin import Outcome
from modalkit.runs.opened import load_run

FILE = shown_file("extending.md", "within.py")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of two metrics and two trained runs."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "mine.py").write_text(FILE)
    recipe = write_recipe(folder, write_circle(folder, rows=200))
    short = ["--set", "train.epochs=1", "--set", "train.pictures_every=0", "--set", "modalities.image=null"]
    for name, dim in (("one", 3), ("two", 4)):
        done = here("train", recipe, "--out", name, *short, "--set", f"model.latent_dim={dim}", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Unregister the metrics of files after each test."""
    yield
    registry.forget_files()


ASKED = ("--targets", "position,counts", "--given", "class", "--particles", 5)


def test_a_metric_in_one_file_appears_wherever_figures_are_shown(work: Path) -> None:
    for run in ("one", "two"):
        named = ("--metrics", "within, median-error,within") if run == "one" else ()
        done = here("evaluate", run, *ASKED, "--plugin", "mine.py", *named, cwd=work)
        assert done.returncode == 0, done.stderr
        assert "Predictions within 0.5 of the truth, per cent, p(position, counts | class):" in done.stdout
        assert "Median absolute error of predictions, cm" in done.stdout and "  position" in done.stdout
    shown, errors = {}, {}
    for run in ("one", "two"):
        (kept,) = [one for one in read_records(work / run / "evaluation.json") if one.metric == "median-error"]
        assert kept.question == "log p(position, counts | class)" and kept.figures.keys() == {"position"}
        assert kept.settings["split"] == "test" and kept.details["question"]["given"] == ["class"]
        shown[run], errors[run] = kept.figures["position"]
        assert shown[run] is not None
    label = "median-error p(position, counts | class): position"
    compared = here("compare", "one", "two", cwd=work)
    (line,) = [line for line in compared.stdout.splitlines() if line.startswith(label)]
    assert (
        line.removeprefix(label).split()
        == " ".join(f"{shown[run]:.4f} ± {errors[run]:.4f}" for run in ("one", "two")).split()
    )
    page = (work / "comparison.html").read_text()
    least = min(float(f"{value:.4f}") for value in shown.values())
    assert page.split(label)[1].split('best">')[1].startswith(f"{least:.4f}")  # the lower one stands out
    assert here("report", "one", "--rows", 10, cwd=work).returncode == 0
    page = (work / "one" / "report.html").read_text()
    assert "Median absolute error of predictions, cm" in page and f"{shown['one']:.3f} ±" in page
    assert "Predictions within 0.5 of the truth, per cent" in page
    assert here("export", "one", "shared", cwd=work).returncode == 0
    card = (work / "shared" / "README.md").read_text()
    escaped = label.replace("|", "\\|")
    assert "Median absolute error of predictions, cm:" in card and f"| {escaped} | {shown['one']:.4g} |" in card


def test_a_metric_of_an_installed_distribution_needs_no_file(work: Path, tmp_path: Path) -> None:
    install(tmp_path, "their-metrics", {"median-error": "their_metrics:MEDIAN"}, {"their_metrics": FILE})
    points = tmp_path / "their-metrics-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("modalkit.modalities", "modalkit.metrics"))
    shutil.copytree(work / "two", tmp_path / "run")
    done = here("evaluate", "run", *ASKED, "--metrics", "median-error", cwd=tmp_path, path=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]["median-error"]
    assert kept["display"] == {
        "unit": "cm",
        "higher_is_better": False,
        "factor": 1.0,
        "digits": 4,
        "pages": ["report", "compare", "card"],
    }
    listing = here("list", "metrics", cwd=tmp_path, path=tmp_path).stdout
    assert "accuracy" in listing and "median-error" in listing and "[their-metrics 1.0]" in listing


def test_figures_are_those_of_the_predictions(work: Path) -> None:
    run, asking = load_run(work / "one"), Asking(rows=12, seed=3)
    rows = asking.rows_of(run.dataset)
    pairs = list(predictions(run.model, run.dataset, rows, "position", ["class"], 20, 3))
    predicted, values = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    has_both = run.dataset.present[rows][:, [run.dataset.names.index(n) for n in ("position", "class")]].all(1)
    assert len(values) == int(has_both.sum()) and torch.equal(values, run.dataset[rows[has_both]].values["position"])
    squared = of_predictions(lambda schema, p, v: (p - v).square().mean(1), lambda kind: kind.outcome is Outcome.REAL)
    found = squared(run, Question(("position", "counts"), ("class",)), asking)
    each = (predicted - values).square().mean(1).double()
    assert found == {"position": (float(each.mean()), float(each.std() / len(each) ** 0.5))}
    assert squared(run, Question(("position",)), asking) == {}  # nothing is given


def test_the_model_keeps_its_mode(work: Path) -> None:
    run = load_run(work / "one")
    run.model.train()
    modes = [part.training for part in run.model.modules()]
    of_predictions(lambda schema, p, v: v.double().flatten(1).sum(1))(
        run, Question(("counts",), ("position",)), Asking(rows=5)
    )
    assert [part.training for part in run.model.modules()] == modes


def test_the_command_refuses_metrics_that_it_does_not_have(work: Path, tmp_path: Path) -> None:
    done = here("evaluate", "one", *ASKED, "--metrics", "acuracy", cwd=work)
    assert done.returncode == 2 and "unknown metric 'acuracy' (did you mean 'accuracy'?)" in done.stderr
    (tmp_path / "broken.py").write_text(FILE.replace("schema.pack(predicted)", "predicted.nothing()"))
    shutil.copytree(work / "one", tmp_path / "run")
    done = here("evaluate", "run", *ASKED, "--plugin", "broken.py", "--metrics", "median-error", cwd=tmp_path)
    assert done.returncode == 2 and "modality 'position' (kind 'vector'): the score of its predictions" in done.stderr


def test_records_that_are_damaged_are_named(tmp_path: Path) -> None:
    (path := tmp_path / "evaluation.json").write_text('{"metrics": {"mine": {"summary": "x"}}}')
    words = r"evaluation\.json: cannot be read \(metrics\.mine\.display: Field required\); delete it"
    with pytest.raises(InputError, match=words):
        read_records(path)


BROKEN = """\
from modalkit.plugin import Metric

NO_PAIR = Metric("no-pair", "A number without its error", lambda run, question, asking: {"position": 1.0})
RAISES = Metric("raises", "Nothing", lambda run, question, asking: question.nothing)
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [("no-pair", "TypeError: returned 1.0 for 'position'; return a pair"), ("raises", "AttributeError")],
)
def test_a_metric_that_fails_is_named_and_leaves_the_file_as_it_was(
    work: Path, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    shutil.copytree(work / "two", run := tmp_path / "run")
    (run / "evaluation.json").write_text("{}")
    done = here("evaluate", "run", *ASKED, "--plugin", "broken.py", "--metrics", name, cwd=tmp_path)
    assert done.returncode == 2 and f"metric '{name}' of log p(position, counts | class) failed: {why}" in done.stderr
    assert (run / "evaluation.json").read_text() == "{}"
