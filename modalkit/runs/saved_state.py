"""The content of a run's ``state.pt``, checked before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modalkit.errors import InputError
from modalkit.runs.checkpoint import load_state
from modalkit.runs.folder import RunFolder
from modalkit.runs.progress import Progress

_REMEDY = "delete the run folder and train again"
_NEEDED = ("progress", "model", "optimizer", "data")


def read_state(path: Path) -> dict[str, Any]:
    """Return what `TrainingState` saved: ``progress``, ``model``, ``optimizer``, ``data``, and more in some runs.

    Args:
        path: ``state.pt`` or ``refit.pt`` of a run.

    Raises:
        InputError: the file is damaged, or a part of it is missing or of another type; the message names the part.
    """
    state = load_state(path, torch.device("cpu"))
    try:
        _check(state)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); {_REMEDY}") from None
    return state


def saved_progress(folder: RunFolder) -> Progress:
    """Return how far a run is by its saved state, 0 steps if it has none.

    Raises:
        InputError: the state is damaged.
    """
    return Progress(**read_state(folder.state)["progress"]) if folder.state.exists() else Progress()


def load_into(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Give a model the weights of a saved state, or their average where the run keeps one.

    Raises:
        InputError: they are another model's.
    """
    try:
        model.load_state_dict(state["model"] | state.get("average", {}))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: does not fit this run's recipe ({reason}); train again") from None


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], path: Path) -> None:
    """Give Adam what a saved state keeps of each parameter. Its options stay those of the recipe.

    Raises:
        InputError: something is missing or has another shape, so that a step could not use it.
        ValueError: it is another model's.
    """
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    for parameter, kept in optimizer.state.items():
        if not isinstance(parameter, Tensor):  # PyTorch keeps what belongs to no parameter under its number
            raise InputError(f"{path}: damaged (optimizer.state.{parameter}: there is no such parameter); {_REMEDY}")
        if lacking := {"step", "exp_avg", "exp_avg_sq"} - set(kept):
            raise InputError(f"{path}: damaged (optimizer: a parameter lacks {min(lacking)}); {_REMEDY}")
        for name, value in kept.items():
            shape = torch.Size() if name == "step" else parameter.shape
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise InputError(
                    f"{path}: damaged (optimizer: {name} should be real numbers of the shape {tuple(shape)}); {_REMEDY}"
                )


def _check(state: Any) -> None:
    """Raise ValueError for the first part that is missing or of another type."""
    if not isinstance(state, dict):
        raise ValueError("should be a dictionary")
    for name in _NEEDED:
        if name not in state:
            raise ValueError(f"{name} is missing")
    _check_progress(state["progress"])
    for name in ("model", "average"):
        _check_tensors(name, state.get(name, {}))
    _check_optimizer(state["optimizer"])
    if not isinstance(state["data"], str):
        raise ValueError("data: should be a digest")
    if "start" in state:
        start = state["start"]
        if not isinstance(start, dict) or set(start) != {"factors", "regressed"} or type(start["factors"]) is not int:
            raise ValueError("start: should have factors and regressed")
        named = start["regressed"]
        if not isinstance(named, tuple | list) or not all(isinstance(name, str) for name in named):
            raise ValueError("start.regressed: should be names of modalities")


def _check_progress(progress: Any) -> None:
    if not isinstance(progress, dict) or not all(isinstance(name, str) for name in progress):
        raise ValueError("progress: should be a dictionary")
    known = {field.name for field in fields(Progress)}
    if unknown := set(progress) - known:
        raise ValueError(f"progress: '{min(unknown)}' is unknown")
    for name, value in progress.items():
        if name == "best":
            if not isinstance(value, int | float) or math.isnan(value):
                raise ValueError("progress.best: should be a number")
        elif type(value) is not int or not 0 <= value < 1 << 62:
            raise ValueError(f"progress.{name}: should be a whole number from 0")


def _check_tensors(name: str, tensors: Any) -> None:
    if not isinstance(tensors, dict) or not all(isinstance(key, str) for key in tensors):
        raise ValueError(f"{name}: should be tensors by name")
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}.{key}: should be a tensor")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(f"{name}.{key}: should be a dense tensor in memory")


def _check_optimizer(optimizer: Any) -> None:
    """Check the parts that PyTorch's `load_state_dict` takes for granted."""
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise ValueError("optimizer.state: should be a dictionary")
    groups = optimizer.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("optimizer.param_groups: should be a list of dictionaries")
    for group in groups:
        if not isinstance(group.get("params"), list) or not all(type(one) is int for one in group["params"]):
            raise ValueError("optimizer.param_groups.params: should be numbers of parameters")
        betas = group.get("betas", (0.0, 0.0))
        rates = [group.get(name, 0.0) for name in ("lr", "eps", "weight_decay")]
        pair = isinstance(betas, tuple | list) and len(betas) == 2
        if not pair or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in (*betas, *rates)):
            raise ValueError("optimizer.param_groups: betas, lr, eps and weight_decay should be numbers from 0")
    for number, kept in optimizer["state"].items():
        if type(number) is not int or not isinstance(kept, dict) or not all(isinstance(key, str) for key in kept):
            raise ValueError(f"optimizer.state.{number}: should be a dictionary")
        for key, value in kept.items():
            if not isinstance(value, Tensor | int | float | None):
                raise ValueError(f"optimizer.state.{number}.{key}: should be a tensor or a number")
