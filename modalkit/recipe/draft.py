"""Drafting a first recipe for any dataset, which the user reads, changes and trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalkit.data import Dataset
from modalkit.data.inspection import schemas
from modalkit.data.standardizing import missing_standardization
from modalkit.errors import InputError
from modalkit.nn import Mlp
from modalkit.plugin import Schema
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import flow

_STEPS = 2500
"""Most gradient steps of a draft, roughly; patience usually ends the training earlier."""
_LATENT = ((20, 8), (1000, 16), (10_000, 32))
"""Latent dimensions by the most numbers in a row; 64 above."""
_LEAST_ROWS = 20
"""Training rows from which the error of imputation, which is relative to their mean and frequencies, is measured."""
_SINGLES, _SUBSETS = 4, 16
"""Most single and most random subsets a step if modalities are single values."""


def draft(path: Path, plugins: Sequence[Path] = ()) -> str:
    """Return a recipe for a dataset as YAML with comments; it trains as it is, but for what its comments leave out.

    Rules of thumb choose its sizes. Dense networks have 128 units a layer for samples of up to 512 numbers and 256
    above; a kind whose own network is not dense keeps it. The recipe has 8 to 64 latent dimensions and 10 to 200
    epochs, depending on the size of the data. If modalities are single values, each of which predicts little of a row,
    a step has more random subsets than single ones, and the KL has a smaller weight.

    Args:
        path: the dataset's folder.
        plugins: Python files that define some of its kinds, registered already; the recipe lists them.

    Raises:
        InputError: no dataset there, nothing to train on, or a name that recipes do not allow.
    """
    dataset = Dataset(path, in_memory=False)
    train = len(dataset.rows("train"))
    if not train:
        raise InputError(f"{path}: no row is in the train split, so there is nothing to train a recipe on")
    modalities = _modalities(dataset, path)
    valid = dataset.rows("valid")
    enough = len(modalities.entries) > 1 and train >= _LEAST_ROWS
    pairs = int((dataset.present[valid].sum(1) > 1).sum()) if enough else 0
    sizes = _sizes(train, len(valid), pairs, modalities)
    lines = "\n".join(modalities.entries + modalities.left_out)
    return f"""\
# modalkit train recipe.yaml
#
# Drafted by `modalkit init {path}`: {train} training rows, {sizes.valid} for validation. It trains as it is. `modalkit
# list kinds NAME` prints the keys of a kind, and with `modalkit schema` an editor completes all of them.
{_plugins(plugins)}data:
  path: {flow(str(path))}
# The dataset provides what is not written here, such as names and how numbers are standardised. The comment beside
# each modality tells in how many of the training rows it is present.
modalities:
{lines}
model:
  latent_dim: {sizes.latent_dim}  # numbers that summarise a row; unused ones cost little
objective:
  name: mvae  # a product of experts: any modalities can be given, and any predicted
  targets: present  # any given subset must explain all that a row has, so that the model learns to impute
{sizes.subsets}
  warmup_epochs: {sizes.warmup_epochs}  # the weight of the KL rises slowly; otherwise latents may stay unused
  beta: {sizes.beta}  # weight of the KL: above 1 smoother, below 1 more exact reconstructions
train:
  epochs: {sizes.epochs}
{sizes.choice}  batch_size: {sizes.batch_size}
  learning_rate: 1e-3
  schedule: {{name: cosine, warmup: 0.05}}  # the learning rate rises in the first epochs, then falls to 0
  clip_norm: 10  # limits the effect of a batch with extreme values
  average: 0.99  # what is kept is a moving average of the weights
  pictures_every: 0  # a sheet of predictions at the end only
