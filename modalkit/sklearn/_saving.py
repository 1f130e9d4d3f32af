"""Fitted estimators as folders of JSON and safetensors, which execute nothing when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from modalkit.sklearn._columns import Column, Group
from modalkit.sklearn._model import Trained
from modalkit.sklearn._tables import TableError

FILE, FORMAT = "estimator.json", 1
_MODELS = "trained_", "bootstrapped_"


def save(estimator: Any, folder: Path) -> None:
    """Write a fitted estimator into a folder; see `modalkit.sklearn._base.Multimodal.save`."""
    from modalkit.util.files import write_bytes, write_text

    name = type(estimator).__name__
    if not type(estimator).__module__.startswith("modalkit.sklearn."):
        raise TableError(f"{name}: only the estimators of modalkit.sklearn can be saved; pickle it instead")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TableError(f"{folder}: exists already and is not overwritten; choose a new folder")
    fitted = {key: value for key, value in vars(estimator).items() if key.endswith("_") or key.startswith("_n_")}
    models = [model for key in _MODELS for model in _listed(fitted.pop(key, None))]
    about = {
        "format": FORMAT,
        "class": name,
        "parameters": {key: _plain(value, key) for key, value in estimator.get_params(deep=False).items()},
        "fitted": {key: _plain(value, key) for key, value in fitted.items()},
        "models": len(models),
    }
    text = json.dumps(about, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    for number, model in enumerate(models):
        (folder / f"model-{number}").mkdir()
        for file, content in model.files.items():
            write_bytes(folder / f"model-{number}" / file, content)
    write_text(folder / FILE, text)  # last: a folder without it is not an estimator


def _listed(value: Any) -> list[Trained]:
    return value if isinstance(value, list) else [value] if value is not None else []


def _plain(value: Any, key: str) -> Any:
    """Return a value as JSON holds it; anything but texts, numbers, lists and mappings of texts is marked."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), key)
    if isinstance(value, np.ndarray):
        return {"array": _plain(value.tolist(), key), "dtype": value.dtype.str}
    if isinstance(value, (Column, Group)):
        return {type(value).__name__.lower(): _plain(asdict(value), key)}
    if isinstance(value, (list, tuple)):
        return [_plain(one, key) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {"dict": {name: _plain(one, key) for name, one in value.items()}}
    if hasattr(value, "to_yaml"):
        return _plain(value.model_dump(mode="json", exclude={"extends"}), key)
    raise TableError(f"{key}: a {type(value).__name__} cannot be saved; use pickle, or give texts and numbers")


def read(value: Any) -> Any:
    """Return a value that `_plain` made plain."""
    if isinstance(value, list):
        return [read(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(read(value["array"]), np.dtype(value["dtype"]))
    if "dict" in value:
        return {name: read(one) for name, one in value["dict"].items()}
    if "column" in value:
        return Column(**read(value["column"]))
    return Group(**read(value["group"]))
