"""Styles as the command line names them: values of modalities, or a row of a dataset."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.inference.frames import rows_of
from modalkit.inference.trained import TrainedModel
from modalkit.inference.values import Given, only


def named_style(model: TrainedModel, style: Sequence[str], want: Sequence[str] | None, given: Collection[str]) -> Given:
    """Return what texts of the form ``NAME=VALUE``, or one row's key, name as a style.

    Args:
        model: the model.
        style: the texts. A text is a value if it begins with a modality's name and ``=``.
        want: the modalities that are predicted; None for all that are not given.
        given: names of what is given.

    Raises:
        InputError: a text is neither, a modality is named twice, or the row has no style to take.
    """
    values: dict[str, str] = {}
    keys = []
    for text in style:
        name, equals, value = text.partition("=")
        if not equals or name not in model.schemas:
            keys.append(text)
        elif name in values:
            raise InputError(f"--style {text}: '{name}' is given twice")
        else:
            values[name] = value
    if not keys or not model.model.own:  # without private latents, `style_rows` says so
        return values
    if values or len(keys) > 1:
        raise InputError(f"--style {keys[0]}: give one row, or NAME=VALUE for each of {', '.join(model.modalities)}")
    wanted = [name for name in model.modalities if (name not in given if want is None else name in want)]
    return _row(model, keys[0], [name for name in wanted if name in model.model.own])


def _row(model: TrainedModel, key: str, names: Sequence[str]) -> Given:
    """Return the values that a row of the run's dataset has of some modalities."""
    path = model.dataset_path("--style NAME=VALUE")
    dataset = Dataset(path, list(model.modalities), in_memory=False, covariates=list(model.covariates))
    row = next((row for row in range(len(dataset)) if dataset.key(row) == key), None)
    if row is None:
        raise InputError(
            f"--style {key}: is no NAME=VALUE of a modality ({', '.join(model.modalities)}), and no row's key in "
            f"{dataset.path}, such as {dataset.key(0)}"
        )
    batch = rows_of(model.model, dataset, torch.tensor([row]))
    found = only(batch, {name: model.schemas[name] for name in names})
    if names and not found.present.any():
        raise InputError(f"--style {key}: this row has none of {', '.join(names)}, whose style is wanted")
    return replace(found, covariates=batch.covariates) if names else {}
