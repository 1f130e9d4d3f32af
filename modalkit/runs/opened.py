"""A trained run, opened to be asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.model import MultimodalVAE, assemble
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.runs.checkpoint import load_weights


@dataclass(frozen=True)
class Run:
    """A run folder's model with its best weights, and the dataset to ask it about.

    Attributes:
        path: the run folder.
        recipe: as it was trained.
        model: in eval mode, in 32-bit precision, or 64 where the recipe says so.
        dataset: the recipe's own, or another that has its modalities.
        weights: SHA-256 of the weights' file.
    """

    path: Path
    recipe: Recipe
    model: MultimodalVAE
    dataset: Dataset
    weights: str


def no_run(path: Path) -> InputError:
    """Return the error that a path is no run, and where one may be."""
    what = "is not a run (no recipe.yaml)" if path.is_dir() else "is not a run: there is no such folder"
    if (path / "manifest.json").is_file():
        what += "; it is a dataset"
    return InputError(f"{path}: {what}; runs lie in runs/ unless `modalkit train RECIPE` was told otherwise by --out")


def load_model(path: Path, *, device: str = "cpu") -> tuple[Recipe, MultimodalVAE, str]:
    """Open a run's model without its dataset.

    Args:
        path: the run folder, or an exported one.
        device: where to compute, such as ``cpu`` or ``cuda``.

    Returns:
        The recipe; the model, as in `Run`; SHA-256 of the weights' file.

    Raises:
        InputError: no run there, or no weights yet.
    """
    if not (path / "recipe.yaml").is_file():
        raise no_run(path)
    recipe = load_recipe(path / "recipe.yaml")
    with torch.random.fork_rng(devices=[]):  # the first weights, which are not kept, are no concern of the caller's
        model = assemble(recipe)
    try:
        model.to(device, torch.float64 if recipe.train.precision == "64" else torch.float32)
        torch.zeros(1, device=device).item()  # some devices hold tensors and compute nothing
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is not there
        raise InputError(f"--device {device}: cannot be had here ({error}); cpu always can") from error
    weights = weights_of(path)
    load_weights(weights, model)
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return recipe, model.eval(), digest


def weights_of(path: Path) -> Path:
    """Return the file of a run's best weights, or of an exported model's."""
    exported = path / "model.safetensors"
    return exported if exported.is_file() else path / "checkpoints" / "best.safetensors"


def load_run(path: Path, *, data: Path | str | None = None, device: str = "cpu") -> Run:
    """Open a run.

    Args:
        path: the run folder.
        data: a dataset to ask about in place of the recipe's own, its folder or URL.
        device: where to compute, such as ``cpu`` or ``cuda``.

    Raises:
        InputError: no run there, no weights yet, or the dataset does not have the recipe's modalities.
    """
    recipe, model, weights = load_model(path, device=device)
    dataset = Dataset(data or recipe.data.path, list(recipe.modalities), in_memory=recipe.data.in_memory)
    dataset.manifest.check(recipe.modalities, dataset.path)
    return Run(path, recipe, model, dataset, weights)
