"""Loggers that a recipe can name in ``train.loggers``: TensorBoard, CSV, Weights & Biases, MLflow."""

from __future__ import annotations

import csv
import importlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml
from lightning_fabric.loggers import TensorBoardLogger

from modalkit.errors import InputError, install
from modalkit.runs.folder import RunFolder
from modalkit.runs.metrics import Line, metrics_of, read_metrics
from modalkit.util.files import write_atomic


class Logger(Protocol):
    """Receives the lines of ``metrics.jsonl``."""

    def __call__(self, line: Line) -> None:
        """Log one line."""

    def close(self) -> None:
        """Write what is still buffered."""


def require(loggers: Sequence[str]) -> None:
    """Raise `InputError` for the first logger whose package is not installed."""
    for name in loggers:
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise InputError(f"train.loggers: {name} is not installed; {install(name)}, or leave it out")


def _named(line: Line) -> dict[str, float]:
    """Return a line's metrics by names that begin with the split."""
    return {f"{line['split']}/{name}": value for name, value in metrics_of(line).items()}


def _settings(run: Path) -> dict[str, Any]:
    """Return the recipe that a run folder holds, as plain values."""
    path = RunFolder(run).recipe
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


class _Board:
    """TensorBoard events."""

    def __init__(self, run: Path, step: int) -> None:
        self.board = TensorBoardLogger(run, name="", version="", purge_step=step + 1 if step else None)

    def __call__(self, line: Line) -> None:
        self.board.log_metrics(_named(line), line["step"])

    def close(self) -> None:
        self.board.finalize("success")


class _Csv:
    """``metrics.csv``: the JSON lines as a table, rewritten whenever a metric needs a new column."""

    def __init__(self, run: Path, step: int) -> None:
        self.run, self.path = run, run / "metrics.csv"
        self.columns: list[str] = ["step", "epoch", "split"]
        self._rewrite()

    def __call__(self, line: Line) -> None:
        if set(line) - set(self.columns):
            self._rewrite()  # the JSON lines hold this one already
        else:
            self._append(self.path, [line], "a")

    def _rewrite(self) -> None:
        lines = list(read_metrics(self.run))
        self.columns = list(dict.fromkeys([*self.columns, *(name for line in lines for name in line)]))
        write_atomic(self.path, lambda path: self._append(path, lines, "w"))

    def _append(self, path: Path, lines: Iterable[Line], mode: str) -> None:
        with path.open(mode, newline="") as file:
            table = csv.DictWriter(file, self.columns)
            if mode == "w":
                table.writeheader()
            table.writerows(lines)

    def close(self) -> None:
        pass


class _WeightsAndBiases:
    """Weights & Biases, offline unless ``WANDB_MODE`` says otherwise; the files in ``wandb/`` can be synced later."""

    def __init__(self, run: Path, step: int) -> None:
        wandb: Any = importlib.import_module("wandb")
        earlier = sorted((run / "wandb").glob("*run-*-*"))
        self.session = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "modalkit"),
            name=run.name,
            id=earlier[-1].name.rsplit("-", 1)[-1] if earlier else None,  # a resumed run keeps its id
            resume="allow" if earlier else None,
            dir=str(run),
            config=_settings(run),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True),
        )

    def __call__(self, line: Line) -> None:
        self.session.log(_named(line) | {"epoch": line["epoch"]}, step=line["step"])

    def close(self) -> None:
        self.session.finish()


class _Mlflow:
    """MLflow, in the run's own ``mlruns/`` unless ``MLFLOW_TRACKING_URI`` says otherwise."""

    def __init__(self, run: Path, step: int) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        self.entities: Any = importlib.import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = (run / "mlruns").resolve().as_uri()
            # Files need no server and no database; MLflow 3 requires this setting for them.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "modalkit")
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        tag = str(run.resolve())
        earlier = self.client.search_runs([experiment], f"tags.`modalkit.run` = '{tag}'", max_results=1) if step else []
        if earlier:  # a resumed run keeps its id
            self.id = earlier[0].info.run_id
        else:
            self.id = self.client.create_run(experiment, tags={"modalkit.run": tag}, run_name=run.name).info.run_id
            for key, value in _settings(run).items():
                self.client.log_param(self.id, key, str(value)[:500])

    def __call__(self, line: Line) -> None:
        now, split, step = int(time.time() * 1000), line["split"], line["step"]
        entries = [
            # Names are paths in MLflow's store, where elbo cannot be both a file and, for elbo/TERM, a folder.
            self.entities.Metric(f"{split}/{re.sub(r'[^-. A-Za-z0-9]', '_', name.replace('/', '.'))}", value, now, step)
            for name, value in metrics_of(line).items()
        ]
        for start in range(0, len(entries), 1000):  # the limit of one request
            self.client.log_batch(self.id, metrics=entries[start : start + 1000])

    def close(self) -> None:
        self.client.set_terminated(self.id)


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": _Board,
    "csv": _Csv,
    "wandb": _WeightsAndBiases,
    "mlflow": _Mlflow,
}
"""By name, how each logger is made: from the run folder and the number of steps done."""
