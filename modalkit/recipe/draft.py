"""Drafting a first recipe for any dataset, which the user reads, changes and trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from modalkit.data import Dataset, read_manifest
from modalkit.data.inspection import schemas
from modalkit.data.reading import several
from modalkit.data.standardizing import missing_standardization
from modalkit.errors import InputError
from modalkit.nn import Mlp
from modalkit.plugin import Schema
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import flow

_STEPS, _STEPS_FROM_START = 2500, 600
"""Most gradient steps of a draft, roughly; patience usually ends the training earlier. The second number is for a start
at a factor analysis of single values."""
_EPOCHS, _EPOCHS_FROM_START = 200, 120
"""Most epochs. The second number is for a start at a factor analysis of groups of values."""
_LATENT = ((20, 8), (1000, 16), (10_000, 32))
"""Latent dimensions by the most numbers in a row; 64 above."""
_LEAST_ROWS = 20
"""Training rows from which the error of imputation, which is relative to their mean and frequencies, is measured."""
_SINGLES, _SUBSETS = 4, 16
"""Most single and most random subsets a step if modalities are single values."""
_REFIT_ROWS = 10_000
"""Most training rows with a second fit on validation rows too; with more, the fit takes long and gains little."""
_START_WIDTHS = 32, 128
"""Units of dense networks beside a linear path, if modalities are single values and if they are not."""


def draft(path: Path, plugins: Sequence[Path] = (), covariates: Sequence[str] = ()) -> str:
    """Return a recipe for a dataset as YAML with comments; it trains as it is, but for what its comments leave out.

    If every modality has dense networks, training starts from a factor analysis, and the objective is the ELBO of
    what a row has and of random subsets of it. A second fit then learns from the validation rows too, if there are
    test rows and at most 10,000 training rows. Otherwise, or with too few rows, networks start at random. Rules of
    thumb choose the sizes: 8 to 64 latent dimensions, and fewer epochs the more rows there are.

    Args:
        path: the dataset's folder.
        plugins: Python files that define some of its kinds, registered already; the recipe lists them.
        covariates: modalities that get the role of a covariate; sizes are chosen by the others.

    Raises:
        InputError: no dataset there, nothing to train on, or a name that recipes do not allow.
    """
    names = [name for name in read_manifest(path).modalities if name not in covariates]
    dataset = Dataset(path, names, in_memory=False, covariates=covariates)
    train = len(dataset.rows("train"))
    if not train:
        raise InputError(f"{path}: no row is in the train split, so there is nothing to train a recipe on")
    enough = train >= _LEAST_ROWS
    modalities = _modalities(dataset, path, may_start=enough)
    valid, refit = dataset.rows("valid"), train <= _REFIT_ROWS and len(dataset.rows("test")) > 0
    pairs = int(several(dataset.present[valid]).sum()) if enough and len(modalities.entries) > 1 else 0
    sizes = _sizes(train, len(valid), pairs, modalities, refit=refit)
    lines = "\n".join(modalities.entries + _conditions(dataset.covariates) + modalities.left_out)
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
{_START if modalities.start else ""}objective:
  name: mvae  # a product of experts: any modalities can be given, and any predicted
{sizes.objective}
train:
  epochs: {sizes.epochs}
{sizes.choice}  batch_size: {sizes.batch_size}
  learning_rate: {sizes.learning_rate}
  schedule: {{name: cosine, warmup: 0.05}}  # the learning rate rises in the first epochs, then falls to 0
  clip_norm: 10  # limits the effect of a batch with extreme values
  average: 0.99  # what is kept is a moving average of the weights
  pictures_every: 0  # a sheet of predictions at the end only
"""


_START = """\
  experts: low_rank  # each modality measures some directions of these numbers
  start: factor_analysis  # training begins at a linear model, and keeps it unless it finds a better one
"""


def _plugins(files: Sequence[Path]) -> str:
    """Return the ``plugins:`` section, paths as seen from the current folder; empty without files."""
    return "".join(["plugins:\n", *(f"  - {flow(str(file))}\n" for file in files)]) if files else ""


@dataclass(frozen=True)
class _Modalities:
    """The ``modalities:`` section.

    Attributes:
        entries: lines of modalities.
        left_out: lines of what is left out.
        numbers: how many a row holds.
        start: whether training starts from a factor analysis.
    """

    entries: list[str]
    left_out: list[str]
    numbers: int
    start: bool

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
    learning_rate: str
    epochs: int
    objective: str
    choice: str


