"""The metrics of a run, which `metrics.jsonl` holds: a JSON object for each log step and each validation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modalkit.errors import InputError
from modalkit.runs.folder import RunFolder
from modalkit.util.json_files import parse_json

_log = logging.getLogger(__name__)

Line = dict[str, Any]
"""``step``, ``epoch``, ``split``, and metrics by name. The split is train, valid or `REFIT`."""

REFIT = "refit"
"""The split of lines of a second fit, on training and validation rows. Its steps follow those of the first fit, and its
epochs are counted from the start."""


def read_metrics(run: Path) -> Iterator[Line]:
    """Yield the lines of a run's log, in order; an incomplete line, which a killed process leaves, is skipped.

    Other damaged lines are skipped with a warning that names the first.

    Args:
        run: the run folder.

    Raises:
        InputError: this user cannot read the log.
    """
    path, damaged = RunFolder(run).metrics, list[str]()
    try:
        text = path.read_text(errors="replace") if path.exists() else ""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield _checked(parse_json(line, f"{path}:{number}", "this line is skipped"))
        except (InputError, ValueError) as error:
            if number < len(lines) or text.endswith("\n"):  # a killed process leaves an incomplete last line
                damaged.append(str(error) if isinstance(error, InputError) else f"{path}:{number}: {error}")
    if damaged:
        others = f", and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        _log.warning(f"{damaged[0]}{others}; damaged lines of this log are left out")


def _checked(line: Any) -> Line:
    """Return a line if it has its fields and numbers; ValueError names the field."""
    if not isinstance(line, dict):
        raise ValueError("should be an object")
    for key in ("step", "epoch"):
        if type(line.get(key)) is not int or line[key] < 0:
            raise ValueError(f"{key}: should be a whole number from 0")
    if line.get("split") not in ("train", "valid", REFIT):
        raise ValueError(f"split: should be train, valid or {REFIT}")
    for name, value in metrics_of(line).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: should be a number")
    return line


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
