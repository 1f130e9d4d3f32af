"""A run folder: the paths of its files, the recipe that it belongs to, and the machine that it ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import modalkit
from modalkit.errors import InputError
from modalkit.recipe.loading import Recipe, allow_again, load_recipe
from modalkit.recipe.trust import NotTrustedError, Trust, names
from modalkit.recipe.yaml import flow
from modalkit.util.files import is_empty, remove_leftovers, write_json, write_text
from modalkit.util.json_files import read_json
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
"""Keys of ``train:`` that may change when a run is resumed: how long, where, and how often to report."""

WEIGHTS = ("best", "last")
"""The weights that a run keeps: of the best epoch or the refit, and after the last step of the first fit."""


_MOST_STATED = 3
"""Most keys of which a message says how a run has them."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder and the paths of its files; no other code spells them out.

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
    def refit_state(self) -> Path:
        """All that resuming the refit needs, the second fit of ``train.refit``."""
        return self.checkpoints / "refit.pt"

    @property
    def best(self) -> Path:
        """The weights that answer questions: those with the best validation, or those of the refit once it is done."""
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
    def sampler(self) -> Path:
        """The sampler of z that `modalkit fit-sampler` fitted to the weights that answer questions."""
        return self.path / "sampler.safetensors"

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

    @property
    def weights(self) -> Path:
        """The weights that answer questions: those of an exported model, or the best of a run."""
        return self.exported if self.exported.is_file() else self.best

    def weights_of(self, which: str) -> Path:
        """Return the file of some weights.

        Args:
            which: ``"best"`` or ``"last"``; of an exported model only ``"best"``.

        Raises:
            InputError: there is no such choice, or the last weights do not exist.
        """
        if which not in WEIGHTS:
            raise InputError(f"weights '{which}': choose best or last")
        if which == "best":
            return self.weights
        if not self.last.is_file():
            why = "an exported model has none" if self.exported.is_file() else "they are written when training ends"
            raise InputError(f"{self.path}: there are no last weights: {why}; use --weights best")
        return self.last

    def is_run(self) -> bool:
        """Tell whether there is a run, trained or exported."""
        return self.recipe.is_file()

    @staticmethod
    def is_of_run(recipe: Path) -> bool:
        """Tell whether a recipe's file is that of a run, trained or exported: it has weights or a state beside it."""
        folder = RunFolder(recipe.parent)
        return recipe.name == folder.recipe.name and (folder.exported.is_file() or folder.checkpoints.is_dir())

    def read_recipe(self, *, trust: bool | Trust = False) -> Recipe:
        """Return the recipe of the run; keys that recipes have gained since then have their defaults.

        Args:
            trust: see `modalkit.recipe.load_recipe`.

        Raises:
            InputError: there is no run, its recipe is damaged, or it names code that may not run.
        """
        if not self.is_run():
            raise self._no_run()
        return load_recipe(self.recipe, trust=trust)

    def read_json(self, path: Path) -> Any:
        """Return the content of one of the folder's JSON files, or None if it does not exist.

        Raises:
            InputError: it is damaged.
        """
        return read_json(path) if path.exists() else None

    def _no_run(self) -> InputError:
        what = "is not a run (no recipe.yaml)" if self.path.is_dir() else "is not a run: there is no such folder"
        if (self.path / "manifest.json").is_file():
            what += "; it is a dataset"
        return InputError(
            f"{self.path}: {what}; runs are in runs/ unless `modalkit train RECIPE` was given another --out"
        )