def _modalities(dataset: Dataset, path: Path, *, may_start: bool) -> _Modalities:
    """Return the entries of the modalities that can be trained; equal dense networks share one YAML anchor."""
    known = schemas(dataset)
    present = _shares(dataset)
    used = {name: known[name] for name in dataset.names if name in known and present[name]}
    numbers = sum(math.prod(schema.event_shape) for schema in used.values())
    networks = _Networks(numbers, len(used), used.values(), may_start=may_start)
    entries, left_out = list[str](), list[str]()
    for name, share in present.items():
        if name not in used:
            why = "in no training row" if not share else "its kind is not installed; draft again with --plugin FILE.py"
            left_out.append(f"  # {name}: left out, {why}")
            continue
        try:
            modality_name(name)
        except ValueError as error:
            raise InputError(f"{path}: modality '{name}': {error}") from None
        scaled = missing_standardization(dataset, name, used[name], dataset.rows("train"))
        entries.append(f"  {name}: {_entry(used[name], networks, scaled)}  # in {100 * share:.0f} %")
    if not entries:
        reasons = "\n".join(line.strip(" #") for line in left_out)
        raise InputError(f"{path}: there is nothing to train on:\n{reasons}")
    return _Modalities(entries, left_out, numbers, networks.start)


def _conditions(dataset: Dataset | None) -> list[str]:
    """Return the entries of covariates; one that no training row has is left out, because nothing is learned of it."""
    if dataset is None:
        return []
    shares, known = _shares(dataset), schemas(dataset)
    entries = {name: flow(_facts(schema) | {"role": "covariate"}) for name, schema in known.items() if shares[name]}
    return [f"  {name}: {entry}  # in {100 * shares[name]:.0f} %" for name, entry in entries.items()]


def _shares(dataset: Dataset) -> dict[str, float]:
    """Return by modality the share of the training rows that have it."""
    present = dataset.present[dataset.rows("train")]
    return {name: float(there.float().mean()) for name, there in zip(dataset.names, present.unbind(1), strict=True)}


