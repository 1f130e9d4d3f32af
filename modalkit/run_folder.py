"""A run folder: whose it is, what it ran on, and the log of its metrics."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.loggers import TensorBoardLogger

import modalkit
from modalkit.errors import InputError, RunError
from modalkit.files import is_empty, remove_leftovers, write_json, write_text
from modalkit.layout import listed, some
from modalkit.recipe import Recipe, load_recipe

MAY_CHANGE = {
    "epochs",
    "max_steps",
    "patience",
    "accelerator",
    "devices",
    "checkpoint_every",
    "log_every",
    "pictures_every",
}
"""Keys of ``train:`` that may change when a run goes on: how long, where, and how often to report."""


def check_claim(recipe: Recipe, run: Path) -> None:
    """Check that a run folder is this recipe's, or nobody's.

    Raises:
        InputError: it holds the saved state of another recipe's run, or files of something else.
    """
    path = run / "recipe.yaml"
    if not path.exists() and not is_empty(run):
        raise InputError(f"{run}: is not empty and not a run; choose another --out")
    for folder in (run, run / "checkpoints", run / "pictures"):
        remove_leftovers(folder)
    trained = path.exists() and any((run / "checkpoints").glob("*"))
    if trained and (changed := differences(_recipe_of(path), recipe)):
        raise InputError(
            f"{run}: holds a run of another recipe (it differs in {listed(changed)}); choose another --out, or "
            f"delete this folder"
        )


def claim(recipe: Recipe, run: Path) -> None:
    """Write into a run folder what it is a run of, and what it runs on."""
    write_text(run / "recipe.yaml", recipe.to_yaml())
    versions = {"modalkit": modalkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    write_json(run / "environment.json", versions | machine | {"command": sys.argv})


def _recipe_of(path: Path) -> Recipe:
    """Return the recipe that a run was begun with; what has been added to recipes since then has its default."""
    try:
        return load_recipe(path)
    except InputError as error:
        raise InputError(f"{path}: this run's recipe is damaged ({error}); choose another --out") from None


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, without what may change when a run goes on."""
    one, other = (dict(_leaves("", _comparable(recipe))) for recipe in (before, now))
    return [key for key in one | other if one.get(key) != other.get(key)]


def _comparable(recipe: Recipe) -> dict[str, Any]:
    # How its data was built is no matter here: the trainer compares what is in it.
    whole = recipe.model_dump(mode="json", exclude={"extends": True, "description": True, "data": {"build"}})
    return whole | {"train": {key: value for key, value in whole["train"].items() if key not in MAY_CHANGE}}


def _leaves(at: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{at}.{key}" if at else str(key), item)
    else:
        yield at, value


def _step_of(line: str) -> float:
    """Return a line's step; a line that was cut by a kill is dropped, so it belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


def _modality(metric: str) -> str:
    """Return whose a metric is, such as x's ``log_px/x`` and ``elbo/only:x``."""
    return metric.rpartition("/")[2].removeprefix("only:")


class MetricsLog:
    """Writes metrics as JSON lines and TensorBoard events; what a resumed run repeats is dropped first.

    Of hundreds of modalities TensorBoard has those of `some`, evenly spaced; the JSON lines have all.

    Args:
        run: the run folder.
        step: steps done; later lines are dropped.
        names: the modalities.
        enabled: whether this process writes anything.
    """

    def __init__(self, run: Path, step: int, names: Sequence[str], *, enabled: bool) -> None:
        self.run, self.enabled, path = run, enabled, run / "metrics.jsonl"
        self.unplotted = set(names) - set(some(names))
        if enabled:
            kept = path.read_text(errors="replace").splitlines() if path.exists() else []
            write_text(path, "".join(f"{line}\n" for line in kept if _step_of(line) <= step))
            self.lines = path.open("a")
            self.board = TensorBoardLogger(run, name="", version="", purge_step=step + 1 if step else None)

    def __call__(self, split: str, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line and its events."""
        if not self.enabled:
            return
        line = {"step": step, "epoch": epoch, "split": split} | metrics
        try:
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()
            plotted = {n: v for n, v in metrics.items() if _modality(n) not in self.unplotted}
            self.board.log_metrics({f"{split}/{name}": value for name, value in plotted.items()}, step)
        except OSError as error:  # TensorBoard's writer finds out here that the disk is full or the folder is gone
            raise RunError(f"{self.run}: cannot write its metrics: {error}") from error

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.lines.close()
            self.board.finalize("success")
