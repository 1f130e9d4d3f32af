"""A model written into a folder of its own, and as plain values that can be pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modalkit.errors import InputError
from modalkit.inference.sampler import LatentSampler, save_sampler
from modalkit.model import assemble
from modalkit.model.vae import MultimodalVAE
from modalkit.recipe.loading import Recipe, recipe_of
from modalkit.recipe.yaml import Place, parse
from modalkit.runs.checkpoint import save_weights
from modalkit.runs.folder import RunFolder
from modalkit.runs.opened import digest
from modalkit.util.files import is_empty, write_text
from modalkit.util.remote import refuse_url


def save(model: MultimodalVAE, recipe: Recipe, out: Path, sampler: LatentSampler | None = None) -> None:
    """Write a model, its recipe and its sampler into a new folder; see `modalkit.TrainedModel.save`."""
    refuse_url(out, "folder")
    if out.exists() and not (out.is_dir() and is_empty(out)):
        raise InputError(f"{out}: exists already and is not overwritten; choose a new folder")
    folder = RunFolder(out)
    save_weights(folder.exported, model)
    if sampler is not None:
        save_sampler(folder.sampler, sampler, digest(folder.exported))
    write_text(folder.recipe, recipe.to_yaml())  # last, because it marks the folder as complete


def save_with_weights(path: Path, sampler: LatentSampler, weights: str) -> None:
    """Write a sampler into a run or an exported folder, if that holds the weights that the sampler was fitted to.

    Args:
        path: where the model came from; there need not be a folder.
        sampler: what to write.
        weights: SHA-256 of the model's weights.
    """
    folder = RunFolder(path)
    if folder.is_run() and folder.weights.is_file() and digest(folder.weights) == weights:
        save_sampler(folder.sampler, sampler, weights)


def packed(model: MultimodalVAE, recipe: Recipe) -> dict[str, Any]:
    """Return a model and its recipe as plain values and tensors on the CPU."""
    return {"recipe": recipe.to_yaml(), "tensors": {name: t.cpu() for name, t in model.state_dict().items()}}


def unpacked(state: dict[str, Any]) -> tuple[MultimodalVAE, Recipe]:
    """Return the model, in eval mode, and the recipe that `packed` returned as plain values."""
    recipe = recipe_of(parse(state["recipe"], Place("the recipe of a pickled model")))
    with torch.random.fork_rng(devices=[]):  # initial weights are sampled and then replaced
        model = assemble(recipe)
    model.to(torch.float64 if recipe.train.precision == "64" else torch.float32)
    model.load_state_dict(state["tensors"])
    return model.eval(), recipe