def _sizes(train: int, valid: int, pairs: int, modalities: _Modalities, *, refit: bool) -> _Sizes:
    """Choose sizes by the numbers of rows, of modalities and of values in a row; for `refit`, see `_choice`."""
    # A start needs little training, and large batches are faster a row.
    groups = modalities.start and not modalities.single_values
    least = 3 if modalities.start else 10
    batch_size = next((size for size in (100, 50, 20) if train >= least * size), 10)
    steps = _STEPS if groups or not modalities.start else _STEPS_FROM_START
    most = _EPOCHS_FROM_START if groups else _EPOCHS
    epochs = min(most, max(10, steps // math.ceil(train / batch_size)))
    return _Sizes(
        valid=valid,
        latent_dim=_latent_dim(modalities.numbers),
        batch_size=batch_size,
        learning_rate="2e-3" if modalities.start else "1e-3",
        epochs=epochs,
        objective=_from_start(modalities) if modalities.start else _from_random(modalities, epochs),
        choice=_choice(valid, pairs, epochs, refit=refit and modalities.start),
    )


def _latent_dim(numbers: int) -> int:
    return next((size for most, size in _LATENT if numbers <= most), 64)


def _from_start(modalities: _Modalities) -> str:
    """Return the rest of the objective for a training that starts from a factor analysis."""
    if modalities.single_values:
        return """\
  targets: subset  # each term is the ELBO of the modalities that it is given, so that scales stay right
  k: 1  # random subsets of modalities a step, beside all together
  singles: 0  # a single value tells little about a row
  beta: 1.0  # weight of the KL: above 1 smoother, below 1 more exact reconstructions"""
    return """\
  targets: present  # any given subset must explain all that a row has, so that the model learns to impute
  decoder_gradients: given  # decoders learn from what they are given, so that scales stay right
  k: 3  # random subsets of modalities a step, beside all together and each alone
  beta: 1.0  # weight of the KL: above 1 smoother, below 1 more exact reconstructions"""


def _from_random(modalities: _Modalities, epochs: int) -> str:
    """Return the rest of the objective for networks that start at random."""
    count, single = len(modalities.entries), modalities.single_values
    if single:
        subsets = f"""\
  # Most modalities are single values, each of which predicts little of a row. So a step has as many random subsets as
  # there are modalities, up to {_SUBSETS}, and few single ones. The KL has a small weight.
  k: {min(count, _SUBSETS)}  # random subsets of modalities a step, beside all together
  singles: {min(count, _SINGLES)}  # modalities alone a step, chosen at random"""
    else:
        subsets = "  k: 1  # random subsets of modalities a step, beside all together and each alone"
    return f"""\
  targets: present  # any given subset must explain all that a row has, so that the model learns to impute
{subsets}
  warmup_epochs: {max(1, epochs // 20)}  # the weight of the KL rises slowly; otherwise latents may stay unused
  beta: {0.3 if single else 1.0}  # weight of the KL: above 1 smoother, below 1 more exact reconstructions"""


def _choice(valid: int, pairs: int, epochs: int, *, refit: bool) -> str:
    """Return how the best epoch is chosen, and whether a second fit follows.

    Args:
        valid: validation rows.
        pairs: those of them that have two modalities.
        epochs: at most so many.
        refit: whether to fit again, to training and validation rows, if the latter choose by the error of imputation.
    """
    if not valid:
        return ""
    # The epochs in which the learning rate is low are often the best, so patience is long.
    patience = f"  patience: {max(3, epochs // 3)}  # stop early after so many epochs without a better one\n"
    if not pairs:
        return patience
    chosen = "  choose: imputation  # the best epoch is the one that predicts hidden entries best\n"
    again = "  refit: true  # then train again for as many epochs, on training and validation rows\n" if refit else ""
    return patience + chosen + again


class _Networks:
    """Chooses the dense networks of modalities, and remembers which have a YAML anchor already.

    Args:
        numbers: that a row holds.
        count: of modalities.
        used: the schemas of all modalities.
        may_start: whether there are enough rows for a start at a factor analysis.

    Attributes:
        start: whether training starts from a factor analysis: every modality then has a linear path.
    """

    def __init__(self, numbers: int, count: int, used: Iterable[Schema], *, may_start: bool) -> None:
        self.start = may_start and count > 1 and all(isinstance(_network(schema), Mlp) for schema in used)
        self.single_values = count > 2 and numbers < 2 * count
        self.latent_dim = _latent_dim(numbers)
        self._anchored = set[str]()

    def entry(self, schema: Schema) -> str:
        """Return a modality's network, its anchor or a reference to it; empty to keep the kind's own network."""
        if not isinstance(_network(schema), Mlp):
            return ""
        settings = self._beside_linear() if self.start else self._alone(schema)
        if settings is None:
            return ""
        anchor = f"dense{settings['hidden'][0]}"
        if anchor in self._anchored:
            return f"*{anchor}"
        self._anchored.add(anchor)
        return f"&{anchor} {flow(settings)}"

    def _beside_linear(self) -> dict[str, Any]:
        width = _START_WIDTHS[0 if self.single_values else 1]
        return _dense([width]) | {"linear": self.latent_dim}

    def _alone(self, schema: Schema) -> dict[str, Any] | None:
        width, network = 128 if math.prod(schema.event_shape) <= 512 else 256, _network(schema)
        if network.hidden == network.decoder_hidden == (width, width):
            return None
        return _dense([width, width])


def _network(schema: Schema) -> Any:
    return getattr(schema, "network", None)


def _dense(widths: list[int]) -> dict[str, Any]:
    return {"type": "mlp", "hidden": widths, "decoder_hidden": widths}


def _likelihood(schema: Schema, start: bool) -> dict[str, Any]:
    """Return how a likelihood's scale is learned after a start, which a factor analysis has in the same form."""
    fields = type(schema).model_fields
    found = {}
    if start and "scale" in fields and fields["scale"].default in ("learned", "predicted"):
        found["scale"] = "per_dimension"
    choices = get_args(fields["likelihood"].annotation) if "likelihood" in fields else ()
    if start and "negative_binomial" in choices:
        found["likelihood"] = "negative_binomial"
    return found


def _entry(schema: Schema, networks: _Networks, standardize: Mapping[str, Any] | None) -> str:
    """Return a modality's entry on one line.

    Numbers that are far from standardised get `standardize`, because the dataset does not provide it.
    """
    more = _likelihood(schema, networks.start) | ({"standardize": standardize} if standardize else {})
    entry, network = flow(_facts(schema) | more), networks.entry(schema)
    return f"{entry[:-1]}, network: {network}}}" if network else entry


def _facts(schema: Schema) -> dict[str, Any]:
    """Return what an entry must say of a modality, because the dataset does not provide it."""
    facts: Mapping[str, Any] = schema.facts()
    return {
        key: facts[key]
        for key, field in type(schema).model_fields.items()
        if key in facts and key not in schema.from_dataset and (key == "kind" or facts[key] != field.default)
    }
