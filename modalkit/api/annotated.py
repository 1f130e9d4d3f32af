"""An `AnnData` or a `MuData` as a dataset: what its matrices are, and its rows a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modalkit import registry
from modalkit.api.frames import Group, groups_of, readers_of
from modalkit.api.writing import RowReader, write_rows
from modalkit.data import SPLITS, assign_splits
from modalkit.data.annotated import Annotated, Matrix, MatrixReader
from modalkit.data.frames import Frame, frame_of
from modalkit.data.standardizing import standardization_of, takes_standardization, with_standardize
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema
from modalkit.util.text import listed


def write_annotated(
    data: Annotated,
    schemas: Mapping[str, Schema],
    out: Path,
    split: Sequence[str] | Mapping[str, float] | None,
    obs: Sequence[str],
) -> None:
    """Write an `AnnData` or a `MuData` as a dataset; only some of its rows are dense at a time.

    Args:
        data: the object; each of its matrices is a modality.
        schemas: the recipe's modalities, each a matrix or columns of ``obs``; without any, a matrix of whole numbers
            from 0 is ``counts``, any other one a ``vector``, and columns are inferred as those of a table.
        out: the folder to make.
        split: see `modalkit.train`.
        obs: the columns of ``obs`` that are modalities; with a recipe, those that it names are too.

    Raises:
        InputError: a value or a column cannot be used; the message names it.
    """
    of_obs = {name: schema for name, schema in schemas.items() if name not in data.matrices}
    groups: dict[str, Group] = {}
    if frame := _chosen(data, of_obs, obs):
        groups, split = groups_of(frame, of_obs, split, None, all_of_them=True)
    if taken := groups.keys() & data.matrices.keys():
        raise InputError(f"obs: '{min(taken)}' is a matrix of the data too; rename the column")
    places = assign_splits(len(data.keys), split, 0)
    train = places == SPLITS.index("train")
    used = [name for name in data.matrices if not schemas or name in schemas]
    readers: dict[str, RowReader] = {n: _reader(data.matrices[n], schemas.get(n), train) for n in used}
    if frame:
        readers |= readers_of(frame, groups, places)
    write_rows(out, {name: readers[name] for name in schemas or readers}, places, data.keys, "annotated")


def _chosen(data: Annotated, schemas: Mapping[str, Schema], obs: Sequence[str]) -> Frame | None:
    """Return the columns of ``obs`` that are modalities, as a table; all of them for a recipe."""
    if not obs and not schemas:
        return None
    known = [str(name) for name in data.obs.columns]
    for name in obs:
        if name not in known:
            raise InputError(f"obs: there is no column '{name}'{did_you_mean(name, known)}; it has {listed(known)}")
    if schemas and not known:
        raise InputError(f"data: has no '{min(schemas)}', which the recipe lists; it has {', '.join(data.matrices)}")
    return frame_of(data.obs if schemas else data.obs[list(obs)])


def _reader(matrix: Matrix, schema: Schema | None, train: npt.NDArray[np.bool_]) -> MatrixReader:
    """Return the reader of a matrix, whose schema has all that follows from its values.

    Args:
        matrix: the matrix.
        schema: the recipe's; None: it follows from the values.
        train: which rows are training rows, `(rows,)`.
    """
    if schema is None:
        kind = "counts" if _are_counts(matrix) else "vector"
        schema = registry.schema(kind, size=len(matrix.variables), names=list(matrix.variables))
    elif "names" in type(schema).model_fields and not schema.part_names:
        given = schema.model_dump(include=schema.model_fields_set)
        if getattr(schema, "size", None) == len(matrix.variables):
            schema = type(schema).model_validate(given | {"names": list(matrix.variables)})
    reader = MatrixReader.of(schema, matrix)
    if not takes_standardization(schema):
        return reader
    return MatrixReader.of(with_standardize(schema, _standardization(reader, train)), matrix)


def _are_counts(matrix: Matrix) -> bool:
    """Tell whether all values of a matrix are whole numbers from 0."""
    for rows in matrix.chunks():
        values = matrix.dense(rows)
        known = values[~np.isnan(values)]
        if (known < 0).any() or (known % 1 != 0).any():
            return False
    return True


def _standardization(reader: MatrixReader, train: npt.NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return means and standard deviations over the training rows that are present, in two passes over the rows."""
    count, size = 0, len(reader.schema.zeros(1)[0])
    total, squares, largest = np.zeros(size), np.zeros(size), np.zeros(size)
    for rows in reader.matrix.chunks():
        values = _present(reader, rows, train)
        count, total = count + len(values), total + values.sum(0)
        largest = np.maximum(largest, np.abs(values).max(0, initial=0))
    if not count:
        raise InputError(
            f"data: '{reader.matrix.name}' is whole in no training row, so that nothing can be learned about it; leave "
            f"it out, or correct the splits"
        )
    for rows in reader.matrix.chunks():
        squares += np.square(_present(reader, rows, train) - total / count).sum(0)
    names = reader.schema.part_names or reader.matrix.variables
    return standardization_of(reader.matrix.name, total / count, np.sqrt(squares / count), largest, names)


def _present(reader: MatrixReader, rows: slice, train: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    values, present, _ = reader(rows)
    return np.asarray(values[present & train[rows]], np.float64)
