"""Which columns of a table make which modality: read from YAML, or inferred and shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Settings, as_tuple
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import Document, flow

from .cells import Column, Table
from .common import listed, read_yaml

_log = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid"}
SPLITS |= {"dev": "valid", "test": "test", "testing": "test"}
"""What a split column may hold, and what it means."""
NUMERIC = ("vector", "counts")
YES, NO = {"1", "true", "yes", "t", "y"}, {"0", "false", "no", "f", "n"}

_MOST_CLASSES = 50
_IDS = re.compile(r"(.*[_ -])?(id|ids|key|uuid|index|row)|", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)([_.\- ]?)[0-9]+")
_LOST = 0.2
"""Columns of one prefix stay apart if keeping them together would leave more than this part of their cells unused."""


class Group(Settings):
    """One modality: its columns, its kind, and that kind's own keys, such as `names`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    columns: Annotated[
        tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else as_tuple(given))
    ] = Field(min_length=1, description="Names of columns; * and ? stand for any letters.")
    kind: str | None = Field(None, description="vector, counts, label, bit, attributes, tokens, …; null: inferred.")
    written: tuple[int | tuple[str, str] | None, ...] | None = Field(
        None,
        description="How each column writes what it holds: numbers with at most so many decimals, bits with these two "
        "words for 0 and 1; null: as the table does.",
    )

    @property
    def own(self) -> dict[str, Any]:
        """What is said of the kind's own keys."""
        return dict(self.model_extra or {})


class Grouping(Settings):
    """What a table's columns are."""

    ids: str | None = Field(None, description="Column whose cells name the rows; null: they are numbered from 1.")
    split: str | None = Field(None, description="Column of train, valid and test; null: drawn.")
    modalities: dict[
        str, Annotated[Group, BeforeValidator(lambda g: {"columns": g} if isinstance(g, (str, list, tuple)) else g)]
    ] = Field(min_length=1, description="Per modality its columns, or a mapping with `columns` and `kind`.")


def read_grouping(path: Path) -> Grouping:
    """Read a grouping from a YAML file, or from a dataset that `build-dataset table` made.

    From a dataset come also the categories and what its numbers are standardised by.

    Raises:
        InputError: it cannot be read, or is wrong; names the line.
    """
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest.builder.get("name") != "table":
            raise InputError(f"{path}: was not built from a table; give a YAML file, or a dataset that was")
        grouping = Grouping.model_validate(manifest.builder["columns"])
        known = {n: m.facts["standardize"] for n, m in manifest.modalities.items() if m.facts.get("standardize")}
        return grouping.model_copy(
            update={
                "modalities": {
                    n: Group.model_validate(g.model_dump() | ({"standardize": known[n]} if n in known else {}))
                    for n, g in grouping.modalities.items()
                }
            }
        )
    document = read_yaml(path)
    if not document.problems:
        _validated(document)
    if document.problems:
        raise InputError("\n".join(map(str, document.problems)))
    return Grouping.model_validate(document.value)


def _validated(document: Document) -> None:
    """Note in a document what is wrong with it as a grouping."""
    try:
        for name in Grouping.model_validate(document.value or {}).modalities:
            try:
                modality_name(name)
            except ValueError as error:
                document.blame(("modalities", name), str(error))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            near = did_you_mean(str(detail["loc"][-1]), Grouping.model_fields) if detail["loc"] else ""
            document.blame(detail["loc"], f"{detail['msg']}{near if 'extra' in detail['type'] else ''}")


def resolve(grouping: Grouping, table: Table, *, absent: bool = False) -> Grouping:
    """Return a grouping with every pattern replaced by the columns that it matches, and every kind inferred.

    Args:
        grouping: as a person wrote it.
        table: the columns that there are.
        absent: accept columns that the table has not: that modality is absent.

    Raises:
        InputError: no such column, one in two modalities, or one whose type cannot be used.
    """
    known, taken, modalities = list(table.columns), dict[str, str](), {}
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
                    f"{table.path}: column '{column}' holds values of type {kind}, which cannot be used; make numbers "
                    f"or texts of them, or leave it out"
                )
        there = [table.columns[column] for column in columns if column in known]
        kind = group.kind or _kind(table, there)
        modalities[name] = group.model_copy(update={"columns": tuple(columns), "kind": kind})
    return grouping.model_copy(update={"modalities": modalities})


