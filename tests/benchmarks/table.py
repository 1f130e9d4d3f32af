"""Imputes a table whose groups of columns have holes, and compares with scikit-learn's imputers.

    python tests/benchmarks/table.py [--data factors|breast-cancer|digits] [--seed 0] [--iterative] [--work FOLDER]

Everything goes the way a person's own table goes: a CSV file, `build-dataset table`, `init`, `train`, and
`modalkit.load(run).impute(dataset)`. What is compared are entries that were hidden in test rows: root mean squared
errors in standard deviations of each column, averaged over a group's columns and hidden entries. The imputers see the
same training and validation rows, standardised; needs scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
FACTORS = {"a": 5, "b": 12, "c": 30, "d": 60, "e": 120, "f": 250}


def factors(rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Draw groups of columns that are noisy nonlinear functions of six factors, each column in a unit of its own."""
    z, groups = rng.standard_normal((rows, 6)), {}
    for name, size in FACTORS.items():
        hidden = np.tanh(1.5 * z @ rng.standard_normal((6, 32)) / 6**0.5 + 0.5 * rng.standard_normal(32))
        signal = hidden @ rng.standard_normal((32, size))
        column = signal / signal.std(0) + 0.5 * rng.standard_normal((rows, size))
        groups[name] = column * rng.lognormal(0, 1.5, size) + rng.normal(0, 5, size)
    return groups


def real(name: str) -> dict[str, Array]:
    """Return a real table that scikit-learn brings along, its columns in groups."""
    from sklearn import datasets

    if name == "breast-cancer":  # 10 properties of cell nuclei: their means, standard errors, and worst values
        values, groups = datasets.load_breast_cancer().data, ("mean", "error", "worst")
        return {group: values[:, 10 * i : 10 * (i + 1)] for i, group in enumerate(groups)}
    values = datasets.load_digits().data  # 8 x 8 pixels, in pairs of lines
    return {f"lines{i}": values[:, 16 * i : 16 * (i + 1)] for i in range(4)}


def errors(truth: Array, imputed: Array, hidden: npt.NDArray[np.bool_]) -> float:
    return float(np.sqrt(((imputed - truth)[hidden] ** 2).mean()))


def modalkit(*arguments: object) -> str:
    done = subprocess.run([sys.executable, "-m", "modalkit", *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("factors", "breast-cancer", "digits"), default="factors")
    parser.add_argument("--rows", type=int, default=2000, help="of factors")
    parser.add_argument("--missing", type=float, default=0.3, help="part of the groups that is hidden")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterative", action="store_true", help="IterativeImputer too: minutes where columns are many")
    parser.add_argument("--set", action="append", default=[], help="handed on to modalkit train")
    parser.add_argument("--work", type=Path, help="where files go; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        compare(given, work)


def compare(given: argparse.Namespace, work: Path) -> None:
    rng = np.random.default_rng(given.seed)
    groups = factors(given.rows, rng) if given.data == "factors" else real(given.data)
    rows = len(next(iter(groups.values())))
    varying = {n: np.flatnonzero(values.std(0) > 0) for n, values in groups.items()}
    groups = {n: values[:, varying[n]] for n, values in groups.items()}
    hidden = rng.random((rows, len(groups))) < given.missing
    hidden[hidden.all(1), 0] = False
    split = rng.permutation(np.repeat(["train", "valid", "test"], [rows - 2 * (rows // 10), rows // 10, rows // 10]))
    with (work / "table.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["split", *(f"{n}_{i + 1}" for n, g in groups.items() for i in range(g.shape[1]))])
        for i in range(rows):
            cells = (["" if hidden[i, m] else repr(float(x)) for x in g[i]] for m, g in enumerate(groups.values()))
            lines.writerow([split[i], *(cell for group in cells for cell in group)])
    (work / "groups.yaml").write_text(
        "split: split\nmodalities:\n" + "".join(f"  {n}: {{columns: {n}_*, kind: vector}}\n" for n in groups)
    )

    began = time.perf_counter()
    modalkit("build-dataset", "table", work / "table.csv", "--columns", work / "groups.yaml", "--out", work / "data")
    built = time.perf_counter()
    (work / "recipe.yaml").write_text(modalkit("init", work / "data"))
    overrides = [part for override in given.set for part in ("--set", override)]
    modalkit("train", work / "recipe.yaml", "--out", work / "run", *overrides)
    trained = time.perf_counter()
    import modalkit as library

    filled = library.load(work / "run").impute(library.Dataset(work / "data")).batch.values
    done = time.perf_counter()
    print(f"build {built - began:.0f} s, draft and train {trained - built:.0f} s, impute {done - trained:.0f} s")

    train, test = split == "train", split == "test"
    z, holes, ours = {}, {}, {}
    for m, (name, values) in enumerate(groups.items()):
        seen = values[train & ~hidden[:, m]]
        scale = np.where(seen.std(0) > 0, seen.std(0), 1.0)
        z[name] = (values - seen.mean(0)) / scale
        ours[name] = (filled[name].double().numpy() - seen.mean(0)) / scale
        holes[name] = np.where(hidden[:, m, None], np.nan, z[name])
    results = {"column means": dict.fromkeys(groups, 0.0), "modalkit": ours} | sklearn(holes, ~test, given.iterative)
    print(f"\nRMSE of hidden entries in {int(test.sum())} test rows, in standard deviations:\n")
    print("".ljust(20) + "".join(n.rjust(9) for n in groups) + "mean".rjust(9))
    for method, imputed in results.items():
        scores = [
            errors(z[n], np.broadcast_to(imputed[n], z[n].shape), test & hidden[:, m]) for m, n in enumerate(groups)
        ]
        print(method.ljust(20) + "".join(f"{score:9.3f}" for score in [*scores, float(np.mean(scores))]))


def sklearn(holes: dict[str, Array], fit: npt.NDArray[np.bool_], iterative: bool) -> dict[str, dict[str, Array]]:
    """Return what scikit-learn's imputers, with their default settings, put into the holes of the rows not in `fit`."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    whole, found = np.concatenate(list(holes.values()), 1), {}
    ends = np.cumsum([h.shape[1] for h in holes.values()])[:-1]
    for imputer in (KNNImputer(), *([IterativeImputer()] if iterative else [])):
        began = time.perf_counter()
        filled = whole.copy()
        filled[~fit] = imputer.fit(whole[fit]).transform(whole[~fit])
        found[type(imputer).__name__] = dict(zip(holes, np.split(filled, ends, 1), strict=True))
        print(f"{type(imputer).__name__}: {time.perf_counter() - began:.0f} s")
    return found


if __name__ == "__main__":
    main()
