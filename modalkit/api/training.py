"""Training from Python, in memory or into a run folder."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalkit.api.recipes import AnyRecipe, overrides, read_recipe
from modalkit.api.sources import AnyData, Source, drafted
from modalkit.data import read_manifest
from modalkit.errors import InputError
from modalkit.inference import TrainedModel, load
from modalkit.recipe.loading import Recipe
from modalkit.runs.folder import RunFolder
from modalkit.runs.opened import load_saved
from modalkit.training.run import train as fit
from modalkit.util.files import is_empty, write_text
from modalkit.util.progress import bars
from modalkit.util.remote import refuse_url

if TYPE_CHECKING:
    from modalkit.training.trainer import Result

_log = logging.getLogger(__name__)

IN_MEMORY = Path("(in memory)")
"""The path of a model that was trained without a run folder."""
_LARGE = 64 << 20
"""Bytes of a dataset above which it is mapped, not read into memory."""


def train(
    recipe: AnyRecipe | None = None,
    data: AnyData | None = None,
    run: Path | str | None = None,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    set: Mapping[str, Any] | None = None,
    split: Sequence[str] | Mapping[str, float] | None = None,
    present: Mapping[str, Any] | None = None,
    id: str | None = None,
    layer: str | Mapping[str, str | None] | None = None,
    obs: Sequence[str] = (),
    progress: bool = True,
    trust: bool = False,
) -> TrainedModel:
    """Train a model and return it.

    Ctrl-C, or the stop button of a notebook, ends the training after the present step, and the model so far is
    returned. If `run` is given, the same call then continues where the training stopped.

    Args:
        recipe: what to train: a file, the name of a shipped recipe, a dict with the keys of such a file, a
            `modalkit.Recipe`, or a run folder. None: a recipe is drafted for `data`, as `modalkit init` does.
        data: what to train on: a table (pandas, polars or Arrow), a dict of tables, which `modalkit.join` joins, a dict
            with an array or a list for each modality, an iterable of dicts (one a row, None for what is absent), an
            `AnnData`, a `MuData`, a `modalkit.Dataset`, or the path of a dataset.
            None: what the recipe names.
        run: folder for all that a run has: recipe, metrics, weights, pictures, and the data if it was not a dataset.
            A folder with a run of the same recipe and data is resumed. None: nothing is kept on disk.
        epochs: replaces ``train.epochs``.
        seed: replaces the recipe's ``seed``.
        set: further values of the recipe to replace, such as ``{"train.batch_size": 32}``.
        split: of rows that are not a dataset yet: train, valid or test for each, or the fraction of each split. The
            default is a random 80, 10 and 10 %, always the same for as many rows.
        present: of a dict of arrays: bool `(rows,)` of each modality that some rows lack.
        id: the column of a table, or of every one of several tables, that names the rows; nothing is learned from it.
            None: several tables of pandas are joined by their indices.
        layer: the layer of an `AnnData` or of each modality of a `MuData` to learn from, or a dict of them by modality.
            None: their ``X``.
        obs: the columns of ``obs`` of an `AnnData` or a `MuData` that are modalities too.
        progress: whether to show progress bars.
        trust: whether code may run, and data may be fetched or built, that the recipe of a run folder names. Code that
            a recipe in Python names may always run, and Python files beside a recipe file.

    Returns:
        The model with its best weights; `TrainedModel.history` has the metrics of every epoch.

    Raises:
        InputError: the recipe, the data or the folder cannot be used; the message names the key, column or row.
        RunError: the loss became NaN, or the disk is full.

    Example:
        >>> import numpy as np, modalkit
        >>> rows = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
        >>> model = modalkit.train(
        ...     {"modalities": {"a": {"kind": "vector", "size": 1}, "b": {"kind": "vector", "size": 1}}},
        ...     data={"a": rows[:, :1], "b": rows[:, 1:]},
        ...     epochs=1,
        ...     progress=False,
        ... )
        >>> model.modalities, len(model.history)
        (('a', 'b'), 1)
    """
    changes = overrides(epochs, seed, set)
    if recipe is None and data is None:
        raise InputError("modalkit.train: give a recipe, data, or both")
    with bars(progress):
        if run is not None:
            refuse_url(run, "run")
            return _train(recipe, Source(data, split, present, id, layer, obs), Path(run), changes, trust=trust)
        with tempfile.TemporaryDirectory(prefix="modalkit-") as folder:
            # Loggers write files that nobody would see.
            model = _train(
                recipe,
                Source(data, split, present, id, layer, obs),
                Path(folder) / "training",
                ["train.loggers=[]", *changes],
                trust=trust,
            )
            _ = model.history  # reads it while the folder is there
        model.path = IN_MEMORY
        return model


def _train(recipe: AnyRecipe | None, source: Source, run: Path, changes: Sequence[str], *, trust: bool) -> TrainedModel:
    """Train into a run folder; see `train`."""
    if run.exists() and not run.is_dir():
        raise InputError(f"run: {run} is a file; name a folder")
    if run.is_dir() and not RunFolder(run).is_run() and not source.in_folder(run) and not is_empty(run):
        raise InputError(f"run: {run} is not empty and not a run; choose another folder")
    if recipe is None:
        path = source.write({}, run)
        resolved = drafted(path, changes)
    else:
        resolved = read_recipe(recipe, changes, has_data=source.given, trust=trust)
        if source.given:
            path = source.write(resolved.modalities, run)
            data = resolved.data.model_copy(update={"path": path, "build": ()})
            resolved = resolved.model_copy(update={"data": data})
    if source.rows and resolved.data.in_memory is None:
        # Rows are in memory already, as the caller has them: many are not read into memory again.
        large = sum(shard.bytes for shard in read_manifest(Path(resolved.data.path)).shards) > _LARGE
        data = resolved.data.model_copy(update={"in_memory": False if large else None})
        resolved = resolved.model_copy(update={"data": data})
    if source.in_folder(run) and not RunFolder(run).is_run():
        write_text(RunFolder(run).recipe, resolved.to_yaml())  # marks the folder as a run, which may hold data
    return _fitted(resolved, run)


def _fitted(recipe: Recipe, run: Path) -> TrainedModel:
    """Fit a recipe, and return the model even if the training was interrupted."""
    result: Result | None = None
    try:
        result = fit(recipe, run)
    except KeyboardInterrupt:
        if not RunFolder(run).state.is_file():
            raise
        _log.warning("interrupted; the model is that of the last saved step")
    if RunFolder(run).best.is_file():
        model = load(run, trust=True)  # its code and its data are in use already
    else:  # no epoch was finished
        saved = load_saved(run, trust=True)
        model = TrainedModel(saved.model, saved.recipe, saved.path, saved.weights, trusted=True)
    if result is not None and result.signal == signal.SIGTERM:
        signal.raise_signal(signal.SIGTERM)  # what is done is saved; the process was asked to end
    return model
