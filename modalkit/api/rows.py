"""Arrays and rows in memory: what each modality is, and which rows have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modalkit import registry
from modalkit.data import Array
from modalkit.data.given import plain_values, rows_masked
from modalkit.errors import InputError, did_you_mean
from modalkit.inference.values import as_batch
from modalkit.plugin import Schema


@dataclass
class Arrays:
    """What `modalkit.write_dataset` takes.

    Attributes:
        schemas: by modality.
        values: by modality an array `(rows, *event_shape)` or a list of texts.
        present: by modality bool `(rows,)`, where some rows lack it.
    """

    schemas: Mapping[str, Schema]
    values: dict[str, Any]
    present: dict[str, npt.NDArray[np.bool_]]


def as_arrays(data: Any, schemas: Mapping[str, Schema], given: Mapping[str, Any]) -> Arrays:
    """Return data as arrays with a schema each.

    Args:
        data: a mapping from names to arrays or lists, or an iterable of mappings.
        schemas: the recipe's; without any they are inferred.
        given: which rows have a modality, bool `(rows,)`, as the caller says.

    Raises:
        InputError: the data has none of these forms, a name or a length does not match, or no kind fits an array.
    """
    columns = dict(data) if isinstance(data, Mapping) else rows_as_columns(data)
    if not columns:
        raise InputError("data: has no modality; give an array for each")
    for name in columns:
        if not isinstance(name, str):
            raise InputError(f"data: the name {name!r} is a {type(name).__name__}; names are texts")
    if schemas:
        for name in set(columns) - set(schemas):
            raise InputError(f"data: the recipe has no modality '{name}'{did_you_mean(name, schemas)}")
        if missing := [name for name in schemas if name not in columns]:
            raise InputError(f"data: has no '{missing[0]}', which the recipe lists; it has {', '.join(columns)}")
        columns = {name: columns[name] for name in schemas}
    lengths = {name: _length(name, values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count} of '{name}'" for name, count in lengths.items())
        raise InputError(f"data: the numbers of rows differ: {said}")
    if not next(iter(lengths.values())):
        raise InputError("data: has no rows")
    if unknown := set(given) - set(columns):
        raise InputError(f"present: there is no modality {sorted(unknown)[0]!r} in the data")
    made = Arrays(schemas or {}, {}, {})
    found: dict[str, Schema] = {}
    for name, values in columns.items():
        there = _given(name, given, lengths[name])
        kept, holes = _without_holes(name, values)
        found[name] = schemas[name] if schemas else proposed(name, kept, holes & there)
        made.values[name] = _fitting(name, found[name], kept, holes & there)
        if not (holes & there).all():
            made.present[name] = holes & there
    made.schemas = found
    return made


def rows_as_columns(data: Any) -> dict[str, list[Any]]:
    """Return the fields of rows as lists, with None where a row lacks one.

    Args:
        data: an iterable of mappings that all have the same keys, or an object with a length that can be indexed.

    Raises:
        InputError: it is no such iterable, or a row has other keys than the first; the message names the row and key.
    """
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__"):
        source = data
        data = (source[row] for row in range(len(source)))
    if isinstance(data, (bytes, Tensor, np.ndarray)) or not isinstance(data, Iterable):
        raise InputError(
            f"data: is a {type(data).__name__}; give a table, a dict with an array for each modality, an iterable of "
            f"dicts, or the path of a dataset"
        )
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(data):
        if not isinstance(row, Mapping):
            raise InputError(f"data: row {number} is a {type(row).__name__}; give a dict with a value by modality")
        if number == 0:
            columns = {name: [] for name in row}
        for what, names in (("lacks", columns.keys() - row.keys()), ("has", row.keys() - columns.keys())):
            if names:
                name = min(names, key=str)
                raise InputError(
                    f"data: row {number} {what} the field '{name}'{', which row 0 has not' if what == 'has' else ''}; "
                    f"give all rows the same fields, and None for what is absent"
                )
        for name, values in columns.items():
            values.append(row[name])
    if not columns:
        raise InputError("data: has no rows")
    return columns


def proposed(name: str, values: Any, present: npt.NDArray[np.bool_]) -> Schema:
    """Return the schema that the values of a modality look like, as installed kinds propose it.

    Args:
        name: the modality.
        values: an array `(rows, ...)` or a list.
        present: the rows that have it, `(rows,)`.

    Raises:
        InputError: no row has it, or no kind fits.
    """
    if not present.any():
        raise InputError(f"data: '{name}' is absent from every row; leave it out")
    held = [value for value, there in zip(values, present, strict=True) if there] if isinstance(values, list) else None
    texts = held is not None and all(isinstance(value, str) for value in held)
    if held is not None and not texts:
        values = np.stack([_sample(name, row, value) for row, value in _alike(name, values, present)])
    elif held is None:
        values = values[present]
    plugins = (found.plugin for found in registry.provided(registry.KINDS) if found.plugin is not None)
    proposals = sorted((p.proposal.order, p.kind, p.proposal) for p in plugins if p.proposal is not None)
    for _, kind, proposal in proposals:
        fields = proposal.texts(held) if texts else proposal.array(_channels_first(values))
        if fields is not None:
            return registry.schema(kind, **fields)
    looks = "texts that differ" if texts else f"an array of {values.dtype} with the shape {values.shape}"
    raise InputError(
        f"data: no kind proposes itself for '{name}', {looks}; give a recipe that says its kind (pictures are uint8, "
        f"(rows, height, width, channels))"
    )


def _alike(name: str, values: list[Any], present: npt.NDArray[np.bool_]) -> list[tuple[int, Any]]:
    """Return the samples that are present, with their rows; raise `InputError` unless all have the same shape."""
    held = [(row, value) for row, value in enumerate(values) if present[row]]
    shapes = [_sample(name, row, value).shape for row, value in held]
    for (row, _), shape in zip(held, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"data: '{name}' has the shape {shapes[0]} in row {held[0][0]} and {shape} in row {row}; give a recipe "
                f"whose kind fits them, such as image with its size"
            )
    return held


def _sample(name: str, row: int, value: Any) -> Array:
    """Return one sample as an array; raise `InputError` for something that is none."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputError(f"data: '{name}', row {row}: a {type(value).__name__} is no value that can be used")
    return array


