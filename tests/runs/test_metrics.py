"""The log of a run's metrics, and the loggers beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.toys import here, write_circle, write_recipe

from modalkit.runs import loggers
from modalkit.runs.folder import RunFolder
from modalkit.runs.metrics import Line, read_metrics
from modalkit.runs.metrics_log import MetricsLog


def log_twice(run: Path, logger: str) -> None:
    """Log as a run that was killed after step 20 and goes on from step 10."""
    with MetricsLog(RunFolder(run), 0, [logger], ["x"], enabled=True) as log:
        log("train", 10, 0, {"elbo": -3.0, "elbo/only:a": -1.0})
        log("train", 20, 0, {"elbo": -9.0})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epo')  # cut short
    with MetricsLog(RunFolder(run), 10, [logger], ["x"], enabled=True) as log:
        log("train", 20, 0, {"elbo": -2.0})
        log("valid", 20, 1, {"elbo": -2.5, "kl": 0.5})


def test_csv_is_the_json_lines_as_a_table(tmp_path: Path) -> None:
    log_twice(tmp_path, "csv")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [{k: v for k, v in row.items() if v} for row in table] == [
        {name: str(value) for name, value in line.items()} for line in read_metrics(tmp_path)
    ]
    assert [(row["step"], row["split"], row["elbo"]) for row in table] == [
        ("10", "train", "-3.0"),
        ("20", "train", "-2.0"),
        ("20", "valid", "-2.5"),
    ]


def test_weights_and_biases_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log_twice(tmp_path, "wandb")
    sessions = [path.name.rsplit("-", 1)[-1] for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert sessions and len(set(sessions)) == 1  # the same run goes on


def test_mlflow_logs_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "recipe.yaml").write_text("seed: 3\n")
    log_twice(tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("modalkit").experiment_id])
    assert run.data.params == {"seed": "3"} and run.info.status == "FINISHED"
    assert run.data.metrics == {"train/elbo": -2.0, "train/elbo.only_a": -1.0, "valid/elbo": -2.5, "valid/kl": 0.5}


def test_a_logger_that_fails_costs_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreachable:
        def __init__(self, run: Path, step: int) -> None: ...

        def __call__(self, line: Line) -> None:
            raise RuntimeError("the server is away")

        def close(self) -> None: ...

    monkeypatch.setitem(loggers.LOGGERS, "away", Unreachable)
    log_twice(tmp_path, "away")
    assert "away failed" in (said := caplog.text) and "the server is away" in said
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 20]


def test_a_recipe_chooses_its_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    short = ("--set", "train.epochs=1", "--set", "train.pictures_every=0")
    assert here("train", recipe, "--out", "run", *short, "--set", "train.loggers=[csv]", cwd=tmp_path).returncode == 0
    assert (tmp_path / "run" / "metrics.csv").exists() and not list((tmp_path / "run").glob("events*"))
    unknown = here("train", recipe, "--out", "new", "--set", "train.loggers=[cvs]", cwd=tmp_path)
    assert unknown.returncode == 2 and "train.loggers" in unknown.stderr
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    missing = here("train", recipe, "--out", "new", "--set", "train.loggers=[wandb]", cwd=tmp_path)
    assert missing.returncode == 2 and "pip install 'modalkit-vae[wandb]'" in missing.stderr
    assert not (tmp_path / "new").exists()
