"""The log of a run's metrics: JSON lines, which are always kept, and the loggers that a recipe names."""

from __future__ import annotations

import csv
import importlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml
from lightning_fabric.loggers import TensorBoardLogger

from modalkit.errors import InputError, RunError, guard, install
from modalkit.util.files import write_atomic, write_text
from modalkit.util.text import evenly_spaced as some

_log = logging.getLogger(__name__)

Line = dict[str, Any]
"""``step``, ``epoch``, ``split``, and metrics by name."""


class Logger(Protocol):
    """Where lines go beside ``metrics.jsonl``."""

    def __call__(self, line: Line) -> None:
        """Log one line."""

    def close(self) -> None:
        """Write what is still held."""


class MetricsLog:
    """Writes metrics as JSON lines and to other loggers; what a resumed run repeats is dropped first.

    Args:
        run: the run folder.
        step: steps done; lines beyond it are dropped.
        loggers: names of `LOGGERS`.
        names: the modalities; of hundreds, what plots has those of `some`, evenly spaced, and files have all.
        enabled: whether this process writes.

    Raises:
        InputError: a logger is not installed, or cannot start.
    """

    def __init__(self, run: Path, step: int, loggers: Sequence[str], names: Sequence[str], *, enabled: bool) -> None:
        self.run, self.enabled, path = run, enabled, run / "metrics.jsonl"
        self.unplotted = set(names) - set(some(names))
        self.loggers: dict[str, Logger] = {}
        if enabled:
            require(loggers)
            kept = [line for line in read_metrics(run) if line["step"] <= step]
            write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
            self.lines = path.open("a")
            for name in dict.fromkeys(loggers):
                with guard(f"train.loggers: {name}"):
                    self.loggers[name] = LOGGERS[name](run, step)

    def __call__(self, split: str, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        if not self.enabled:
            return
        line = {"step": step, "epoch": epoch, "split": split} | metrics
        try:
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()
            plotted = {name: value for name, value in line.items() if _modality(name) not in self.unplotted}
            for name, logger in list(self.loggers.items()):
                self._try(name, partial(logger, line if name == "csv" else plotted))
        except OSError as error:  # TensorBoard's writer finds out here that the disk is full or the folder is gone
            raise RunError(f"{self.run}: cannot write its metrics: {error}") from error

    def _try(self, name: str, act: Callable[[], None]) -> None:
        """Have a logger do something; one that fails, as a server may, is left out from then on."""
        try:
            act()
        except OSError:
            raise
        except Exception as error:
            _log.warning(f"train.loggers: {name} failed, and is left out from now on; metrics.jsonl has all: {error}")
            del self.loggers[name]

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.lines.close()
            for name, logger in list(self.loggers.items()):
                self._try(name, logger.close)


def read_metrics(run: Path) -> Iterator[Line]:
    """Yield the lines of a run's log, in order; one that a kill cut short is left out."""
    path = run / "metrics.jsonl"
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            known = {"step", "epoch", "split"} <= set(line) and int(line["step"]) >= 0
        except (ValueError, TypeError):
            continue
        if known:
            yield line


def _modality(metric: str) -> str:
    """Return whose a metric is, such as x's ``log_px/x`` and ``elbo/only:x``."""
    return metric.rpartition("/")[2].removeprefix("only:")


def metrics_of(line: Line) -> dict[str, float]:
    """Return a line's metrics alone."""
    return {name: value for name, value in line.items() if name not in ("step", "epoch", "split")}


def require(loggers: Sequence[str]) -> None:
    """Raise `InputError` for the first logger whose package is not installed."""
    for name in loggers:
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise InputError(f"train.loggers: {name} is not installed; {install(name)}, or leave it out")


def _named(line: Line) -> dict[str, float]:
    """Return a line's metrics by names that say the split."""
    return {f"{line['split']}/{name}": value for name, value in metrics_of(line).items()}


def _settings(run: Path) -> dict[str, Any]:
    """Return the recipe that a run folder holds, as plain values."""
    path = run / "recipe.yaml"
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
    """``metrics.csv``: the JSON lines as a table; written anew when a metric comes that it has no column for."""

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
            id=earlier[-1].name.rsplit("-", 1)[-1] if earlier else None,  # a run that goes on is the same one
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
            # Files need no server and no database; MLflow 3 asks that one says so.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "modalkit")
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        tag = str(run.resolve())
        earlier = self.client.search_runs([experiment], f"tags.`modalkit.run` = '{tag}'", max_results=1) if step else []
        if earlier:  # a run that goes on is the same one
            self.id = earlier[0].info.run_id
        else:
            self.id = self.client.create_run(experiment, tags={"modalkit.run": tag}, run_name=run.name).info.run_id
            for key, value in _settings(run).items():
                self.client.log_param(self.id, key, str(value)[:500])

    def __call__(self, line: Line) -> None:
        now, split, step = int(time.time() * 1000), line["split"], line["step"]
        entries = [
            # Names are paths in MLflow's store, where elbo cannot be a file and, for elbo/TERM, a folder too.
            self.entities.Metric(f"{split}/{re.sub(r'[^-. A-Za-z0-9]', '_', name.replace('/', '.'))}", value, now, step)
            for name, value in metrics_of(line).items()
        ]
        for start in range(0, len(entries), 1000):  # the most that one request takes
            self.client.log_batch(self.id, metrics=entries[start : start + 1000])

    def close(self) -> None:
        self.client.set_terminated(self.id)


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": _Board,
    "csv": _Csv,
    "wandb": _WeightsAndBiases,
    "mlflow": _Mlflow,
}
"""What a recipe's ``train.loggers`` can name; each is made of the run folder and how many steps are done."""
