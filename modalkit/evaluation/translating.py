"""The translations of `modalkit evaluate`: measured as at the end of training, or read if they are saved."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from modalkit.data import Dataset
from modalkit.errors import InputError
from modalkit.evaluation.questions import Asking
from modalkit.evaluation.saved import Evaluated, read_evaluated
from modalkit.evaluation.translation import MOST_TRANSLATED, translations
from modalkit.evaluation.translation_text import among, quality
from modalkit.pictures import chosen
from modalkit.runs.folder import RunFolder
from modalkit.runs.opened import open_dataset

if TYPE_CHECKING:
    from modalkit.runs.opened import Run


def translate(run: Run, asking: Asking) -> Evaluated:
    """Return how well each modality is predicted from each, on at most 500 of the rows asked about, evenly spread.

    If ``evaluation.json`` has it for the same weights, rows and seed, nothing is computed.

    Raises:
        InputError: ``evaluation.json`` is damaged.
    """
    training = _training(run)
    shards = [shard.sha256 for one in (run.dataset, training) for shard in one.manifest.shards]
    settings = {
        "split": asking.split,
        "rows": asking.rows,
        "seed": asking.seed,
        "data": str(run.dataset.path),
        "weights": run.weights,
        "shards": hashlib.sha256("".join(shards).encode()).hexdigest(),
    }
    known = read_evaluated(RunFolder(run.path))
    if known is not None and known.settings == settings:
        return known
    with torch.random.fork_rng():  # some likelihoods sample from PyTorch's global generator
        rows = asking.rows_of(run.dataset)
        results = translations(run.model, run.dataset, rows, training=training, seed=asking.seed)
    return Evaluated(results, settings)


def in_words(run: Run, found: Evaluated, width: int) -> list[str]:
    """Return the table of errors with its heading, a text each; nothing if no modality has a measure.

    Args:
        run: the run.
        found: its translations.
        width: how many characters fit a line.
    """
    schemas = {name: run.model.schemas[name] for name in chosen(run.model.schemas, MOST_TRANSLATED)}
    said = quality(found.results, schemas, run.model.shared_dim, width, "evaluation.json")
    rows = among(map(vars, found.results), found.settings["split"])
    return [f"\nErrors of predictions, on {rows}:\n", said] if said else []


def _training(run: Run) -> Dataset:
    """Return the dataset that the run was trained on; the one that is evaluated if the former cannot be opened.

    The training rows of a refit include the validation rows.
    """
    if str(run.dataset.path) == str(run.recipe.data.path):
        return run.dataset.with_valid_as_train() if run.refit else run.dataset
    try:
        opened = open_dataset(run.recipe, in_memory=False, trusted=run.trusted)
    except InputError:
        return run.dataset
    return opened.with_valid_as_train() if run.refit else opened
