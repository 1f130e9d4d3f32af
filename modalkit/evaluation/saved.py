"""Reads translations that training (``translations.json``) and `modalkit evaluate` (``evaluation.json``) saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from modalkit.errors import InputError
from modalkit.evaluation.measures import ACCURACY, RMSE
from modalkit.evaluation.translation import Translation
from modalkit.evaluation.translation_text import among
from modalkit.runs.checkpoint import is_refit
from modalkit.runs.folder import RunFolder
from modalkit.util.json_files import first_problem

SECTION = "translations"
"""The section of ``evaluation.json``; files from before it was measured do not have it."""
_KNOWN = {one.name for one in fields(Translation)}
_CELLS = TypeAdapter(list[Translation])


@dataclass(frozen=True)
class Evaluated:
    """The translations that `modalkit evaluate` measured.

    Attributes:
        results: one for each cell.
        settings: ``split``, ``rows``, ``seed``, ``data`` (the dataset) and ``weights`` (SHA-256 of their file).
    """

    results: Sequence[Translation]
    settings: Mapping[str, Any]

    @property
    def rows(self) -> str:
        """On which rows they were measured, in words."""
        data = Path(str(self.settings.get("data", ""))).name
        return f"{among(map(vars, self.results), self.settings.get('split', ''))}, of {data}"


def as_translations(cells: Iterable[Mapping[str, Any]]) -> list[Translation]:
    """Return saved cells; fields that older runs lack have their defaults, and unknown ones are left out."""
    return [Translation(**{key: value for key, value in one.items() if key in _KNOWN}) for one in cells]


def read_translations(folder: RunFolder) -> list[Translation]:
    """Return what training measured at its end; nothing if the run has not ended.

    Raises:
        InputError: ``translations.json`` is damaged.
    """
    found = folder.read_json(folder.translations)
    return [] if found is None else _checked(found, folder.translations)


def read_evaluated(folder: RunFolder) -> Evaluated | None:
    """Return the translations that `modalkit evaluate` measured last; None if it measured none.

    Raises:
        InputError: ``evaluation.json`` is damaged.
    """
    found, path = folder.read_json(folder.evaluation), folder.evaluation
    if found is None:
        return None
    if not isinstance(found, dict):
        raise _damaged(path, "should be an object")
    if not (kept := found.get(SECTION)):
        return None
    if not isinstance(kept, dict) or not isinstance(kept.get("settings"), dict):
        raise _damaged(path, f"{SECTION}.settings: should be an object")
    if not isinstance(kept["settings"].get("split", ""), str):
        raise _damaged(path, f"{SECTION}.settings.split: should be a text")
    return Evaluated(_checked(kept.get("cells"), path), dict(kept["settings"]))


def read_errors(folder: RunFolder) -> tuple[list[Translation], str]:
    """Return the errors of a run's best weights on held-out rows, and in words on which rows; nothing if unknown.

    They are those of ``translations.json``. For a run that ended before training measured errors, they are those of
    ``evaluation.json``, if these were measured with the best weights on rows that were not trained on.

    Raises:
        InputError: a file is damaged.
    """
    saved = [one for one in read_translations(folder) if one.value is not None]
    if saved:
        return saved, among(map(vars, saved), "held-out")
    found = read_evaluated(folder)
    trained_on = ("train", "valid") if is_refit(folder.weights) else ("train",)
    if found is None or found.settings.get("split") in trained_on:
        return [], ""
    if found.settings.get("weights") != _digest(folder.weights):
        return [], ""
    return [one for one in found.results if one.value is not None], found.rows


def as_section(results: Iterable[Translation], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of ``evaluation.json``."""
    return {"cells": [vars(one) for one in results], "settings": dict(settings)}


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(cells: Any, path: Path) -> list[Translation]:
    """Return the saved cells of a file; fields that older runs lack have their defaults, unknown ones are left out.

    Raises:
        InputError: it holds something else; the message names the cell and the field.
    """
    try:
        found = _CELLS.validate_python(cells)
    except ValidationError as error:
        raise _damaged(path, first_problem(error)) from None
    for number, one in enumerate(found):
        if one.rows < 0:
            raise _damaged(path, f"{number}.rows: cannot be below 0")
        if one.measure not in ("", RMSE, ACCURACY):
            raise _damaged(path, f"{number}.measure: should be {RMSE}, {ACCURACY} or empty")
    return found


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read ({why}); delete it, or move it away")
