"""Which columns of a table make which modality: read from YAML or from a dataset, and resolved against the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Cells, Settings, as_tuple
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import Document
from modalkit.registry import modality

from .cells import Table, TableColumn
from .entries import check_name, listed, read_yaml
from .kinds import Proposals, columns_of


class Group(Settings):
    """One modality: its columns, its kind, and fields of that kind's schema, such as `names`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    columns: Annotated[
        tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else as_tuple(given))
    ] = Field(min_length=1, description="Names of columns; * matches any letters, ? matches one.")
    kind: str | None = Field(None, description="Its kind (`modalkit list kinds`); null: inferred from the columns.")
    written: tuple[int | tuple[str, str] | None, ...] | None = Field(
        None,
        description="How each column's cells are written when gaps are filled: numbers with at most so many decimals, "
        "bits with these two words for 0 and 1; null: as in the table.",
    )

    @property
    def own(self) -> dict[str, Any]:
        """The fields of the kind's schema that are given."""
        return dict(self.model_extra or {})


class Grouping(Settings):
    """What each of a table's columns is."""

    ids: str | None = Field(None, description="Column whose cells name the rows; null: rows are numbered from 1.")
    split: str | None = Field(None, description="Column of train, valid and test; null: splits are chosen at random.")
    modalities: dict[
        str, Annotated[Group, BeforeValidator(lambda g: {"columns": g} if isinstance(g, (str, list, tuple)) else g)]
    ] = Field(min_length=1, description="For each modality its columns, or a mapping with `columns` and `kind`.")


def read_grouping(path: Path) -> Grouping:
    """Read a grouping from a YAML file, or from a dataset that `build-dataset table` made.

    A dataset also gives the categories, the means and scales of standardised numbers, and which numbers are whole.

    Raises:
        InputError: it cannot be read, or is wrong; the message names the line.
    """
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest.builder.get("name") != "table":
            raise InputError(f"{path}: was not built from a table; give a YAML file or a dataset that was")
        grouping = Grouping.model_validate(manifest.builder["columns"])
        known = {n: _known(m.facts) for n, m in manifest.modalities.items()}
        return grouping.model_copy(
            update={
                "modalities": {
                    n: Group.model_validate(g.model_dump() | known.get(n, {})) for n, g in grouping.modalities.items()
                }
            }
        )
    document = read_yaml(path)
    if not document.problems:
        _validated(document)
    if document.problems:
        raise InputError("\n".join(map(str, document.problems)))
    return Grouping.model_validate(document.value)


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataset says of numbers: how they are standardised, and whether all of them are whole."""
    known = {"standardize": facts["standardize"]} if facts.get("standardize") else {}
    if "whole" in modality(str(facts["kind"])).schema.model_fields:
        known["whole"] = bool(facts.get("whole"))  # not by the new rows, which may be few
    return known


def _validated(document: Document) -> None:
    """Note in a document what is wrong with it as a grouping."""
    try:
        for name in Grouping.model_validate(document.value or {}).modalities:
            check_name(document, ("modalities", name), name)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            near = did_you_mean(str(detail["loc"][-1]), Grouping.model_fields) if detail["loc"] else ""
            document.blame(detail["loc"], f"{detail['msg']}{near if 'extra' in detail['type'] else ''}")


def declared(grouping: Grouping, columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return by column the words that the grouping declares as values, in ``names``, even if they mean an empty cell.

    Args:
        grouping: its columns may be patterns.
        columns: those of the table.
    """
    found: dict[str, tuple[str, ...]] = {}
    for group in grouping.modalities.values():
        names = group.own.get("names")
        if isinstance(names, (list, tuple)) and (group.kind is None or columns_of(group.kind).cells is Cells.TEXTS):
            words = tuple(map(str, names))
            found |= {name: words for name in columns if any(fnmatchcase(name, p) or name == p for p in group.columns)}
    return found


