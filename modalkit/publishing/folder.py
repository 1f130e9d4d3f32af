"""The exported folder: all that loading a trained model needs, without paths of the machine that trained it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

from modalkit.errors import InputError, RunError
from modalkit.inference import TrainedModel
from modalkit.publishing.card import card
from modalkit.recipe.loading import Recipe
from modalkit.recipe.yaml import dump
from modalkit.runs.folder import RunFolder
from modalkit.util.files import write_text
from modalkit.util.temporary import temporary_beside


def export(model: TrainedModel, out: Path, extra: Iterable[Callable[[Path], Path]] = ()) -> list[Path]:
    """Write a model into a new folder. If anything fails, there is no folder.

    Args:
        model: a model from a run folder.
        out: a folder that does not exist, or is empty.
        extra: functions that each write one more file into a given folder and return its path.

    Returns:
        The files. ``modalkit.load(out)`` needs ``recipe.yaml``, ``model.safetensors`` and the plugins.

    Raises:
        InputError: `out` is not empty.
        RunError: the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not overwritten; choose a new folder")
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(out.resolve()) as temporary:
            temporary.mkdir()
            folder = RunFolder(temporary)
            shutil.copyfile(RunFolder(model.path).weights, folder.exported)
            if model.sampler is not None:
                shutil.copyfile(RunFolder(model.path).sampler, folder.sampler)
            write_text(folder.recipe, _recipe(model.recipe, temporary))
            extras = [write(temporary) for write in extra]
            write_text(temporary / "README.md", card(model, [path.relative_to(temporary) for path in extras]))
            if out.exists():
                out.rmdir()
            temporary.rename(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    return sorted(path for path in out.rglob("*") if path.is_file())


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the Hugging Face Hub, and return its address.

    A repository that does not exist is created as a private one.

    Raises:
        InputError: the Hub's client is not installed.
        RunError: the upload failed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise InputError(
            f"--push needs the Hub's client: `pip install huggingface_hub`, log in with `hf auth login`, then "
            f"`hf upload {repository} {folder}`"
        ) from None
    try:
        client = huggingface_hub.HfApi()
        client.create_repo(repository, private=True, exist_ok=True)
        client.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="modalkit export")
    except Exception as error:  # the client raises errors of many libraries
        said = " ".join(str(error).split())[:300]
        raise RunError(
            f"{repository}: cannot be uploaded ({type(error).__name__}: {said}); {folder} is complete, and "
            f"`hf upload {repository} {folder}` tries again"
        ) from error
    return f"https://huggingface.co/{repository}"


def _recipe(recipe: Recipe, out: Path) -> str:
    """Return a recipe as YAML without absolute paths, and copy its plugin files into `out`."""
    copied: dict[str, str] = {}

    def beside(file: str) -> str:
        if file not in copied:
            taken = any(PurePath(other).name == PurePath(file).name for other in copied)
            name = PurePath("plugins", f"{len(copied)}_{PurePath(file).name}" if taken else PurePath(file).name)
            (out / "plugins").mkdir(exist_ok=True)
            shutil.copyfile(file, out / name)
            copied[file] = name.as_posix()
        return copied[file]

    whole = recipe.model_dump(mode="json", exclude={"extends"})
    whole["plugins"] = [beside(file) for file in whole["plugins"]]
    for entry in whole["modalities"].values():
        network = entry.get("network")
        if isinstance(network, dict) and network.get("type") == "custom":
            for part in ("encoder", "decoder"):
                file, colon, name = network[part].rpartition(":")
                if file.endswith(".py"):
                    network[part] = f"{beside(file)}{colon}{name}"
    whole["data"] = _names_only(whole["data"])
    return dump(whole)


def _names_only(value: Any) -> Any:
    """Replace absolute paths in settings by their last part, so that a recipe reveals nobody's home folder."""
    if isinstance(value, dict):
        return {key: _names_only(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_names_only(one) for one in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
