"""The most memory that `modalkit.train` holds while it trains on a DataFrame, beside what the frame itself takes.

    python tests/benchmarks/memory.py [--rows 1000000] [--columns 50] [--size 1] [--missing 0.1] [--steps 20]

The frame holds columns of float64, which depend on 5 factors; some cells are missing. The recipe is the drafted one, in
which each column is a modality, or one of vectors of `--size` columns, which are absent where a cell is missing. One
row in a hundred chooses the best epoch, and training ends after some steps. Prints the frame's size, the peak of the
process during the call less what it held before, and their ratio. The libraries are loaded before, because they take
the same for every frame. Needs pandas and Linux: the figures are VmRSS and VmHWM of /proc/self/status, which count
pages of mapped files too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

import modalkit

FACTORS, PART = 5, 50_000


def frame(rows: int, columns: int, missing: float) -> pd.DataFrame:
    """Return a table of float64; it is filled some rows at a time, so that making it takes no more than it holds."""
    random = np.random.default_rng(0)
    loadings, table = random.normal(size=(FACTORS, columns)), np.empty((rows, columns))
    for first in range(0, rows, PART):
        part = table[first : first + PART]
        np.matmul(random.normal(size=(len(part), FACTORS)), loadings, out=part)
        part += random.normal(size=part.shape)
        part[random.random(part.shape) < missing] = np.nan
    return pd.DataFrame(table, columns=[f"c{place}" for place in range(columns)], copy=False)


def held(field: str) -> int:
    """Return bytes of this process: `VmRSS` now, or `VmHWM`, the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def train(table: pd.DataFrame, steps: int, size: int = 1) -> modalkit.TrainedModel:
    """Train for some steps, each modality a vector of so many columns."""
    split = {"train": 0.98, "valid": 0.01, "test": 0.01}
    changes = {"train.max_steps": steps, "train.accelerator": "cpu"}
    recipe, names = None, list(table.columns)
    if size > 1:
        parts = [names[first : first + size] for first in range(0, len(names), size)]
        recipe = {"modalities": {f"v{n}": {"kind": "vector", "names": part} for n, part in enumerate(parts)}}
    return modalkit.train(recipe, table, set=changes, split=split, progress=False)


def measured(rows: int, columns: int, missing: float, steps: int, size: int = 1) -> tuple[int, int]:
    """Return the bytes of a frame, and the peak during the call less what was held before; in a fresh process."""
    train(frame(200, 2, missing), 1)  # loads the libraries
    table = frame(rows, columns, missing)
    before = held("VmRSS")
    train(table, steps, size)
    return int(table.memory_usage(index=False).sum()), held("VmHWM") - before


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--size", type=int, default=1, help="columns of a modality")
    parser.add_argument("--missing", type=float, default=0.1, help="share of the cells that are missing")
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    start = time.perf_counter()
    own, peak = measured(asked.rows, asked.columns, asked.missing, asked.steps, asked.size)
    print(
        f"frame {own / 1e6:.0f} MB, peak during the call {peak / 1e6:.0f} MB more than before: "
        f"{peak / own:.2f} times the frame; {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
