"""The rows that a sampler of z is fitted to, as a dataset, in whatever form they are given."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from modalkit.data import Dataset, DatasetWriter, Rows, assign_splits, write_shard
from modalkit.errors import InputError
from modalkit.inference.conditions import model_batch
from modalkit.inference.values import Given
from modalkit.model.vae import MultimodalVAE


def sampler_rows(
    model: MultimodalVAE, data: Dataset | Path | str | Given, split: Sequence[str] | Mapping[str, float] | None = None
) -> Dataset:
    """Return rows as a dataset with the modalities of a model in its order, and with its covariates apart.

    Args:
        model: the model.
        data: a dataset, the path or URL of one, or rows as `modalkit.TrainedModel.infer` takes them.
        split: of rows that are not a dataset: train, valid or test for each, or the fraction of each split.

    Raises:
        InputError: the dataset is missing or damaged, lacks a modality or has another one of that name, the rows do not
            fit, or `split` is given for a dataset.
    """
    if not isinstance(data, (Dataset, Path, str)):
        return _written(model, data, split)
    if split is not None:
        raise InputError("split: is for rows that are not a dataset yet; a dataset has its splits")
    if not isinstance(data, Dataset):
        return _opened(model, data)
    apart = () if data.covariates is None else data.covariates.names
    if (data.names, apart) == (model.names, tuple(model.covariate_schemas)):
        data.manifest.check({**model.schemas, **model.covariate_schemas}, data.path)
        return data
    found = _opened(model, data.path)
    if all(name in data.names for name in model.names):  # the dataset may be a view that hides entries
        found.present = data.present[:, [data.names.index(name) for name in model.names]]
    found.split = data.split
    return found


def _opened(model: MultimodalVAE, path: Path | str) -> Dataset:
    dataset = Dataset(path, list(model.names), covariates=list(model.covariate_schemas))
    dataset.manifest.check({**model.schemas, **model.covariate_schemas}, dataset.path)
    return dataset


def _written(model: MultimodalVAE, data: Given, split: Sequence[str] | Mapping[str, float] | None) -> Dataset:
    """Write rows into a temporary folder, and return them as a dataset in memory."""
    batch = model_batch(model, data)
    parts = [batch] if batch.covariates is None else [batch, batch.covariates]
    schemas = {**model.schemas, **model.covariate_schemas}
    values = {name: value.numpy() for part in parts for name, value in part.values.items()}
    present = dict(zip(schemas, torch.cat([part.present for part in parts], 1).numpy().T, strict=True))
    places = assign_splits(len(batch), split, 0)
    with tempfile.TemporaryDirectory(prefix="modalkit-") as folder:
        out = Path(folder) / "rows"
        writer = DatasetWriter(out, schemas, {"name": "rows"}, 1)
        write_shard(out, 0, schemas, Rows(values, present, places, [f"row {row}" for row in range(len(batch))]))
        writer.finish()
        found = Dataset(out, list(model.names), covariates=list(model.covariate_schemas), in_memory=True)
    found.path = Path("the given rows")  # what errors name
    return found
