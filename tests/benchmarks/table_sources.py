"""Tables that Python packages carry, as a person would have them in a CSV file, and the hiding of their cells."""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import importlib.util
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Texts = dict[str, list[str]]
_EMPTY = ("", "NA", "NaN")


class MissingPackage(Exception):
    """The package that carries a table is not installed."""


@dataclass(frozen=True)
class Table:
    """A table as texts, column by column; "" is an empty cell."""

    name: str
    source: str
    columns: Texts

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def filled(self) -> Mask:
        """Which cells hold something; of shape (rows, columns)."""
        return np.array([[text != "" for text in column] for column in self.columns.values()]).T

    def numeric(self, name: str) -> bool:
        """Whether a column holds numbers, more than two different ones."""
        texts = {text for text in self.columns[name] if text}
        return len(texts) > 2 and all(_is_number(text) for text in texts)

    def numbers(self, name: str) -> Array:
        return np.array([float(text) if text else np.nan for text in self.columns[name]])


@dataclass(frozen=True)
class Source:
    """Where a table is found, and which of its columns are left out."""

    package: str
    read: Callable[[], Texts]
    without: tuple[str, ...] = ()
    rows: int | None = None
    """Most rows; a larger table is reduced to so many random ones."""


def load(name: str) -> Table:
    """Return a table.

    Raises:
        MissingPackage: the package that carries it is not installed.
    """
    source = TABLES[name]
    columns = {key: value for key, value in source.read().items() if key not in source.without}
    rows = len(next(iter(columns.values())))
    chosen = np.arange(rows)
    if source.rows and rows > source.rows:
        chosen = np.sort(np.random.default_rng(0).permutation(rows)[: source.rows])
    kept = {key: ["" if value[i] in _EMPTY else value[i] for i in chosen] for key, value in columns.items()}
    return Table(name, f"{source.package} {importlib.metadata.version(source.package)}", kept)


def hide(table: Table, seed: int, mechanism: str, share: float) -> Mask:
    """Choose cells to hide; of shape (rows, columns). No row loses all its cells.

    With "mcar", each cell is hidden with probability `share`. With "mar", a third of the columns (at least one) stays
    whole. Each other column depends on one of these: a cell is hidden with a probability that rises linearly with the
    rank of its row in that column, from 0 to twice `share`.
    """
    rng = np.random.default_rng([seed, mechanism == "mar", *table.name.encode()])
    names = list(table.columns)
    chance = np.full((table.rows, len(names)), share)
    if mechanism == "mar":
        drivers = rng.permutation(len(names))[: max(1, len(names) // 3)]
        ranks = {int(d): _ranks(table, names[d], rng) for d in drivers}
        for column in range(len(names)):
            driver = int(rng.choice(drivers))
            chance[:, column] = 0 if column in ranks else 2 * share * ranks[driver]
    filled = table.filled
    hidden = (rng.random(chance.shape) < chance) & filled
    for row in np.flatnonzero((hidden == filled).all(1)):
        hidden[row, rng.choice(np.flatnonzero(filled[row]))] = False
    return hidden


def package_folder(package: str, module: str) -> Path:
    """Return the folder of an installed module without importing it.

    Raises:
        MissingPackage: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def read_csv(text: str) -> Texts:
    header, *lines = csv.reader(io.StringIO(text))
    return {name: [line[i].strip() for line in lines] for i, name in enumerate(header)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ranks(table: Table, name: str, rng: np.random.Generator) -> Array:
    """Return each row's rank in a column, from 0 to 1; categories in a random order; 0.5 where the cell is empty."""
    if table.numeric(name):
        values = table.numbers(name)
    else:
        words = sorted(set(table.columns[name]) - {""})
        place = dict(zip(words, rng.permutation(len(words)).astype(float), strict=True)) | {"": np.nan}
        values = np.array([place[text] for text in table.columns[name]])
    values = values + 1e-9 * np.nanstd(values) * rng.random(len(values))  # equal values in a random order
    ranks = np.full(len(values), 0.5)
    known = np.flatnonzero(~np.isnan(values))
    ranks[known[np.argsort(values[known])]] = np.linspace(0, 1, len(known))
    return ranks


def _sklearn(loader: str, target: str, **options: Any) -> Callable[[], Texts]:
    def read() -> Texts:
        package_folder("scikit-learn", "sklearn")
        data = getattr(importlib.import_module("sklearn.datasets"), f"load_{loader}")(**options)
        names = getattr(data, "target_names", None)
        columns = {n: [f"{x:g}" for x in data.data[:, i]] for i, n in enumerate(data.feature_names)}
        return columns | {target: [f"{x:g}" if names is None else str(names[int(x)]) for x in data.target]}

    return read


def _file(package: str, module: str, path: str) -> Callable[[], Texts]:
    return lambda: read_csv((package_folder(package, module) / path).read_text())


def _pydataset(name: str) -> Callable[[], Texts]:
    def read() -> Texts:
        with tarfile.open(package_folder("pydataset", "pydataset") / "resources.tar.gz") as archive:
            for member in archive:
                if member.name.endswith(f"/csv/{name}.csv") and (file := archive.extractfile(member)):
                    return read_csv(file.read().decode())
        raise MissingPackage(f"pydataset has no {name}")

    return read


def _islp(name: str) -> Callable[[], Texts]:
    return _file("ISLP", "ISLP", f"data/{name}.csv")


TABLES: Mapping[str, Source] = {
    "wine": Source("scikit-learn", _sklearn("wine", "cultivar")),
    "diabetes": Source("scikit-learn", _sklearn("diabetes", "progression", scaled=False)),
    "penguins": Source("palmerpenguins", _file("palmerpenguins", "palmerpenguins", "data/penguins.csv")),
    "auto": Source("ISLP", _islp("Auto"), without=("name",)),
    "carseats": Source("ISLP", _islp("Carseats")),
    "credit": Source("ISLP", _islp("Credit"), without=("ID",)),
    "hitters": Source("ISLP", _islp("Hitters")),
    "college": Source("ISLP", _islp("College")),
    "wage": Source("ISLP", _islp("Wage"), without=("region", "logwage"), rows=1500),
    "survey": Source("pydataset", _pydataset("MASS/survey"), without=("",)),
    "diamonds": Source("pydataset", _pydataset("ggplot2/diamonds"), without=("",), rows=1500),
}
"""All tables by name."""