def check_claim(recipe: Recipe, folder: RunFolder) -> None:
    """Check that a run folder belongs to this recipe or is new, and delete what a killed process left unfinished.

    Raises:
        InputError: it holds the saved state of another recipe's run, or other files.
    """
    if not folder.is_run() and not is_empty(folder.path):
        raise InputError(f"{folder.path}: is not empty and not a run; choose another --out")
    remove_leftovers(folder.path, folder.checkpoints, folder.pictures)
    trained = folder.is_run() and any(folder.checkpoints.glob("*"))
    if trained and (changed := differences(before := _recipe_of(folder, recipe), recipe)):
        if changed == ["train.epochs"]:
            raise InputError(
                f"{folder.path}: train.epochs cannot change when this run is resumed, because a schedule of it "
                f"(train.schedule or train.beta_schedule) is spread over the epochs; choose another --out"
            )
        raise InputError(
            f"{folder.path}: holds a run of another recipe (it differs in {listed(changed)}); "
            f"{_as_before(changed, before, recipe)}choose another --out, or delete this folder"
        )


def claim(recipe: Recipe, folder: RunFolder) -> None:
    """Write into a run folder the recipe that it belongs to, and the versions and machine that it runs on.

    This process was allowed to run the recipe's code and to contact its URL, so the user's record allows both from now
    on.
    """
    import torch  # not above, because paths of runs are found before it is needed

    write_text(folder.recipe, recipe.to_yaml())
    allow_again(folder.recipe)
    versions = {"modalkit": modalkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    write_json(folder.environment, versions | machine | {"command": sys.argv})


def _recipe_of(folder: RunFolder, now: Recipe) -> Recipe:
    """Return the recipe of a run; it may name no code but what the recipe in memory has loaded."""
    try:
        return folder.read_recipe(trust=Trust(code=names(now)))
    except NotTrustedError as error:
        raise InputError(
            f"{folder.path}: holds a run of another recipe, which names other code ({error}); choose another --out, or "
            f"delete this folder"
        ) from None
    except InputError as error:
        raise InputError(f"{folder.recipe}: this run's recipe is damaged ({error}); choose another --out") from None


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, without those that may change when a run is resumed.

    The number of epochs may not change if a schedule depends on it. A refit may be switched on, but not off, because it
    has replaced the best weights.
    """
    fixed = {"epochs"} if before.train.depends_on_epochs or now.train.depends_on_epochs else set()
    free = MAY_CHANGE - fixed | ({"refit"} if now.train.refit else set())
    one, other = (dict(leaves(_comparable(recipe, free))) for recipe in (before, now))
    return [key for key in one | other if one.get(key) != other.get(key)]


def _as_before(changed: Sequence[str], before: Recipe, now: Recipe) -> str:
    """Return what a recipe must state to continue a run that differs from it only in defaults.

    Args:
        changed: the dotted keys in which the recipes differ.
        before: the recipe of the run.
        now: the recipe that is given.
    """
    values = dict(leaves(before.model_dump(mode="json")))
    if len(changed) > _MOST_STATED or not all(key in values and not _states(now, key) for key in changed):
        return ""
    lines = []
    for key in changed:
        top, *rest = key.split(".")
        value = values[key]
        for part in reversed(rest):
            value = {part: value}
        lines.append(f"`{top}: {flow(value)}`")
    return (
        f"this recipe does not state {'it' if len(changed) == 1 else 'them'}, and its default is not what the run was "
        f"trained with; to continue the run, write {' and '.join(lines)}; otherwise "
    )


def _states(recipe: Recipe, key: str) -> bool:
    """Tell whether a recipe states the value of a dotted key, so that it is not a default."""
    inside: Any = recipe
    for part in key.split("."):
        if isinstance(inside, Mapping):
            inside = inside.get(part)
        elif isinstance(inside, BaseModel) and part in inside.model_fields_set:
            inside = getattr(inside, part)
        else:
            return False
    return True


def _comparable(recipe: Recipe, without: set[str]) -> dict[str, Any]:
    # How the dataset was built does not matter here: the trainer compares its content.
    whole = recipe.model_dump(mode="json", exclude={"extends": True, "description": True, "data": {"build"}})
    return whole | {"train": {key: value for key, value in whole["train"].items() if key not in without}}


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings, each with its dotted key.

    >>> list(leaves({"train": {"epochs": 3}, "seed": 0}))
    [('train.epochs', 3), ('seed', 0)]
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{at}.{key}" if at else str(key))
    else:
        yield at, value