def apart(grouping: Grouping, names: Iterable[str]) -> Grouping:
    """Return a grouping in which each column of some modalities is a modality of its own."""
    modalities: dict[str, Group] = {}
    chosen = set(names)
    for name, group in grouping.modalities.items():
        if name not in chosen:
            modalities[_free(name, modalities)] = group
            continue
        kind = "bit" if group.kind == "attributes" else group.kind
        for column in group.columns:
            modalities[_free(column, modalities)] = Group(columns=(column,), kind=kind)
    return grouping.model_copy(update={"modalities": modalities})


def infer(table: Table, ids: str | None = None, split: str | None = None) -> tuple[Grouping, dict[str, str]]:
    """Guess what a table's columns are, from their types, distinct values and numbered names.

    Yes-or-no columns are bits, other texts of few values labels, whole numbers that begin at 0 counts, other numbers
    vectors; columns `blood_1`, `blood_2`, … of one kind make one modality. A person has to look at it.

    Args:
        table: what to guess from.
        ids: the column that names the rows, if it is known.
        split: the column of train, valid and test, if it is known.

    Returns:
        The grouping, and per column that is left out the reason.
    """
    if table.rows == 1:
        raise InputError(f"{table.path}: has one row below its header, which is too few: a model is learned from many")
    first = next(iter(table.columns.values()))
    named = [c for c in table.columns.values() if _IDS.fullmatch(c.name)] + ([] if first.numeric else [first])
    ids = ids or next((c.name for c in named if _tells_rows_apart(c)), None)
    split = split or next((c.name for c in table.columns.values() if _names_splits(c)), None)
    kinds, left = {}, {}
    for column in table.columns.values():
        if column.name in (ids, split):
            continue
        if reason := _useless(column):
            left[column.name] = reason
        else:
            kinds[column.name] = _kind(table, [column])
    groups: dict[tuple[str, str], list[str]] = {}
    for name, kind in kinds.items():
        match = _NUMBERED.fullmatch(name)
        # Counts that happen to have no zero in one column are counts all the same.
        family = "numbers" if kind in NUMERIC else kind
        prefix = match[1] if match and kind != "label" and match[1] else None
        groups.setdefault((prefix, family) if prefix else (name, ""), []).append(name)
    modalities: dict[str, Group] = {}
    for (prefix, _), names in groups.items():
        columns = [table.columns[name] for name in names]
        for part in [columns] if len(names) == 1 or _kept(columns) else [[column] for column in columns]:
            kind = _kind(table, part)
            title = prefix if len(part) == len(names) else part[0].name
            modalities[_free(title, modalities)] = Group(columns=tuple(c.name for c in part), kind=kind)
    if not modalities:
        reasons = {name: why for name, why in ((ids, "names the rows"), (split, "says the splits")) if name} | left
        single = "; it is the only one: cells are separated by commas, semicolons or tabs, and line 1 is the header"
        raise InputError(
            f"{table.path}: no column can be used: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}"
            f"{single if len(table.columns) == 1 else ''}"
        )
    return Grouping(ids=ids, split=split, modalities=modalities), left


