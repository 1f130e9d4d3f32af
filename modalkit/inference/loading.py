"""Loading a trained model from its folder."""

from __future__ import annotations

from pathlib import Path

from modalkit.inference.sampler import load_sampler
from modalkit.inference.trained import TrainedModel
from modalkit.runs.opened import load_model


def load(run: Path | str, *, device: str = "cpu", weights: str = "best", trust: bool = False) -> TrainedModel:
    """Load a trained model; this does not need its dataset, and contacts nobody.

    Args:
        run: a run folder, or a folder that `modalkit export` wrote.
        device: where to compute, such as ``cpu`` or ``cuda``.
        weights: ``"best"`` for the weights of the best epoch, or ``"last"`` for those after the last step.
        trust: whether the code may run that the recipe names: plugin files, and networks of its own. Code of a run that
            this user trained on this machine, or allowed before, may run while it does not change.

    Raises:
        InputError: the folder is not a run or has no such weights, the weights are damaged, the recipe names code that
            may not run, or the device is not available.
    """
    loaded = load_model(Path(run), device=device, weights=weights, trust=trust)
    sampler = load_sampler(loaded.folder.sampler, loaded.weights)
    if sampler is not None:
        sampler.to(loaded.model.device)
    return TrainedModel(loaded.model, loaded.recipe, loaded.path, loaded.weights, trusted=trust, sampler=sampler)
