"""Coverage of 95 % intervals after multiple imputation, over many simulated tables with missing cells.

    python tests/benchmarks/rubin.py                          # 500 tables, about two hours on one core
    python tests/benchmarks/rubin.py --tables 20 --first 5000
    python tests/benchmarks/rubin.py --report                 # prints what is stored, computes nothing

A table has 300 rows of x1, x2 and y: x1 is standard normal, x2 = 0.6 x1 + 0.8 e, y = 1 + x1 - 0.5 x2 + e. Of x2 and of
y, 30 % of the cells are missing at random, with a probability that rises with x1 (0.05 at -2, 0.73 at 2). The
parameters are the means of x2 and y, and the three coefficients of the regression of y on x1 and x2. For each method, a
line says in which share of the tables the interval holds the true value, and the 95 % Clopper-Pearson interval of that:

    complete     the table before cells went missing
    mean         each gap filled once, with the predictive mean
    one sample   each gap filled once, with a sample of the predictive distribution
    one model    10 tables of samples from one fitted model, pooled by Rubin's rules
    bootstrap    10 tables, each from a model fitted to rows sampled with replacement, pooled by Rubin's rules

Results are stored by table, so a run that was stopped continues. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from tqdm import tqdm

from modalkit.sklearn import MultimodalImputer, pool

Array = npt.NDArray[np.float64]

ROWS, MISSING, IMPUTATIONS, LEVEL = 300, 0.3, 10, 0.95
SHIFT = -1.017  # the mean of the logistic function of x1 + SHIFT is MISSING
TRUE = {"mean of x2": 0.0, "mean of y": 1.0, "intercept": 1.0, "coefficient of x1": 1.0, "coefficient of x2": -0.5}
METHODS = ("complete", "mean", "one sample", "one model", "bootstrap")


def simulate(seed: int) -> tuple[Array, Array]:
    """Return a table `(ROWS, 3)` of x1, x2 and y, and the same with NaN for missing cells."""
    random = np.random.default_rng(seed)
    x1 = random.normal(size=ROWS)
    x2 = 0.6 * x1 + 0.8 * random.normal(size=ROWS)
    y = 1 + x1 - 0.5 * x2 + random.normal(size=ROWS)
    complete = np.column_stack([x1, x2, y])
    gaps = complete.copy()
    chance = 1 / (1 + np.exp(-(x1 + SHIFT)))
    for column in (1, 2):
        gaps[random.random(ROWS) < chance, column] = np.nan
    return complete, gaps


def estimates(table: Array) -> tuple[Array, Array]:
    """Return the parameters' estimates and their variances, `(5,)` each, in the order of `TRUE`."""
    means = table[:, 1:].mean(0)
    squared = table[:, 1:].var(0, ddof=1) / len(table)
    design = np.column_stack([np.ones(len(table)), table[:, :2]])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ table[:, 2]
    noise = (table[:, 2] - design @ coefficients).var(ddof=0) * len(table) / (len(table) - 3)
    return np.concatenate([means, coefficients]), np.concatenate([squared, noise * inverse.diagonal()])


DF = np.array([ROWS - 1, ROWS - 1, ROWS - 3, ROWS - 3, ROWS - 3])


def single(table: Array) -> list[tuple[float, float, float]]:
    """Return estimate and interval of each parameter, as if no cell had been missing."""
    found, squared = estimates(table)
    half = stats.t.ppf(0.5 + LEVEL / 2, DF) * np.sqrt(squared)
    return [tuple(map(float, one)) for one in zip(found, found - half, found + half, strict=True)]  # type: ignore[misc]


def pooled(tables: Sequence[Array]) -> list[tuple[float, float, float]]:
    """Return estimate and interval of each parameter, by Rubin's rules."""
    each = [estimates(table) for table in tables]
    result = []
    for place, df in enumerate(DF.tolist()):
        one = pool([found[place] for found, _ in each], [squared[place] for _, squared in each], df=df)
        low, high = one.interval(LEVEL)
        result.append((float(one.estimate), float(low), float(high)))
    return result


def study(seed: int, epochs: int) -> dict[str, list[tuple[float, float, float]]]:
    """Return the intervals of each method for one table."""
    complete, gaps = simulate(seed)
    common = {"epochs": epochs, "n_imputations": IMPUTATIONS, "random_state": seed}
    model = MultimodalImputer(bootstrap=True, **common).fit(gaps)
    found = {"complete": single(complete), "mean": single(model.transform(gaps))}
    found["bootstrap"] = pooled(model.imputations(gaps))
    model.bootstrapped_ = []  # imputations now come from the one model that is fitted to all rows
    tables = model.imputations(gaps)
    return found | {"one sample": single(tables[0]), "one model": pooled(tables)}


def report(stored: Sequence[dict[str, list[tuple[float, float, float]]]]) -> str:
    """Return a table of coverage, mean width and bias for each parameter and method."""
    lines = []
    for place, (name, true) in enumerate(TRUE.items()):
        lines.append(f"{name} = {true}")
        for method in METHODS:
            found = np.array([one[method][place] for one in stored])
            hits = int(((found[:, 1] <= true) & (true <= found[:, 2])).sum())
            low, high = stats.binomtest(hits, len(found)).proportion_ci(LEVEL, "exact")
            verdict = "holds 95 %" if low <= LEVEL <= high else "does not"
            lines.append(
                f"  {method:11} covers {hits / len(found):6.1%} ({low:.1%} to {high:.1%}: {verdict}); "
                f"mean width {np.mean(found[:, 2] - found[:, 1]):.3f}, bias {np.mean(found[:, 0]) - true:+.4f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Compute what is not stored, and print the coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="seed of the first table")
    parser.add_argument("--epochs", type=int, default=1, help="of each training")
    parser.add_argument("--report", action="store_true", help="print what is stored")
    parser.add_argument(
        "--file", type=Path, default=Path("runs/benchmarks/rubin.jsonl"), help="where results are stored"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.file.parent.mkdir(parents=True, exist_ok=True)
    lines = given.file.read_text().splitlines() if given.file.exists() else []
    stored = {(one["seed"], one["epochs"]): one["found"] for one in map(json.loads, lines)}
    wanted = [(seed, given.epochs) for seed in range(given.first, given.first + given.tables)]
    if not given.report:
        for key in tqdm([key for key in wanted if key not in stored], unit="table"):
            stored[key] = study(*key)
            with given.file.open("a") as file:
                file.write(json.dumps({"seed": key[0], "epochs": key[1], "found": stored[key]}) + "\n")
    if not (found := [stored[key] for key in wanted if key in stored]):
        parser.error(f"{given.file} holds none of these tables; run the study without --report first")
    print(report(found))


if __name__ == "__main__":
    main()