def shown(grouping: Grouping, table: Table, left: Mapping[str, str]) -> str:
    """Return an inferred grouping as YAML for a person to read and edit, with what each modality holds."""
    import numpy as np

    lines = [f"# Inferred from {table.path}: {table.rows} rows, {len(table.columns)} columns"]
    lines += [f"{key}: {flow(name)}" for key in ("ids", "split") if (name := getattr(grouping, key)) is not None]
    lines.append("modalities:")
    for name, group in grouping.modalities.items():
        whole = ~np.any([table.columns[column].empty for column in group.columns], axis=0)
        pattern = _pattern(group.columns, table)
        many = f"{len(group.columns)} columns, " if len(group.columns) > 1 else ""
        columns = flow(pattern or (group.columns if len(group.columns) > 1 else group.columns[0]))
        lines.append(
            f"  {name}: {{kind: {group.kind}, columns: {columns}}}  # {many}in {100 * whole.mean():.0f} % of rows"
        )
    lines += ["# Left out:", *(f"#   {name}: {why}" for name, why in left.items())] if left else []
    return "\n".join(lines) + "\n"


def _kind(table: Table, columns: Sequence[Column]) -> str:
    """Return the kind that columns look like; raise `InputError` if one is of mixed types, naming the row."""
    for column in columns:
        _refuse_mixed(table, column)
    distinct = set().union(*(column.distinct for column in columns))
    if {text.casefold() for text in distinct} <= YES | NO:
        return "bit" if len(columns) == 1 else "attributes"
    if not all(column.numeric or column.empty.all() for column in columns):
        return "label"
    numbers = {float(text) for text in distinct}
    return "counts" if 0 in numbers and all(n >= 0 and n.is_integer() for n in numbers) else "vector"


def _refuse_mixed(table: Table, column: Column) -> None:
    words = [i for i, n in enumerate(column.numbers) if n != n and column.texts[i]]
    numbers = int((~column.empty).sum()) - len(words)
    if words and numbers > len(words):
        raise InputError(
            f"{table.path}: column '{column.name}' holds {numbers} numbers, and {len(words)} cells that are none; the "
            f"first: '{column.texts[words[0]]}' in {table.at(words[0])}. Correct them, or if they mean an empty cell "
            f"say --missing '{column.texts[words[0]]}'"
        )


def _useless(column: Column) -> str:
    """Return why a column can teach nothing, or the empty string."""
    if column.unreadable:
        return f"its type, {column.unreadable}, cannot be used"
    if not column.distinct:
        return "empty in every row"
    if len(column.distinct) == 1:
        return f"'{column.distinct[0]}' in every row{' that has it' if column.empty.any() else ''}"
    filled = int((~column.empty).sum())
    words = {text.casefold() for text in column.distinct}
    numbers = sum(n == n for n in column.numbers)
    if 2 * numbers <= filled and not words <= YES | NO and len(words) > min(_MOST_CLASSES, max(2, filled // 2)):
        return f"texts of {len(column.distinct)} different values; `kind: tokens` or `label` takes them, if you wish"
    return ""


def _kept(columns: Sequence[Column]) -> bool:
    """Tell whether rows in which only some of the columns are filled are few."""
    import numpy as np

    filled = np.stack([~column.empty for column in columns])  # (columns, rows)
    return bool(filled.all(0).sum() * len(columns) >= (1 - _LOST) * filled.sum())


def _tells_rows_apart(column: Column) -> bool:
    return not column.empty.any() and len(set(column.texts)) == len(column.texts) > 1


def _names_splits(column: Column) -> bool:
    return bool(column.distinct) and not column.empty.any() and {t.casefold() for t in column.distinct} <= set(SPLITS)


def _free(title: str, taken: Iterable[str]) -> str:
    """Return a modality's name, as recipes allow it and nobody has it, that is near a column's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")
    name = name if name[:1].isalpha() else f"column_{name}".rstrip("_")
    try:
        modality_name(name)
    except ValueError:
        name = f"{name}_"
    known = set(taken)
    return name if name not in known else next(n for i in range(2, len(known) + 3) if (n := f"{name}_{i}") not in known)


def _pattern(columns: Sequence[str], table: Table) -> str | None:
    """Return a pattern that matches these columns and no other, if their common beginning makes one."""
    match = _NUMBERED.fullmatch(columns[0])
    pattern = f"{match[1]}{match[2]}*" if match and len(columns) > 1 else None
    return pattern if pattern and [c for c in table.columns if fnmatchcase(c, pattern)] == list(columns) else None