def _channels_first(array: Array) -> Array:
    """Return pictures, `(rows, height, width, channels)`, with their channels first; anything else unchanged."""
    last = array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3)
    return array.transpose(0, 3, 1, 2) if last else array  # (rows, h, w, c) -> (rows, c, h, w)


def _length(name: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        raise InputError(
            f"data: '{name}' is a {type(values).__name__}; give an array or a list with all rows"
        ) from None


def _given(name: str, given: Mapping[str, Any], rows: int) -> npt.NDArray[np.bool_]:
    """Return in which rows the caller says that a modality is present, as an array of our own."""
    if name not in given:
        return np.ones(rows, bool)
    present = np.array(given[name].cpu().numpy() if isinstance(given[name], Tensor) else given[name])
    if present.shape != (rows,) or present.dtype != bool:
        raise InputError(
            f"present: '{name}' should be {rows} booleans, one for each row, not {present.dtype} {present.shape}"
        )
    return present


def _without_holes(name: str, values: Any) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Return values as an array or a list, and which rows have one; a row of NaNs, None or a masked row has none."""
    values = plain_values(name, values)
    if isinstance(values, list):
        there = np.array([not _is_nothing(value) for value in values], bool)
        held = [value for value in values if not _is_nothing(value)]
        if not all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in held):
            return values, there
        zero: Any = held[0] * 0 if held else 0.0
        return np.array([zero if _is_nothing(value) else value for value in values]), there
    if isinstance(values, np.ma.MaskedArray):
        masked = rows_masked(name, values)
        return np.asarray(values.filled(0)), ~masked
    if values.dtype.kind == "f":
        return values, ~np.isnan(values).reshape(len(values), -1).all(1)  # (rows, ...) -> (rows, numbers) -> (rows,)
    return values, np.ones(len(values), bool)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _fitting(name: str, schema: Schema, values: Any, present: npt.NDArray[np.bool_]) -> Any:
    """Return values in a form that `write_dataset` takes for a schema."""
    if isinstance(values, list):
        held = [value if there else None for value, there in zip(values, present, strict=True)]
        if all(value is None or isinstance(value, str) for value in held):
            return [value or "" for value in held]
        try:
            return as_batch({name: schema}, {name: held}).values[name]
        except InputError as error:
            raise InputError(f"data: {error}") from None
    event = schema.event_shape
    if len(event) == 3 and values.ndim == 4 and values.shape[1:] != event:
        values = _channels_first(values)
    if (event == (1,) and values.ndim == 1) or (len(event) == 3 and event[0] == 1 and values.ndim == 3):
        values = values[:, None]
    return values[:, 0] if event == () and values.shape[1:] == (1,) else values
