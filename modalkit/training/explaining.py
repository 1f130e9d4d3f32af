"""Error messages of a training that fails: values that a likelihood refuses, unusual numbers, or settings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import evenly
from modalkit.data.standardizing import unusual
from modalkit.data.suitability import present_parts, shown
from modalkit.errors import InputError, RunError
from modalkit.model import MultimodalVAE, assemble
from modalkit.recipe.loading import Recipe
from modalkit.training.data import TrainingData
from modalkit.training.step import NotFiniteError
from modalkit.util.text import listed

_MOST_ROWS = 20_000
_MOST_NAMED = 3
_ADVICE = "Try a lower train.learning_rate, train.clip_norm, or a longer objective.warmup_epochs, in a new --out"


def explained(
    error: InputError | NotFiniteError, recipe: Recipe, data: TrainingData, latest: Tensor, step: int, state: Path
) -> InputError | RunError:
    """Return an error that says what is wrong, what was kept and what to do.

    Args:
        error: a plugin raised, or a loss or weight is NaN or infinite.
        recipe: what is trained.
        data: its rows.
        latest: rows of the latest step, int64 `(rows,)`.
        step: the number of the step that failed, from 1.
        state: where the state is saved.
    """
    found = refused(recipe, data.dataset, latest, torch.cat([data.train, data.valid]))
    if isinstance(error, InputError):
        return InputError(f"{error}. {found}" if found else str(error))
    kept = f"{state} is from an earlier step" if state.exists() else "nothing had been saved"
    advice = found or unusual(data.dataset, recipe.explained, data.train) or _ADVICE
    return RunError(f"step {step}: the loss is NaN or infinite; first in {error}; {kept}. {advice}")


@torch.no_grad()
def refused(recipe: Recipe, dataset: Dataset, latest: Tensor, rows: Tensor) -> str:
    """Return in words which rows have values whose log p(x|z) is no finite number, whatever the weights are.

    Examples are an exact zero under a Dirichlet or a lognormal likelihood. The rows are scored by a model of its first
    weights, at z = 0, so that what training has done does not matter.

    Args:
        recipe: describes the model.
        dataset: has the recipe's modalities.
        latest: rows to look at first, such as those of the step that failed, int64 `(rows,)`.
        rows: further rows, int64 `(rows,)`; of more than 20,000, as many are looked at, evenly spread.

    Returns:
        A sentence about the first modality with such rows, and what to do; empty if there is none. A likelihood that
        refuses whatever it sees is at fault itself, and is not reported.
    """
    rows = torch.cat([latest, evenly(rows, _MOST_ROWS)])
    with torch.random.fork_rng(devices=[]):
        model = assemble(recipe).eval()
    for name in model.decoders:
        seen, bad = set[int](), dict[int, str]()
        for part, stored in present_parts(dataset, name, rows):
            wrong = _refused(model, name, stored)
            if bool(wrong.all()) and not seen:  # the first part is a few random rows: the likelihood is at fault itself
                break
            seen |= set(part.tolist())
            bad |= zip(part[wrong].tolist(), map(shown, stored[wrong]), strict=True)
        if bad:
            examples = [f"row '{dataset.key(row)}' ({value})" for row, value in bad.items()]
            return (
                f"No setting mends this: {dataset.path}: modality '{name}' (kind '{model.schemas[name].kind}'): the "
                f"likelihood refuses {len(bad):,} of {len(seen):,} rows: {listed(examples, _MOST_NAMED)}. Correct "
                f"these values or mark them absent, or change the kind so that it can hold them"
            )
    return ""


def _refused(model: MultimodalVAE, name: str, stored: Tensor) -> Tensor:
    """Return for which stored values log p(x|z = 0) is not finite or cannot be computed, bool `(rows,)`."""
    z = torch.zeros(len(stored), model.decoder_widths[name], dtype=model.dtype)
    try:
        return ~model.log_px(name, z, model.unpack(name, stored)).isfinite()
    except InputError:
        if len(stored) == 1:
            return torch.ones(1, dtype=torch.bool)
        return torch.cat([_refused(model, name, half) for half in stored.chunk(2)])
