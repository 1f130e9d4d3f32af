"""What a model says of cells, written into the `AnnData` or `MuData` that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.data import Batch
from modalkit.data.annotated import Annotated, Array, Layer, MatrixReader, is_annotated
from modalkit.data.frame_values import Reader, columns_for
from modalkit.data.frames import frame_of
from modalkit.errors import InputError, check_names
from modalkit.inference.filling import fill
from modalkit.inference.frame_rows import AnyReader, read_rows
from modalkit.inference.results import Imputed
from modalkit.inference.subsets import check_want
from modalkit.inference.trained import TrainedModel
from modalkit.plugin import Cells, Schema
from modalkit.registry import modality
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed
from modalkit.util.text import listed

_ROWS = 1000  # as in `modalkit impute`
_SUFFIX = "modalkit"


def annotate(
    model: TrainedModel,
    data: Any,
    *,
    layer: Layer = None,
    impute: Sequence[str] = (),
    sample: bool = False,
    draws: int = 32,
    seed: int = 0,
) -> None:
    """Write what a model says of each row into an `AnnData` or a `MuData`.

    The mean of the posterior of z given all that a row has goes to ``obsm["X_modalkit"]``, NaN for rows that have
    nothing. Nothing is written if anything fails.

    Args:
        model: a trained model.
        data: an `AnnData` or a `MuData` with some of the model's modalities; **it is changed**. Variables are found by
            their names.
        layer: the layer of each modality that the model is given; see `modalkit.train`.
        impute: modalities to write without gaps, in which known values stay as they are. A matrix of an `AnnData` goes
            to ``layers["modalkit"]``. One of a `MuData` goes to ``obsm["NAME_modalkit"]``, a table with all of its
            rows. A column of ``obs`` goes to ``obs["NAME_modalkit"]``.
        sample: see `TrainedModel.impute`.
        draws: see `TrainedModel.impute`.
        seed: see `TrainedModel.impute`.

    Raises:
        InputError: the data has none of the model's modalities, lacks variables of one, or holds values that its kind
            cannot hold.
    """
    if not is_annotated(data):
        raise InputError(f"annotate: data is a {type(data).__name__}; give an AnnData or a MuData")
    wanted = [impute] if isinstance(impute, str) else list(impute)
    check_names(wanted, model.modalities)
    if wanted:
        check_want(model.model, wanted)
    view = Annotated(data, layer)
    reading = _readers(model, view)
    loc = np.full((len(view.keys), model.shared_dim), np.nan, np.float32)
    parts: dict[str, list[Any]] = {name: [] for name in wanted}
    with bar(len(view.keys), "annotating", unit="row", leave=False) as shown:
        for index, rows in enumerate(_slices(view)):
            batch, known = read_rows(reading, rows)
            _embed(model, batch, loc[rows])
            if wanted:
                filled = fill(
                    model.model,
                    batch,
                    known,
                    sample=sample,
                    draws=draws,
                    seed=derived_seed(seed, "impute shard", index),
                    sampler=model.sampler,
                )
                for name in wanted:
                    parts[name].append(_values(model.schemas[name], name, filled))
            shown.update(len(batch))
    made = {name: np.concatenate(some) for name, some in parts.items()}
    _write(view, reading, loc, made)


def _slices(view: Annotated) -> list[slice]:
    """Return slices of at most 1000 rows, which hold a bounded number of values."""
    return [
        slice(start, min(start + _ROWS, whole.stop))
        for whole in view.chunks()
        for start in range(whole.start, whole.stop, _ROWS)
    ]


def _readers(model: TrainedModel, view: Annotated) -> dict[str, AnyReader]:
    """Return what reads each of the model's modalities; raise `InputError` if the data has none of them."""
    obs = frame_of(view.obs) if len(view.obs.columns) else None
    found: dict[str, AnyReader] = {}
    for name, schema in model.schemas.items():
        if name in view.matrices:
            found[name] = MatrixReader.of(schema, view.matrices[name])
        elif obs and all(title in obs.names for title in columns_for(name, schema, obs)):
            found[name] = Reader.of(name, schema, obs)
        else:
            found[name] = Reader(name, schema, [None] * math.prod(schema.event_shape))
    if not any(isinstance(one, MatrixReader) or one.columns[0] is not None for one in found.values()):
        how = "" if view.several else f"; an AnnData is one of them in mudata.MuData({{'{model.modalities[0]}': data}})"
        raise InputError(
            f"data: has none of the model's modalities; it has {listed(list(view.matrices))}, the model "
            f"{listed(model.modalities)}{how}"
        )
    return found


def _embed(model: TrainedModel, batch: Batch, into: npt.NDArray[np.float32]) -> None:
    """Write the means of the posteriors of rows into an array `(rows, latent_dim)`; skip rows that have nothing."""
    given = model.usable(batch.present)
    rows = given.any(1)
    if rows.any():
        found = model.embed(Batch({name: values[rows] for name, values in batch.values.items()}, given[rows]))
        into[rows.numpy()] = found.loc.numpy()


def _values(schema: Schema, name: str, filled: Imputed) -> Array:
    """Return a modality's values as texts, `(rows,)`, or as numbers, `(rows, size)`; None or NaN where absent."""
    stored, kind = filled.batch.values[name], modality(schema.kind)
    there = filled.batch.present[:, list(filled.batch.values).index(name)]
    if kind.columns.cells is Cells.TEXTS:
        shown = [kind.show(schema, one) for one in schema.unpack(stored)]
        return np.array([one if known else None for one, known in zip(shown, there.tolist(), strict=True)], object)
    numbers = stored.reshape(len(stored), -1).float()  # (rows, *event_shape) -> (rows, size)
    return np.asarray(numbers.masked_fill(~there[:, None], math.nan).numpy())


def _write(view: Annotated, reading: Mapping[str, AnyReader], loc: Array, made: Mapping[str, Array]) -> None:
    """Write embeddings, `(rows, latent_dim)`, and by modality the values without gaps."""
    data = view.data
    data.obsm[f"X_{_SUFFIX}"] = loc
    for name, values in made.items():
        reader = reading[name]
        if isinstance(reader, MatrixReader):
            matrix = reader.matrix
            whole = values
            if reader.columns is not None:
                whole = np.full((len(values), len(matrix.variables)), np.nan, values.dtype)
                whole[:, reader.columns] = values
            if view.several:
                data.obsm[f"{name}_{_SUFFIX}"] = _table(view, whole, matrix.variables)
            else:
                data.layers[_SUFFIX] = whole
        elif values.ndim == 1 or values.shape[1] == 1:
            data.obs[f"{name}_{_SUFFIX}"] = values if values.ndim == 1 else values[:, 0]
        else:
            names = reader.schema.part_names or [str(place) for place in range(values.shape[1])]
            data.obsm[f"{name}_{_SUFFIX}"] = _table(view, values, names)


def _table(view: Annotated, values: Array, names: Sequence[str]) -> Any:
    """Return numbers `(rows, columns)` as a table of the library of ``obs``, which is pandas."""
    return type(view.obs)(values, index=view.data.obs_names, columns=list(names))
