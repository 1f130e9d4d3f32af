"""Reads translations that training (``translations.json``) and `modalkit evaluate` (``evaluation.json``) saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modalkit.errors import InputError
from modalkit.evaluation.translation import Translation
from modalkit.evaluation.translation_text import among
from modalkit.runs.checkpoint import is_refit
from modalkit.runs.folder import RunFolder

SECTION = "translations"
"""The section of ``evaluation.json``; files from before it was measured do not have it."""
_KNOWN = {one.name for one in fields(Translation)}


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
    try:
        return as_translations(folder.read_json(folder.translations) or [])
    except (TypeError, AttributeError) as error:
        raise _damaged(folder.translations, error) from None


def read_evaluated(folder: RunFolder) -> Evaluated | None:
    """Return the translations that `modalkit evaluate` measured last; None if it measured none.

    Raises:
        InputError: ``evaluation.json`` is damaged.
    """
    try:
        if not (kept := (folder.read_json(folder.evaluation) or {}).get(SECTION)):
            return None
        return Evaluated(as_translations(kept["cells"]), dict(kept["settings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder.evaluation, error) from None


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


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read ({type(error).__name__}: {error}); delete it, or move it away")
