"""A run folder: whose it is, what it ran on, and the log of its metrics."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric.loggers import TensorBoardLogger

import modalkit
from modalkit.errors import InputError
from modalkit.files import write_json, write_text
from modalkit.recipe import Recipe

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
    if not path.exists() and any(p.name != ".lock" for p in run.iterdir()):
        raise InputError(f"{run}: is not empty and not a run; choose another --out")
    if path.exists() and (run / "checkpoints" / "state.pt").exists():
        before, now = _comparable(path.read_text()), _comparable(recipe.to_yaml())
        if changed := [key for key in before | now if before.get(key) != now.get(key)]:
            raise InputError(
                f"{run}: holds a run of another recipe (it differs in {', '.join(changed)}); choose another --out, "
                f"or delete this folder"
            )


def claim(recipe: Recipe, run: Path) -> None:
    """Write into a run folder what it is a run of, and what it runs on."""
    write_text(run / "recipe.yaml", recipe.to_yaml())
    versions = {"modalkit": modalkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    write_json(run / "environment.json", versions | machine | {"command": sys.argv})


def _comparable(text: str) -> dict[str, Any]:
    """Return a resolved recipe's values by dotted key, without what may change when a run goes on."""
    recipe: dict[str, Any] = yaml.safe_load(text)
    recipe.pop("description", None)
    recipe["train"] = {key: value for key, value in recipe["train"].items() if key not in MAY_CHANGE}
    return dict(_leaves("", recipe))


def _leaves(at: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{at}.{key}" if at else str(key), item)
    else:
        yield at, value


class MetricsLog:
    """Writes metrics as JSON lines and TensorBoard events; what a resumed run repeats is dropped first."""

    def __init__(self, run: Path, step: int, *, enabled: bool) -> None:
        self.enabled, path = enabled, run / "metrics.jsonl"
        if enabled:
            kept = (
                [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
                if path.exists()
                else []
            )
            write_text(path, "".join(line for line in kept if json.loads(line)["step"] <= step))
            self.lines = path.open("a")
            self.board = TensorBoardLogger(run, name="", version="", purge_step=step + 1 if step else None)

    def __call__(self, split: str, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line and its events."""
        if self.enabled:
            line = {"step": step, "epoch": epoch, "split": split} | metrics
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()
            self.board.log_metrics({f"{split}/{name}": value for name, value in metrics.items()}, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.lines.close()
            self.board.finalize("success")
