"""Opening a trained run: its recipe, its model, and the dataset to ask it about."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.model import MultimodalVAE, assemble
from modalkit.recipe.loading import Recipe
from modalkit.recipe.trust import data_path
from modalkit.runs.checkpoint import is_refit, load_weights
from modalkit.runs.folder import RunFolder
from modalkit.runs.saved_state import load_into, read_state


@dataclass(frozen=True)
class LoadedModel:
    """The model of a run folder, or of an exported one, with its best or its last weights.

    Attributes:
        path: the folder.
        recipe: the recipe that it was trained by.
        model: in eval mode; in 32-bit precision, or in 64-bit if the recipe says so.
        weights: SHA-256 of the weights' file.
        trusted: whether the URL of the recipe's dataset may be contacted.
    """

    path: Path
    recipe: Recipe
    model: MultimodalVAE
    weights: str
    trusted: bool = field(default=False, kw_only=True)

    @property
    def folder(self) -> RunFolder:
        """The paths of the folder's files."""
        return RunFolder(self.path)


@dataclass(frozen=True)
class Run(LoadedModel):
    """A run's model, and a dataset to ask it about.

    Attributes:
        dataset: the recipe's own, or another one that has its modalities.
        refit: whether the weights were fitted to training and validation rows.
    """

    dataset: Dataset
    refit: bool = False


def load_model(path: Path, *, device: str = "cpu", weights: str = "best", trust: bool = False) -> LoadedModel:
    """Open a run's model without its dataset.

    Args:
        path: the run folder, or an exported one.
        device: where to compute, such as ``cpu`` or ``cuda``.
        weights: ``"best"``, or ``"last"`` for those after the last step.
        trust: whether the code may run that the recipe names; see `modalkit.load`.

    Raises:
        InputError: no run there, no such weights, damaged weights, no such device, or code that may not run.
    """
    folder = RunFolder(path)
    recipe, file_of_weights = folder.read_recipe(trust=trust), folder.weights_of(weights)
    model = _assembled(recipe)
    try:
        model.to(device, torch.float64 if recipe.train.precision == "64" else torch.float32)
        torch.zeros(1, device=device).item()  # some devices hold tensors but cannot compute
    except (RuntimeError, AssertionError) as error:  # torch's errors for a missing device
        raise InputError(f"--device {device}: is not available here ({error}); use --device cpu") from error
    load_weights(file_of_weights, model)
    return LoadedModel(path, recipe, model.eval(), digest(file_of_weights), trusted=trust)


def load_saved(path: Path, *, trust: bool = False) -> LoadedModel:
    """Open the model of a run that has no weights yet, from the state that it would resume from.

    Args:
        path: the run folder.
        trust: whether the code may run that the recipe names; see `modalkit.load`.

    Raises:
        InputError: no run there, nothing is saved yet, or code that may not run.
    """
    folder = RunFolder(path)
    recipe = folder.read_recipe(trust=trust)
    if not folder.state.is_file():
        raise InputError(f"{path}: nothing is saved yet; the training stopped before its first step was done")
    model = _assembled(recipe)
    model.to(torch.float64 if recipe.train.precision == "64" else torch.float32)
    load_into(model, read_state(folder.state), folder.state)
    return LoadedModel(path, recipe, model.eval(), digest(folder.state), trusted=trust)


def _assembled(recipe: Recipe) -> MultimodalVAE:
    """Return a recipe's model; its weights are sampled, to be replaced, without a change of the global generator."""
    with torch.random.fork_rng(devices=[]):
        return assemble(recipe)


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_run(
    path: Path, *, data: Path | str | None = None, device: str = "cpu", weights: str = "best", trust: bool = False
) -> Run:
    """Open a run and a dataset.

    Args:
        path: the run folder.
        data: folder or URL of another dataset to ask about; by default the recipe's own.
        device: where to compute, such as ``cpu`` or ``cuda``.
        weights: ``"best"``, or ``"last"`` for those after the last step.
        trust: whether the code may run that the recipe names, and the URL of its dataset may be contacted; see
            `modalkit.load`.

    Raises:
        InputError: no run there, no such weights, something that is not allowed, or the dataset does not have the
            recipe's modalities.
    """
    loaded = load_model(path, device=device, weights=weights, trust=trust)
    dataset, refit = open_dataset(loaded.recipe, data, trusted=trust), is_refit(loaded.folder.weights_of(weights))
    return Run(path, loaded.recipe, loaded.model, loaded.weights, dataset, refit, trusted=trust)


def open_dataset(
    recipe: Recipe, data: Path | str | None = None, *, in_memory: bool | None = None, trusted: bool = False
) -> Dataset:
    """Open a recipe's dataset, or another one that has its modalities.

    Args:
        recipe: names the modalities and the dataset.
        data: folder or URL of another dataset.
        in_memory: whether to read all of it now; None: as the recipe says.
        trusted: whether the URL that the recipe names may be contacted.

    Raises:
        InputError: it cannot be opened, may not be contacted, or does not have the recipe's modalities.
    """
    in_memory = recipe.data.in_memory if in_memory is None else in_memory
    dataset = Dataset(
        data or data_path(recipe, trusted=trusted, instead="--data URL"),
        list(recipe.explained),
        in_memory=in_memory,
        covariates=list(recipe.covariates),
    )
    dataset.manifest.check(recipe.modalities, dataset.path)
    return dataset


def held_out_split(dataset: Dataset, *, refit: bool = False) -> str:
    """Return the split whose rows tell best how well a model generalises: test, or else valid, or else train.

    Args:
        dataset: has the rows.
        refit: whether the model was trained on the validation rows too, so that they do not tell it.
    """
    unseen = ("test",) if refit else ("test", "valid")
    return next((split for split in unseen if len(dataset.rows(split))), "train")
