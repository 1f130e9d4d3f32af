"""The folder: everything that loading a trained model needs, and nothing that says where it was trained."""

from __future__ import annotations

import os
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


def export(model: TrainedModel, out: Path, extra: Iterable[Callable[[Path], Path]] = ()) -> list[Path]:
    """Write a model into a new folder, whole or not at all.

    Args:
        model: from a run folder.
        out: a folder that is not there, or is empty.
        extra: each writes a further file into the folder that it is given, and returns it.

    Returns:
        The files, of which ``modalkit.load(out)`` needs ``recipe.yaml``, ``model.safetensors`` and the plugins.

    Raises:
        InputError: `out` holds something.
        RunError: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; nothing is overwritten, so choose a new folder")
    temporary = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        shutil.copyfile(RunFolder(model.path).weights, temporary / "model.safetensors")
        write_text(temporary / "recipe.yaml", _recipe(model.recipe, temporary))
        extras = [write(temporary) for write in extra]
        write_text(temporary / "README.md", card(model, [path.relative_to(temporary) for path in extras]))
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(path for path in out.rglob("*") if path.is_file())


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the Hugging Face Hub, made private if it is not there; return its address.

    Raises:
        InputError: the Hub's client is not installed.
        RunError: it cannot be uploaded.
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
    except Exception as error:  # the client and what it connects by raise errors of many libraries
        said = " ".join(str(error).split())[:300]
        raise RunError(
            f"{repository}: cannot be uploaded ({type(error).__name__}: {said}); {folder} is complete, and "
            f"`hf upload {repository} {folder}` tries again"
        ) from error
    return f"https://huggingface.co/{repository}"


def _recipe(recipe: Recipe, out: Path) -> str:
    """Return a recipe as YAML with plugin files beside it, which are copied to `out`, and no absolute path."""
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
    """Return settings with the last part of each absolute path in its place: a recipe says nobody's home folder."""
    if isinstance(value, dict):
        return {key: _names_only(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_names_only(one) for one in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
