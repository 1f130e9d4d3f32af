"""A first recipe for any dataset, to be read, changed and trained."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from modalkit.data import Dataset
from modalkit.data.inspection import schemas
from modalkit.errors import InputError
from modalkit.nn import Mlp
from modalkit.plugin import Schema
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import flow

_log = logging.getLogger(__name__)

_STEPS = 2500
"""Gradient steps that a draft asks for at most; patience mostly ends it earlier."""
_LATENT = ((20, 8), (1000, 16), (10_000, 32))
"""Latent dimensions by numbers in a row; 64 above."""
_SINGLES, _SUBSETS = 4, 16
"""Of single and of random subsets a step, at most, where modalities are single values."""


def draft(path: Path) -> str:
    """Return a recipe for a dataset as YAML with comments; it trains as it is.

    Its sizes are chosen by rules of thumb: dense networks of 128 units a layer for samples of up to 512 numbers and
    256 above, a kind's own network where that is another; 8 to 64 latent dimensions and 10 to 200 epochs by how
    much there is to learn from. Where modalities are single values, one of which tells little of a row, random subsets
    outweigh the single ones, and the KL weighs less.

    Raises:
        InputError: no dataset there, nothing to train on, or a name that recipes do not allow.
    """
    dataset = Dataset(path, in_memory=False)
    train = dataset.rows("train")
    known, present = schemas(dataset), dataset.present[train].float().mean(0).tolist()
    if not len(train):
        raise InputError(f"{path}: no row is in the train split, so there is nothing to train a recipe on")
    entries, left, numbers, widths = list[str](), list[str](), 0, set[int]()
    for name, share in zip(dataset.names, present, strict=True):
        if name not in known or not share:
            why = "in no training row" if not share else "its kind is not installed; `plugins:` names its file"
            left.append(f"  # {name}: left out, {why}")
            continue
        try:
            modality_name(name)
        except ValueError as error:
            raise InputError(f"{path}: modality '{name}': {error}") from None
        numbers += math.prod(known[name].event_shape)
        entry = flow(_entry(known[name]))
        if (width := _width(known[name])) is not None:
            network = f"*dense{width}" if width in widths else f"&dense{width} {flow(_dense(width))}"
            entry = f"{entry[:-1]}, network: {network}}}"
            widths.add(width)
        entries.append(f"  {name}: {entry}  # in {100 * share:.0f} %")
    if not entries:
        raise InputError(f"{path}: there is nothing to train on:\n" + "\n".join(line.strip(" #") for line in left))
    batch = next((size for size in (100, 50, 20) if len(train) >= 10 * size), 10)
    epochs = min(200, max(10, _STEPS // math.ceil(len(train) / batch)))
    valid = len(dataset.rows("valid"))
    lone = len(entries) > 2 and numbers < 2 * len(entries)  # modalities are single values, but for a few
    if lone:
        subsets = f"""\
  # Modalities are mostly single values, one of which tells little of a row: so as many random subsets a step as there
  # are modalities, up to {_SUBSETS}, few single ones, a light KL, and more patience.
  k: {min(len(entries), _SUBSETS)}  # random subsets of modalities a step, beside all together
  singles: {min(len(entries), _SINGLES)}  # modalities alone a step, drawn anew"""
    else:
        subsets = "  k: 1  # random subsets of modalities a step, beside all together and each alone"
    wait = max(3, epochs // (4 if lone else 10))
    patience = f"  patience: {wait}  # epochs without a better validation ELBO, then it stops early\n" if valid else ""
    latent = next((size for most, size in _LATENT if numbers <= most), 64)
    lines = "\n".join(entries + left)
    return f"""\
# modalkit train recipe.yaml
#
# Drafted by `modalkit init {path}`: {len(train)} training rows, {valid} for validation. It trains as it is; `modalkit
# list kinds NAME` prints the keys of a kind, and `modalkit schema` lets an editor complete all of them.
data:
  path: {flow(str(path))}
# What is not said of a modality, such as names and how numbers are standardised, is taken from the dataset. Beside
# each: in how many of the training rows it is present.
modalities:
{lines}
model:
  latent_dim: {latent}  # numbers that sum up a row; unused ones cost little
objective:
  name: mvae  # a product of experts: any modalities can be given, and any asked for
  targets: present  # whatever is given must explain all that a row has: that is how imputing is learned
{subsets}
  warmup_epochs: {max(1, epochs // 20)}  # the KL comes in gently; without this, latents may stay unused
  beta: {0.3 if lone else 1.0}  # weight of the KL; above 1 smoother, below 1 more exact reconstructions
train:
  epochs: {epochs}
{patience}  batch_size: {batch}
  learning_rate: 1e-3
  pictures_every: 0  # a sheet of predictions at the end only
"""


def _entry(schema: Schema) -> dict[str, Any]:
    """Return what a recipe must say of a modality."""
    facts = schema.facts()
    return {
        key: facts[key]
        for key, field in type(schema).model_fields.items()
        if key in facts and key not in schema.from_dataset and (key == "kind" or facts[key] != field.default)
    }


def _width(schema: Schema) -> int | None:
    """Return how wide dense networks should be for a modality; None leaves the kind's own network."""
    network = getattr(schema, "network", None)
    width = 128 if math.prod(schema.event_shape) <= 512 else 256
    same = isinstance(network, Mlp) and network.hidden == network.decoder_hidden == (width, width)
    return width if isinstance(network, Mlp) and not same else None


def _dense(width: int) -> dict[str, Any]:
    return {"type": "mlp", "hidden": [width, width], "decoder_hidden": [width, width]}
