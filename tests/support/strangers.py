"""Run folders as a stranger might share them: with code, and with the address of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modalkit.model import assemble
from modalkit.recipe import load_recipe
from modalkit.runs.checkpoint import save_weights

PLAIN = "{type: mlp, hidden: [4], decoder_hidden: [4]}"
RECIPE = """\
data: {path: DATA}
modalities:
  a: {kind: vector, size: 2, network: NETWORK}
  b: {kind: vector, size: 2, network: {type: mlp, hidden: [4], decoder_hidden: [4]}}
model: {latent_dim: 2}
train: {epochs: 1, batch_size: 16, accelerator: cpu, pictures_every: 0}
"""


def recipe_text(*, network: str = PLAIN, plugins: str = "", data: str = "data/none") -> str:
    """Return a recipe of two vectors; `plugins` is a list in YAML."""
    first = f"plugins: {plugins}\n" if plugins else ""
    return first + RECIPE.replace("NETWORK", network).replace("DATA", data)


def shared(folder: Path, recipe: str, files: Mapping[str, str] | None = None) -> Path:
    """Write an exported model: its weights are those of the recipe with plain networks."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_text())
    save_weights(folder / "model.safetensors", assemble(load_recipe(folder / "recipe.yaml")))
    (folder / "recipe.yaml").write_text(recipe)
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def data_of(folder: Path) -> Path:
    """Write the dataset of the recipe."""
    import torch

    import modalkit

    values = {name: torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) for name in ("a", "b")}
    schemas = {name: modalkit.schema("vector", size=2) for name in values}
    modalkit.write_dataset(folder, schemas, values)
    return folder
