"""The way of a person's own data, by the commands that a user types: build, draft, train, impute."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from table_sources import Array, Mask, Table, Texts, read_csv

_DRIVER = """
import contextlib, json, sys
from modalkit.cli import app
for arguments, output in json.loads(sys.argv[1]):
    with contextlib.ExitStack() as stack:
        if output:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(output, "w"))))
        if code := app(arguments, standalone_mode=False):
            sys.exit(code)
"""


def impute_table(table: Table, hidden: Mask, work: Path, overrides: Sequence[str]) -> tuple[Texts, Texts, float]:
    """Write a table with gaps, fill it by the commands, and return it, its uncertainties, and the CPU time in s."""
    with (work / "table.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(table.columns)
        columns = list(table.columns.values())
        lines.writerows(
            ["" if hidden[r, c] else column[r] for c, column in enumerate(columns)] for r in range(table.rows)
        )
    seconds = _run(work, ["table", str(work / "table.csv")], work / "filled.csv", overrides)
    filled, unsure = (read_csv((work / f"{name}.csv").read_text()) for name in ("filled", "filled-uncertainty"))
    return filled, unsure, seconds


def impute_views(
    views: dict[str, Array], hidden: Mask, work: Path, overrides: Sequence[str]
) -> tuple[dict[str, Array], float]:
    """Write views with gaps, fill them by the commands, and return them and the CPU time in s."""
    import torch

    import modalkit

    gaps = {name: np.where(hidden[:, i, None], np.nan, values) for i, (name, values) in enumerate(views.items())}
    rows = len(hidden)
    np.savez(work / "views.npz", ids=np.array([f"{i:06d}" for i in range(rows)]), **gaps)  # type: ignore[arg-type]
    seconds = _run(work, ["arrays", str(work / "views.npz")], work / "filled", overrides)
    filled = modalkit.Dataset(work / "filled")
    order = np.argsort([filled.key(row) for row in range(rows)])
    batch = filled[torch.arange(rows)]
    return {name: batch.values[name].double().numpy()[order] for name in views}, seconds


def _run(work: Path, source: Sequence[str], out: Path, overrides: Sequence[str]) -> float:
    """Run the four commands in one process of one thread; return its CPU time in seconds, start included."""
    data, recipe, run = (str(work / part) for part in ("data", "recipe.yaml", "run"))
    options = [part for override in overrides for part in ("--set", override)]
    commands: list[tuple[list[str], str]] = [
        (["build-dataset", *source, "--out", data, "--yes"], ""),
        (["init", data], recipe),
        (["train", recipe, "--out", run, "-q", *options], ""),
        (["impute", run, data, "-o", str(out), "-q"], ""),
    ]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    before = _children()
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(commands)], capture_output=True, env=os.environ | threads
    )
    if done.returncode:
        raise RuntimeError(f"the commands of the draft failed:\n{done.stderr.decode()[-3000:]}")
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def column(texts: Texts, name: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers; NaN for empty cells."""
    return np.array([float(text) if text else np.nan for text in texts[name]])