def resolve(grouping: Grouping, table: Table, *, absent: bool = False) -> Grouping:
    """Return a grouping with every pattern replaced by the columns that it matches, and every missing kind inferred.

    Args:
        grouping: as the user wrote it.
        table: the table.
        absent: accept columns that the table does not have: their cells are empty.

    Raises:
        InputError: a column does not exist, is in two modalities, or has a type that cannot be used.
    """
    known, taken, modalities = list(table.columns), dict[str, str](), {}
    proposals = Proposals.installed()
    for key in ("ids", "split"):
        if (name := getattr(grouping, key)) is not None and name not in known and not absent:
            raise InputError(f"{table.path}: {key}: there is no column '{name}'{did_you_mean(name, known)}")
    for name, group in grouping.modalities.items():
        columns = []
        for pattern in group.columns:
            found = [pattern] if pattern in known else [c for c in known if fnmatchcase(c, pattern)]
            if not found and not absent:
                near = did_you_mean(pattern, known) or f"; it has {listed(known)}"
                raise InputError(f"{table.path}: modality '{name}': there is no column '{pattern}'{near}")
            columns += found or [pattern]
        for column in columns:
            if column in taken:
                raise InputError(f"modality '{name}': the column '{column}' is in '{taken[column]}' already")
            taken[column] = name
            if column in known and (kind := table.columns[column].unreadable):
                raise InputError(
                    f"{table.path}: column '{column}' holds values of type {kind}, which cannot be used; convert "
                    f"them to numbers or texts, or leave it out"
                )
        there = [table.columns[column] for column in columns if column in known]
        kind = group.kind or kind_of(table, there, proposals)
        modalities[name] = group.model_copy(update={"columns": tuple(columns), "kind": kind})
    return grouping.model_copy(update={"modalities": modalities})


def apart(grouping: Grouping, names: Iterable[str]) -> Grouping:
    """Return a grouping in which each column of some modalities is a modality of its own."""
    modalities: dict[str, Group] = {}
    chosen = set(names)
    for name, group in grouping.modalities.items():
        if name not in chosen:
            modalities[free_name(name, modalities)] = group
            continue
        kind = columns_of(str(group.kind)).alone or group.kind
        for column in group.columns:
            modalities[free_name(column, modalities)] = Group(columns=(column,), kind=kind)
    return grouping.model_copy(update={"modalities": modalities})


def kind_of(table: Table, columns: Sequence[TableColumn], proposals: Proposals) -> str:
    """Return the kind that columns look like.

    Raises:
        InputError: a column mixes numbers with a few other cells, whose first the message names; or no kind fits.
    """
    columns = [column.plain for column in columns]
    for column in columns:
        _refuse_mixed(table, column)
    if (kind := proposals.for_columns(columns)) is None:
        names = listed([column.name for column in columns])
        raise InputError(f"{table.path}: no installed kind proposes itself for {names}; give its `kind`")
    return kind


def _refuse_mixed(table: Table, column: TableColumn) -> None:
    words = [i for i, n in enumerate(column.numbers) if n != n and column.texts[i]]
    numbers = int((~column.empty).sum()) - len(words)
    if words and numbers > len(words):
        raise InputError(
            f"{table.path}: column '{column.name}' holds {numbers} numbers, and {len(words)} cells that are not; the "
            f"first: '{column.texts[words[0]]}' in {table.at(words[0])}. Correct them, or if they mean an empty cell "
            f"add --missing '{column.texts[words[0]]}'"
        )


def free_name(title: str, taken: Iterable[str]) -> str:
    """Return a name that recipes allow for a modality, close to a column's title and not taken yet."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")
    name = name if name[:1].isalpha() else f"column_{name}".rstrip("_")
    try:
        modality_name(name)
    except ValueError:
        name = f"{name}_"
    known = set(taken)
    return name if name not in known else next(n for i in range(2, len(known) + 3) if (n := f"{name}_{i}") not in known)
