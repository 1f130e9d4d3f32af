"""Cells as `AnnData` and `MuData` hold them: matrices of one or several modalities, read some rows at a time.

Neither package is imported here: both are known by the classes of what is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modalkit.data.frame_values import modality_for
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Cells, Schema
from modalkit.registry import modality
from modalkit.util.text import listed

Array = npt.NDArray[Any]
Layer = str | Mapping[str, str | None] | None
"""Which layer holds a modality's values: one name for all, or by modality; None: ``X``."""
VALUES = 10_000_000
"""Most values that are dense at a time."""
ALONE = "X"
"""The modality that the matrix of an `AnnData` is."""


@dataclass(frozen=True)
class Matrix:
    """The matrix of one modality, with a place for each row of the whole.

    Attributes:
        name: the modality.
        values: `(own rows, variables)`, sparse or dense, in memory or backed by a file.
        variables: their names.
        places: for each row of the whole the row of `values`, int64 `(rows,)`; -1 where there is none.
        keys: the names of the whole's rows.
    """

    name: str
    values: Any
    variables: tuple[str, ...]
    places: npt.NDArray[np.int64]
    keys: tuple[str, ...]

    def chunks(self) -> Iterator[slice]:
        """Yield slices of rows that hold at most `VALUES` values each."""
        step = max(1, VALUES // max(1, len(self.variables)))
        yield from (slice(start, min(start + step, len(self.keys))) for start in range(0, len(self.keys), step))

    def dense(self, rows: slice) -> npt.NDArray[np.float64]:
        """Return some rows as an array of our own, `(rows, variables)`, NaN in rows that the matrix lacks.

        Raises:
            InputError: a value is infinite, or no number.
        """
        places = self.places[rows]
        there = np.flatnonzero(places >= 0)
        found = np.full((len(places), len(self.variables)), np.nan)
        order = there[np.argsort(places[there], kind="stable")]  # files read rows in their order only
        if len(order):
            part = self.values[places[order]]
            part = part.compute() if hasattr(part, "compute") else part
            try:
                found[order] = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
            except (TypeError, ValueError):
                raise InputError(f"data: '{self.name}' holds values that are no numbers") from None
        if (infinite := np.isinf(found)).any():
            row, column = np.argwhere(infinite)[0].tolist()
            raise InputError(f"{self.at(rows.start + row, column)} is infinite; correct it, or make it NaN")
        return found

    def at(self, row: int, column: int) -> str:
        """Name a value for a message."""
        return f"data: '{self.name}', row '{self.keys[row]}', variable '{self.variables[column]}'"


class Annotated:
    """An `AnnData` or a `MuData`, with one row for each observation that any of its modalities has.

    Args:
        data: the object; it is never changed.
        layer: see `Layer`.

    Attributes:
        data: the object.
        several: whether it is a `MuData`.
        keys: the names of the rows.
        matrices: by modality.

    Raises:
        InputError: it has no rows, names that are not unique, or no such layer.
    """

    def __init__(self, data: Any, layer: Layer = None) -> None:
        self.data, self.several = data, _is_a(data, "mudata", "MuData")
        if self.several and getattr(data, "axis", 0) != 0:
            raise InputError("data: the MuData's modalities share variables (axis=1), not rows; give one of axis=0")
        self.keys = _unique("data: the rows (obs_names)", data.obs_names, "obs_names_make_unique")
        if not self.keys:
            raise InputError("data: has no rows")
        mods = {str(name): mod for name, mod in data.mod.items()} if self.several else {ALONE: data}
        layers = _layers(mods, layer)
        self.matrices: dict[str, Matrix] = {}
        for title, mod in mods.items():
            if (name := modality_for(title)) in self.matrices:
                raise InputError(f"data: two modalities would be called '{name}', such as '{title}'; rename one")
            self.matrices[name] = _matrix(name, mod, layers[title], self.keys)

    @property
    def obs(self) -> Any:
        """The table of what is known of the rows, a `pandas.DataFrame`."""
        return self.data.obs

    def chunks(self) -> Iterator[slice]:
        """Yield slices of rows whose matrices together hold at most `VALUES` values."""
        step = max(1, VALUES // max(1, sum(len(matrix.variables) for matrix in self.matrices.values())))
        yield from (slice(start, min(start + step, len(self.keys))) for start in range(0, len(self.keys), step))


def is_annotated(data: Any) -> bool:
    """Tell whether data is an `AnnData` or a `MuData`."""
    return _is_a(data, "anndata", "AnnData") or _is_a(data, "mudata", "MuData")


@dataclass(frozen=True)
class MatrixReader:
    """Reads a modality from a matrix, some rows at a time.

    Attributes:
        schema: its schema.
        matrix: the matrix.
        columns: the matrix' columns in the schema's order, `(size,)`; None if it has them in this order.
    """

    schema: Schema
    matrix: Matrix
    columns: Array | None = None

    @classmethod
    def of(cls, schema: Schema, matrix: Matrix) -> MatrixReader:
        """Return the reader of a modality, which finds the schema's variables by their names.

        Raises:
            InputError: the kind has no numbers, or the matrix lacks variables.
        """
        size, names, name = prod(schema.event_shape), schema.part_names, matrix.name
        if modality(schema.kind).columns.cells is Cells.TEXTS or len(schema.event_shape) > 1:
            raise InputError(f"data: '{name}' is a matrix, which the kind {schema.kind} cannot read")
        if not names or names == matrix.variables:
            if size != len(matrix.variables):
                raise InputError(f"data: '{name}' has {len(matrix.variables)} variables, and the model {size}")
            return cls(schema, matrix)
        place = {variable: at for at, variable in enumerate(matrix.variables)}
        if lacks := [one for one in names if one not in place]:
            raise InputError(
                f"data: '{name}' lacks {len(lacks)} of the model's {size} variables: {listed(lacks, 5)}; add them, "
                f"with NaN where they are not known"
            )
        return cls(schema, matrix, np.array([place[one] for one in names]))

    def __call__(self, rows: slice) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None]:
        """Return stored values, which rows are present, and which numbers are known of the other rows.

        Args:
            rows: with a start and an end.

        Returns:
            `(rows, size)`, `(rows,)`, and `(rows, size)` or None if no row is known in part.

        Raises:
            InputError: a number is none that the kind can hold; the message names the row and the variable.
        """
        numbers = self.matrix.dense(rows)
        there: npt.NDArray[np.bool_] = ~np.isnan(numbers)
        self._check(numbers, rows)
        if self.columns is not None:
            numbers, there = numbers[:, self.columns], there[:, self.columns]
        present: npt.NDArray[np.bool_] = np.all(there, axis=1)
        known = there & ~present[:, None]
        shape = (len(numbers), *self.schema.event_shape)
        values = np.where(there, numbers, 0).astype(self.schema.dtype).reshape(shape)  # (rows, columns) -> stored
        invalid = ~self.schema.valid(torch.from_numpy(values)).numpy() & present
        if invalid.any():
            row = self.matrix.keys[rows.start + int(invalid.argmax())]
            raise InputError(f"data: '{self.matrix.name}', row '{row}': the kind {self.schema.kind} cannot hold this")
        return values, present, known.reshape(shape) if known.any() else None

    def _check(self, numbers: Array, rows: slice) -> None:
        """Raise `InputError` for the first number that the kind cannot hold."""
        required = modality(self.schema.kind).columns.required
        if np.dtype(self.schema.dtype).kind in "iu":
            self._refuse(rows, numbers % 1 != 0, numbers, "no whole number; choose the layer of counts with layer=")
        if required is not None:
            self._refuse(rows, ~required.holds(numbers), numbers, required.otherwise)

    def _refuse(self, rows: slice, wrong: Array, numbers: Array, why: str) -> None:
        for row, column in np.argwhere(wrong & ~np.isnan(numbers))[:1].tolist():
            raise InputError(f"{self.matrix.at(rows.start + row, column)}: {numbers[row, column]:g} is {why}")


def _is_a(data: Any, module: str, name: str) -> bool:
    return any(c.__module__.partition(".")[0] == module and c.__name__ == name for c in type(data).__mro__)


def _unique(what: str, names: Any, remedy: str) -> tuple[str, ...]:
    """Return names as texts; raise `InputError` if one is there twice."""
    found, seen = tuple(str(name) for name in names), set[str]()
    for name in found:
        if name in seen:
            raise InputError(f"{what}: '{name}' is there twice; make them unique, such as with {remedy}()")
        seen.add(name)
    return found


def _layers(mods: Mapping[str, Any], layer: Layer) -> dict[str, str | None]:
    """Return the layer of each modality, None for ``X``."""
    if layer is None or isinstance(layer, str):
        return dict.fromkeys(mods, layer)
    for name in layer:
        if name not in mods:
            raise InputError(f"layer: there is no modality '{name}'{did_you_mean(name, mods)}; data has {listed(mods)}")
    return {name: layer.get(name) for name in mods}


def _matrix(name: str, mod: Any, layer: str | None, keys: tuple[str, ...]) -> Matrix:
    """Return the matrix of a modality, whose rows are placed among those of the whole."""
    known = list(mod.layers)
    if layer is not None and layer not in known:
        has = f"it has {listed(known)}" if known else "it has none"
        raise InputError(f"data: '{name}' has no layer '{layer}'; {has}; layer={{...}} chooses one by modality")
    values = mod.X if layer is None else mod.layers[layer]
    if values is None:
        raise InputError(f"data: '{name}' has no X; choose a layer: {listed(known) or 'it has none'}")
    own = _unique(f"data: the rows (obs_names) of '{name}'", mod.obs_names, "obs_names_make_unique")
    variables = _unique(f"data: the variables (var_names) of '{name}'", mod.var_names, "var_names_make_unique")
    if not own or not variables:
        raise InputError(f"data: '{name}' has no {'variables' if own else 'rows'}; leave it out")
    place = {key: row for row, key in enumerate(own)}
    if strange := place.keys() - set(keys):
        raise InputError(f"data: '{name}' has the row '{min(strange)}', which data has not; call data.update() first")
    if getattr(values, "format", "") == "csc" and hasattr(values, "tocsr"):
        values = values.tocsr()  # rows of a matrix by columns are slow to read
    return Matrix(name, values, variables, np.array([place.get(key, -1) for key in keys], np.int64), keys)
