"""Data in any form that Python has, written as a dataset that a recipe trains on."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from modalkit.api.annotated import write_annotated
from modalkit.api.frames import write_frame
from modalkit.api.rows import Arrays, as_arrays
from modalkit.data import Dataset, write_dataset
from modalkit.data.annotated import Annotated, Layer, is_annotated
from modalkit.data.frames import frame_of
from modalkit.data.joining import are_tables, is_table, join
from modalkit.errors import InputError
from modalkit.plugin import Schema
from modalkit.recipe.draft import draft
from modalkit.recipe.loading import Recipe, recipe_of
from modalkit.recipe.yaml import Place, parse
from modalkit.runs.folder import RunFolder
from modalkit.util.remote import is_url, location

AnyData: TypeAlias = Dataset | Path | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Any
"""A table, a mapping of tables or of arrays, an `AnnData` or a `MuData`, an iterable of mappings, a dataset, or the
path of one."""

_FOLDER, _NEW = "data", "data.new"


class Source:
    """The data of a training.

    Args:
        data: in any form; None: the recipe names it.
        split: see `modalkit.train`.
        present: see `modalkit.train`.
        id: see `modalkit.train`.
        layer: see `modalkit.train`.
        obs: see `modalkit.train`.

    Attributes:
        given: whether there is any.
        rows: whether it is rows that are not a dataset yet.

    Raises:
        InputError: an option is given for data of another form, such as `split` for a dataset, which has its own.
    """

    def __init__(
        self,
        data: AnyData | None,
        split: Sequence[str] | Mapping[str, float] | None,
        present: Mapping[str, Any] | None,
        id: str | None,
        layer: Layer,
        obs: Sequence[str],
    ) -> None:
        self.data, self.split, self.present, self.id, self.layer = data, split, present, id, layer
        self.obs = [obs] if isinstance(obs, str) else list(obs)
        self.given = data is not None
        self.rows = self.given and not isinstance(data, (Dataset, Path, str))
        for name, value in (("split", split), ("present", present)):
            if value is not None and not self.rows:
                raise InputError(f"{name}: is for arrays and tables; a dataset has its own")
        of_cells, of_tables = is_annotated(data), are_tables(data) or is_table(data)
        for name, value, fits, what in (
            ("layer", layer, of_cells, "AnnData and MuData"),
            ("obs", self.obs or None, of_cells, "AnnData and MuData"),
            ("id", id, of_tables, "tables"),
        ):
            if value is not None and not fits:
                raise InputError(f"{name}: is for {what}; data is a {type(data).__name__}")
        if present is not None and (of_cells or of_tables):
            raise InputError("present: is for arrays; what tables and matrices lack, such as missing cells, is absent")

    def in_folder(self, run: Path) -> bool:
        """Tell whether a run folder holds the rows of this source, or did so before it was interrupted."""
        return self.rows and any((run / name).is_dir() for name in (_FOLDER, _NEW))

    def write(self, schemas: Mapping[str, Schema], run: Path) -> Path | str:
        """Return the dataset's folder or URL. Rows are written into the run folder first.

        Args:
            schemas: the recipe's modalities; without any they are inferred from the data.
            run: the run folder.

        Raises:
            InputError: the data cannot be used, or the folder holds a run on other data.
        """
        if isinstance(self.data, Dataset):
            return self.data.path
        if isinstance(self.data, (Path, str)):
            if (file := Path(self.data)).is_file():
                raise InputError(f"data: {file} is a file; give what it holds, such as pandas.read_csv('{file}')")
            return location(self.data)
        new, kept = run / _NEW, run / _FOLDER
        shutil.rmtree(new, ignore_errors=True)
        try:
            self._write(schemas, new)
            return _replaced(new, kept, run)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, schemas: Mapping[str, Schema], out: Path) -> None:
        data: Any = self.data
        if is_annotated(data):
            write_annotated(Annotated(data, self.layer), schemas, out, self.split, self.obs)
            return
        several = are_tables(data)
        joined = several or self.id is not None
        table = join(data if several else {"data": data}, self.id) if joined else data
        if (frame := frame_of(table)) is not None:
            write_frame(frame, schemas, out, self.split, (self.id,) if joined else None)
            return
        made: Arrays = as_arrays(self.data, schemas, self.present or {})
        write_dataset(out, made.schemas, made.values, present=made.present, split=self.split, shard_rows=10_000)


def _replaced(new: Path, kept: Path, run: Path) -> Path:
    """Put a new dataset in the place of the one that a run folder holds, unless both are the same."""
    if kept.is_dir():
        if (kept / "manifest.json").is_file() and filecmp.cmp(new / "manifest.json", kept / "manifest.json", False):
            return kept
        if any(RunFolder(run).checkpoints.glob("*")):
            raise InputError(f"run: {run} holds a run on other data; choose another folder, or delete this one")
        shutil.rmtree(kept)
    new.rename(kept)
    return kept


def drafted(path: Path | str, changes: Sequence[str], covariates: Sequence[str] = ()) -> Recipe:
    """Return the recipe that `modalkit init` drafts for a dataset.

    Args:
        path: of the dataset.
        changes: to the draft, as ``--set`` takes them.
        covariates: the modalities that are conditions, which are not explained.

    Raises:
        InputError: there is no dataset, or nothing in it to train on.
    """
    if is_url(path):
        raise InputError(f"data: {path} is at a URL, for which no recipe is drafted; give a recipe")
    return recipe_of(parse(draft(Path(path), covariates=covariates), Place("recipe drafted for the data")), changes)