"""


def _plugins(files: Sequence[Path]) -> str:
    """Return the ``plugins:`` section, paths as seen from the current folder; empty without files."""
    return "".join(["plugins:\n", *(f"  - {flow(str(file))}\n" for file in files)]) if files else ""


@dataclass(frozen=True)
class _Modalities:
    """The ``modalities:`` section: lines of entries and of what is left out, and how many numbers a row holds."""

    entries: list[str]
    left_out: list[str]
    numbers: int

    @property
    def single_values(self) -> bool:
        """Whether most modalities are single values."""
        return len(self.entries) > 2 and self.numbers < 2 * len(self.entries)


@dataclass(frozen=True)
class _Sizes:
    """The values that rules of thumb choose."""

    valid: int
    latent_dim: int
    batch_size: int
    epochs: int
    warmup_epochs: int
    beta: float
    subsets: str
    choice: str


def _modalities(dataset: Dataset, path: Path) -> _Modalities:
    """Return the entries of the modalities that can be trained; equal dense networks share one YAML anchor."""
    known = schemas(dataset)
    present = dataset.present[dataset.rows("train")].float().mean(0).tolist()
    entries, left_out, numbers, widths = list[str](), list[str](), 0, set[int]()
    for name, share in zip(dataset.names, present, strict=True):
        if name not in known or not share:
            why = "in no training row" if not share else "its kind is not installed; draft again with --plugin FILE.py"
            left_out.append(f"  # {name}: left out, {why}")
            continue
        try:
            modality_name(name)
        except ValueError as error:
            raise InputError(f"{path}: modality '{name}': {error}") from None
        numbers += math.prod(known[name].event_shape)
        scaled = missing_standardization(dataset, name, known[name], dataset.rows("train"))
        entries.append(f"  {name}: {_entry(known[name], widths, scaled)}  # in {100 * share:.0f} %")
    if not entries:
        reasons = "\n".join(line.strip(" #") for line in left_out)
        raise InputError(f"{path}: there is nothing to train on:\n{reasons}")
    return _Modalities(entries, left_out, numbers)


def _sizes(train: int, valid: int, pairs: int, modalities: _Modalities) -> _Sizes:
    """Choose sizes by the numbers of rows, of modalities and of values in a row."""
    count, single = len(modalities.entries), modalities.single_values
    batch_size = next((size for size in (100, 50, 20) if train >= 10 * size), 10)
    epochs = min(200, max(10, _STEPS // math.ceil(train / batch_size)))
    if single:
        subsets = f"""\
  # Most modalities are single values, each of which predicts little of a row. So a step has as many random subsets as
  # there are modalities, up to {_SUBSETS}, and few single ones. The KL has a small weight.
  k: {min(count, _SUBSETS)}  # random subsets of modalities a step, beside all together
  singles: {min(count, _SINGLES)}  # modalities alone a step, chosen at random"""
    else:
        subsets = "  k: 1  # random subsets of modalities a step, beside all together and each alone"
    return _Sizes(
        valid=valid,
        latent_dim=next((size for most, size in _LATENT if modalities.numbers <= most), 64),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=max(1, epochs // 20),
        beta=0.3 if single else 1.0,
        subsets=subsets,
        choice=_choice(valid, pairs, epochs),
    )


def _choice(valid: int, pairs: int, epochs: int) -> str:
    """Return how the best epoch is chosen, by the numbers of validation rows, and of those with two modalities."""
    if not valid:
        return ""
    # The epochs in which the learning rate is low are often the best, so patience is long.
    patience = f"  patience: {max(3, epochs // 3)}  # stop early after so many epochs without a better one\n"
    if not pairs:
        return patience
    return f"{patience}  choose: imputation  # the best epoch is the one that predicts hidden entries best\n"


def _entry(schema: Schema, widths: set[int], standardize: Mapping[str, Any] | None) -> str:
    """Return a modality's entry on one line; `widths` holds the dense networks that have an anchor already.

    Numbers that are far from standardised get `standardize`, because the dataset does not provide it.
    """
    facts: Mapping[str, Any] = schema.facts()
    entry = flow(
        {
            key: facts[key]
            for key, field in type(schema).model_fields.items()
            if key in facts and key not in schema.from_dataset and (key == "kind" or facts[key] != field.default)
        }
        | ({"standardize": standardize} if standardize else {})
    )
    if (width := _width(schema)) is None:
        return entry
    network = f"*dense{width}" if width in widths else f"&dense{width} {flow(_dense(width))}"
    widths.add(width)
    return f"{entry[:-1]}, network: {network}}}"


def _width(schema: Schema) -> int | None:
    """Return how wide dense networks should be for a modality; None keeps the kind's own network."""
    network = getattr(schema, "network", None)
    width = 128 if math.prod(schema.event_shape) <= 512 else 256
    same = isinstance(network, Mlp) and network.hidden == network.decoder_hidden == (width, width)
    return width if isinstance(network, Mlp) and not same else None


def _dense(width: int) -> dict[str, Any]:
    return {"type": "mlp", "hidden": [width, width], "decoder_hidden": [width, width]}
