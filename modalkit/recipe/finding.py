"""Finding a recipe's file: by its path, or by the name of a recipe that ships with modalkit."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from modalkit.errors import InputError, did_you_mean
from modalkit.recipe.yaml import read

_TABLES = (".csv", ".tsv", ".parquet", ".pq")


def find(reference: str, folder: Path) -> Path:
    """Return the recipe file that a path relative to `folder`, or the name of a shipped recipe, stands for.

    Raises:
        InputError: there is no such recipe; the message names what is there instead, or the nearest name.
    """
    path, known = folder / reference, _shipped_files()
    try:
        if path.is_file():
            if path.suffix.lower() in _TABLES:
                raise InputError(
                    f"{path}: is a table, not a recipe; `modalkit build-dataset table {path} --out data/{path.stem}` "
                    f"makes a dataset of it, and `modalkit init data/{path.stem} > {path.stem}.yaml` a recipe for that"
                )
            return path
    except OSError as error:
        raise InputError(f"{str(path)[:80]}…: no such recipe: {error.strerror}") from None
    if reference in known:
        return known[reference]
    if (path / "manifest.json").is_file():
        raise InputError(f"{path}: is a dataset, not a recipe; `modalkit init {path} > {path.name}.yaml` makes one")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, neither a recipe nor a run (which holds recipe.yaml)")
    beside = [p.parent.name if p.name == "recipe.yaml" else p.name for p in _recipes_in(path.parent)]
    near = did_you_mean(path.name, beside) or did_you_mean(Path(reference).stem, known)
    raise InputError(
        f"{path}: no such recipe, nor a run's folder{near}; `modalkit list recipes` shows the {len(known)} that ship"
    )


def _recipes_in(folder: Path) -> list[Path]:
    """Return the files in a folder that may be recipes, and the recipes of the runs there."""
    return [*folder.glob("*.y*ml"), *folder.glob("*/recipe.yaml")] if folder.is_dir() else []


def _shipped_files() -> dict[str, Path]:
    spec = importlib.util.find_spec("modalkit_recipes")
    folders = spec.submodule_search_locations if spec else None
    return {path.stem: path for folder in folders or () for path in sorted(Path(folder).glob("*.yaml"))}


def shipped() -> dict[str, tuple[Path, str]]:
    """Return the recipes that ship with modalkit: by name, the file and the first line of the description."""
    return {
        n: (p, (str(read(p).value.get("description") or "").splitlines() or [""])[0])
        for n, p in _shipped_files().items()
    }
