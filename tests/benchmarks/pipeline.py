"""Times and scores imputers in a scikit-learn pipeline, by cross-validation on a simulated table with gaps.

    python tests/benchmarks/pipeline.py [--rows 2000] [--columns 20] [--folds 5]

The columns depend on 4 factors, some of them in a curved way; 20 % of the cells are missing, at random. The target
depends on the same factors. R² is that of the held-out folds, whose rows have gaps too.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from modalkit.sklearn import MultimodalImputer, MultimodalRegressor


def table(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns with gaps, `(rows, columns)`, and the target, `(rows,)`."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(rows, 4))
    linear = factors @ random.normal(size=(4, columns))
    curved = np.tanh(factors @ random.normal(size=(4, columns))) * 2
    complete = np.where(np.arange(columns) % 2, curved, linear) + 0.5 * random.normal(size=(rows, columns))
    target = factors @ random.normal(size=4) + 0.5 * random.normal(size=rows)
    complete[random.random(complete.shape) < 0.2] = np.nan
    return complete, target


def main() -> None:
    """Print a line for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    X, y = table(given.rows, given.columns, 0)
    ridge = RidgeCV(np.logspace(-2, 3, 12))
    pipelines = {
        "mean + ridge": make_pipeline(SimpleImputer(), ridge),
        "IterativeImputer + ridge": make_pipeline(IterativeImputer(random_state=0), ridge),
        "MultimodalImputer + ridge": make_pipeline(MultimodalImputer(), ridge),
        "MultimodalRegressor": MultimodalRegressor(),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
    }
    for name, pipeline in pipelines.items():
        wall, cpu = time.perf_counter(), time.process_time()
        scores = cross_val_score(pipeline, X, y, cv=KFold(given.folds, shuffle=True, random_state=0))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:28} R² {scores.mean():.4f} ± {scores.std():.4f}  {wall:6.1f} s ({cpu:.1f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
