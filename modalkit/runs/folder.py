"""A run folder: whose it is, and what it ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import modalkit
from modalkit.errors import InputError
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.util.files import is_empty, remove_leftovers, write_json, write_text
from modalkit.util.text import listed

MAY_CHANGE = {
    "epochs",
    "max_steps",
    "patience",
    "accelerator",
    "devices",
    "compile",
    "checkpoint_every",
    "log_every",
    "loggers",
    "pictures_every",
}
"""Keys of ``train:`` that may change when a run goes on: how long, where, and how often to report."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of what a run folder holds; nobody else spells them out.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe; a folder that has it is a run."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions and the machine that it ran on."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """A line for each log step and each validation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the state and the weights."""
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        """All that resuming needs."""
        return self.checkpoints / "state.pt"

    @property
    def best(self) -> Path:
        """The weights with the best validation, which answer questions."""
        return self.checkpoints / "best.safetensors"

    @property
    def last(self) -> Path:
        """The weights after the last step."""
        return self.checkpoints / "last.safetensors"

    @property
    def exported(self) -> Path:
        """The weights of a model that was exported, in place of checkpoints."""
        return self.path / "model.safetensors"

    @property
    def pictures(self) -> Path:
        """The folder of the sheets."""
        return self.path / "pictures"

    @property
    def translations(self) -> Path:
        """How well each modality is predicted from each, on held-out rows."""
        return self.path / "translations.json"

    @property
    def evaluation(self) -> Path:
        """What `modalkit evaluate` measured."""
        return self.path / "evaluation.json"

    @property
    def passes(self) -> Path:
        """The folder of what an evaluation keeps to be resumed."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The page of `modalkit report`."""
        return self.path / "report.html"

    def is_run(self) -> bool:
        """Tell whether there is a run, trained or exported."""
        return self.recipe.is_file()


def check_claim(recipe: Recipe, run: Path) -> None:
    """Check that a run folder is this recipe's, or nobody's.

    Raises:
        InputError: it holds the saved state of another recipe's run, or files of something else.
    """
    path = run / "recipe.yaml"
    if not path.exists() and not is_empty(run):
        raise InputError(f"{run}: is not empty and not a run; choose another --out")
    for folder in (run, run / "checkpoints", run / "pictures"):
        remove_leftovers(folder)
    trained = path.exists() and any((run / "checkpoints").glob("*"))
    if trained and (changed := differences(_recipe_of(path), recipe)):
        raise InputError(
            f"{run}: holds a run of another recipe (it differs in {listed(changed)}); choose another --out, or "
            f"delete this folder"
        )


def claim(recipe: Recipe, run: Path) -> None:
    """Write into a run folder what it is a run of, and what it runs on."""
    write_text(run / "recipe.yaml", recipe.to_yaml())
    versions = {"modalkit": modalkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    write_json(run / "environment.json", versions | machine | {"command": sys.argv})


def _recipe_of(path: Path) -> Recipe:
    """Return the recipe that a run was begun with; what has been added to recipes since then has its default."""
    try:
        return load_recipe(path)
    except InputError as error:
        raise InputError(f"{path}: this run's recipe is damaged ({error}); choose another --out") from None


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, without what may change when a run goes on.

    The number of epochs may not where a learning rate is to fall over them.
    """
    fixed = {"epochs"} if {before.train.schedule, now.train.schedule} != {"constant"} else set()
    one, other = (dict(leaves(_comparable(recipe, MAY_CHANGE - fixed))) for recipe in (before, now))
    return [key for key in one | other if one.get(key) != other.get(key)]


def _comparable(recipe: Recipe, without: set[str]) -> dict[str, Any]:
    # How its data was built is no matter here: the trainer compares what is in it.
    whole = recipe.model_dump(mode="json", exclude={"extends": True, "description": True, "data": {"build"}})
    return whole | {"train": {key: value for key, value in whole["train"].items() if key not in without}}


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold, each with its dotted key.

    >>> list(leaves({"train": {"epochs": 3}, "seed": 0}))
    [('train.epochs', 3), ('seed', 0)]
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{at}.{key}" if at else str(key))
    else:
        yield at, value
