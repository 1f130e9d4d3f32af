"""The user's values (files, pictures, texts, arrays), converted to what schemas store."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modalkit import registry
from modalkit.data import Array, Batch
from modalkit.data.annotated import is_annotated
from modalkit.data.arrays import packed
from modalkit.data.joining import as_frame
from modalkit.errors import InputError, check_names, guard
from modalkit.inference.frame_rows import frame_batch
from modalkit.plugin import Outcome, Schema
from modalkit.util.json_files import read_json
from modalkit.util.picture_files import eight_bit, is_gray

Given: TypeAlias = Mapping[str, Any] | Batch | Any
"""Known values: for each modality one value, a batch of values, or a list with None for absent ones; or rows of a
dataset; or a table in memory."""


def only(batch: Batch, names: Mapping[str, Schema]) -> Batch:
    """Return a batch with only the modalities in `names`, in their order."""
    columns = [list(batch.values).index(n) for n in names]
    return replace(batch, values={n: batch.values[n] for n in names}, present=batch.present[:, columns])


def as_batch(schemas: Mapping[str, Schema], given: Given, rows: int = 1) -> Batch:
    """Convert known values to rows as a dataset stores them; modalities that are not given are absent.

    The value of a modality is one of these:

    - a path or a text that the kind reads: a picture of any size, the name of a class, numbers. Files of general types
      (``.npy``, ``.json``, ``.txt``) are opened first;
    - a picture: a PIL image, or an array `(height, width[, 1, 3 or 4])` or `(1 or 3, height, width)` of any size,
      uint8, booleans, or floats in [0, 1];
    - numbers, arrays or tensors of one sample, `(*event_shape)`, or several, `(rows, *event_shape)`. Integers are
      taken as they are stored, floats in the user's units (those of an image lie in [0, 1]);
    - a list with any of these for each row; None means that the row does not have the modality.

    A single sample of one modality is repeated for every row of the others. A table (pandas, polars or Arrow) stands
    for all of its rows; missing cells are absent.

    Args:
        schemas: the modalities.
        given: the known values.
        rows: number of rows if nothing is given.

    Raises:
        InputError: a modality is unknown, a file cannot be read, a value does not fit, or the numbers of rows differ;
            the message names the modality.

    Example:
        >>> schemas = {"class": registry.schema("label", names=["cat", "dog"]), "at": registry.schema("vector", size=2)}
        >>> batch = as_batch(schemas, {"class": ["dog", None], "at": [0.5, 1.0]})
        >>> batch.present.tolist(), batch.values["class"].tolist(), batch.values["at"].tolist()
        ([[True, True], [False, True]], [1, 0], [[0.5, 1.0], [0.5, 1.0]])
    """
    if (frame := as_frame(given)) is not None:
        return frame_batch(schemas, frame)
    if is_annotated(given):
        raise InputError(f"a {type(given).__name__} is asked with modalkit.annotate(model, data), which writes into it")
    if isinstance(given, Batch):
        check_names(list(given.values), list(schemas))
        columns = {name: given.present[:, column] for column, name in enumerate(given.values)}
        return _assembled(schemas, {name: (given.values[name], columns[name]) for name in columns}, len(given))
    check_names(list(given), list(schemas))
    found, single = {}, {}
    for name, source in given.items():
        try:
            stored, single[name] = _stored(schemas[name], source)
            present = torch.tensor([one is not None for one in stored], dtype=torch.bool)
            value = torch.stack([schemas[name].zeros(1)[0] if one is None else one for one in stored])
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"modality '{name}': {error}") from None
        found[name] = value, present
    lengths = {name: len(present) for name, (_, present) in found.items() if not single[name]}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count} of '{name}'" for name, count in lengths.items())
        raise InputError(f"the numbers of rows differ: {said}")
    return _assembled(schemas, found, next(iter(lengths.values()), rows))


def _assembled(schemas: Mapping[str, Schema], found: Mapping[str, tuple[Tensor, Tensor]], rows: int) -> Batch:
    """Return a batch of all modalities in their order; modalities that are not found take no memory."""
    nothing = {n: (s.zeros(1), torch.zeros(1, dtype=torch.bool)) for n, s in schemas.items() if n not in found}
    parts = [(name, *{**nothing, **found}[name]) for name in schemas]
    values = {name: value.expand(rows, *value.shape[1:]) for name, value, _ in parts}
    return Batch(values, torch.stack([present.expand(rows) for _, _, present in parts], 1))


def _stored(schema: Schema, source: Any) -> tuple[Sequence[Tensor | None], bool]:
    """Return samples as a schema stores them (None if absent), and whether `source` is one sample, not a batch of them.

    Raises:
        ValueError: the value does not fit the schema.
        InputError: the kind refuses the value.
    """
    if source is None:
        return [None], True
    if isinstance(source, Path | str):
        opened = _opened(source)
        try:
            return ([_read(schema, opened)], True) if isinstance(opened, str) else _stored(schema, opened)
        except (InputError, ValueError, TypeError) as error:
            if opened == str(source):
                raise
            raise ValueError(f"what {source} holds was taken as the value: {error}") from None
    if isinstance(source, Image.Image):
        return [_from_picture(schema, source)], True
    if isinstance(source, list | tuple) and not _is_numbers(source):
        several = [_stored(schema, one) for one in source]
        if index := next((i + 1 for i, (_, single) in enumerate(several) if not single), 0):
            raise ValueError(f"number {index} of the list is several samples; give one each")
        return [one[0] for one, _ in several], False
    if isinstance(source, np.ma.MaskedArray):
        raise ValueError("a masked array; give a list with None in place of absent values")
    array = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if array.dtype.kind in "OUS" and array.ndim:
        return _stored(schema, array.tolist())
    if array.dtype.kind not in "biuf":
        raise ValueError(f"a {type(source).__name__} is no value that can be used")
    return _from_array(schema, array)


def _is_numbers(source: Sequence[Any]) -> bool:
    """Tell whether a list consists of numbers only; otherwise each of its entries is one sample."""
    return bool(source) and all(
        _is_numbers(one) if isinstance(one, list | tuple) else isinstance(one, int | float | np.number)
        for one in source
    )


def _opened(source: Path | str) -> Any:
    """Return the content of a file of a general type; for anything else the path or text itself, for the kind to read.

    Raises:
        ValueError: the file cannot be read.
    """
    path = Path(source)
    if path.suffix not in (".npy", ".json", ".txt") or (isinstance(source, str) and "\n" in source):
        return str(source)
    if not path.is_file():
        raise ValueError(f"{path}: is a folder, not a file" if path.is_dir() else f"{path}: there is no such file")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return read_json(path, "correct it") if path.suffix == ".json" else path.read_text().rstrip("\n")
    except InputError as error:
        raise ValueError(str(error)) from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _from_array(schema: Schema, array: Array) -> tuple[Sequence[Tensor], bool]:
    """Return the samples of an array as a schema stores them, and whether the array is one sample."""
    event = schema.event_shape
    if array.dtype.kind == "b" and registry.modality(schema.kind).outcome is Outcome.PICTURE:
        array = array.astype(np.float32)  # white is 1, not the byte 1
    if array.shape == event:
        return list(_given(schema, array[None])), True
    if array.shape[1:] == event:
        return list(_given(schema, array)), False
    if len(event) == 3 and array.ndim in (2, 3, 4):
        if array.ndim == 4 or (event[0] == 1 and array.shape[1:] == event[1:]):  # several, gray without a channel
            return [_from_picture(schema, _picture(one)) for one in array], False
        return [_from_picture(schema, _picture(array))], True
    raise ValueError(f"got the shape {array.shape}; give {event} for one sample, {('rows', *event)} for several")


def _given(schema: Schema, array: Array) -> Tensor:
    """Return the user's samples, `(rows, *event_shape)`, as they are stored; floats are in the schema's units."""
    value = torch.from_numpy(np.array(array))
    if schema.dtype == "float32":
        stored = value.to(torch.float32)
        return _valid(schema, stored, stored)
    return _checked(schema, value)


def _picture(array: Array) -> Image.Image:
    """Return pixels, with channels first or last, as a picture."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # (c, h, w) -> (h, w, c)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise ValueError(f"the shape {array.shape} is no picture's: give (height, width) or (height, width, 3)")
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(f"intensities must lie in [0, 1], not {array.min():g} to {array.max():g}; or give uint8")
        array = (array * 255).round()
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"intensities must lie in 0 to 255, not {array.min()} to {array.max()}; divide them by the largest "
            f"possible value, such as 65535 for 16 bits, and give floats"
        )
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def _from_picture(schema: Schema, picture: Image.Image) -> Tensor:
    """Read a picture in memory through a temporary file, because only the kind's `read` knows how to resize it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.tiff"
        eight_bit(picture, "L" if is_gray(picture) else "RGB").save(path)
        return _read(schema, str(path))


def _read(schema: Schema, source: str) -> Tensor:
    """Return one sample, read by its kind from a path or a text, as it is stored."""
    with guard(f"kind '{schema.kind}': its read"):
        value = registry.modality(schema.kind).read(schema, source)
    return _checked(schema, value[None])[0]


def _checked(schema: Schema, value: Tensor) -> Tensor:
    """Return values, `(rows, *event_shape)`, as they are stored, or raise `ValueError` for a wrong one."""
    if not value.is_floating_point():
        value = value.long()
    return _valid(schema, torch.from_numpy(packed(schema, value)), value)


def _valid(schema: Schema, stored: Tensor, value: Tensor) -> Tensor:
    """Return stored samples unchanged, or raise `ValueError` for one that is not valid."""
    if not bool((valid := schema.valid(stored)).all()):
        wrong = value[~valid][0]
        raise ValueError(f"{wrong.tolist() if wrong.numel() <= 8 else 'a sample'} cannot be (NaN or out of range)")
    return stored
