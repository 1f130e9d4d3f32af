"""The metrics of a run, which `metrics.jsonl` holds: a JSON object for each log step and each validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modalkit.runs.folder import RunFolder

Line = dict[str, Any]
"""``step``, ``epoch``, ``split``, and metrics by name. The split is train, valid or `REFIT`."""

REFIT = "refit"
"""The split of lines of a second fit, on training and validation rows. Its steps follow those of the first fit, and its
epochs are counted from the start."""


def read_metrics(run: Path) -> Iterator[Line]:
    """Yield the lines of a run's log, in order; an incomplete line, which a killed process leaves, is skipped.

    Args:
        run: the run folder.
    """
    path = RunFolder(run).metrics
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            known = {"step", "epoch", "split"} <= set(line) and int(line["step"]) >= 0
        except (ValueError, TypeError):
            continue
        if known:
            yield line


def read_history(run: Path) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a run's first fit, in order.

    Each epoch has ``epoch``, ``step`` and its metrics by ``split/name``: those of its validation, such as
    ``valid/elbo``, and those of its last line about training, such as ``train/elbo``, if it has one. Epoch 0 is the
    start, where that was validated.

    Args:
        run: the run folder.
    """
    history: dict[int, dict[str, float]] = {}
    for line in read_metrics(run):
        if line["split"] == REFIT:
            continue
        # A line about training counts the epochs that are done, one about validation this epoch too.
        epoch = line["epoch"] + (line["split"] == "train")
        one = history.setdefault(epoch, {"epoch": epoch})
        one |= {"step": line["step"]} | {f"{line['split']}/{name}": x for name, x in metrics_of(line).items()}
    return [history[epoch] for epoch in sorted(history)]


def metrics_of(line: Line) -> dict[str, float]:
    """Return a line's metrics alone."""
    return {name: value for name, value in line.items() if name not in ("step", "epoch", "split")}
