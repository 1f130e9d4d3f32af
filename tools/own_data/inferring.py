"""Proposes what a table's columns are, from their cells and their names, and shows the proposal to the user."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from modalkit.errors import InputError
from modalkit.plugin import Cells
from modalkit.recipe.yaml import flow
from modalkit.registry import modality

from .cells import Table, TableColumn
from .grouping import Group, Grouping, free_name, kind_of
from .kinds import Proposals, columns_of
from .looks import alike, codes, dates, doubt, row_number
from .options import SPLITS

_FEW_CLASSES, _MOST_CLASSES = 50, 1000
_IDS = re.compile(r"(.*[_ -])?(id|ids|key|uuid|index|row)|", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)([_.\- ]?)[0-9]+")
_LOST = 0.2
"""Columns of one prefix become separate modalities if a common one would leave more than this share of cells unused."""


def infer(table: Table, ids: str | None = None, split: str | None = None) -> tuple[Grouping, dict[str, str]]:
    """Propose what a table's columns are, for the user to confirm.

    Each column's kind is the first that proposes itself for its cells. Columns with numbered names, such as `blood_1`
    and `blood_2`, make one modality if all hold numbers or all hold bits.

    Args:
        table: the table.
        ids: the column that names the rows, if the user named it.
        split: the column of train, valid and test, if the user named it.

    Returns:
        The grouping, and for each column that is left out the reason.

    Raises:
        InputError: the table has one row, no column can be used, or a column mixes numbers and texts.
    """
    if table.rows == 1:
        raise InputError(f"{table.path}: has one row below its header, which is too few to learn from")
    first, proposals = next(iter(table.columns.values())), Proposals.installed()
    named = [c for c in table.columns.values() if _IDS.fullmatch(c.name)] + ([] if first.plain.numeric else [first])
    ids = ids or next((c.name for c in named if _tells_rows_apart(c)), None)
    split = split or next((c.name for c in table.columns.values() if _names_splits(c)), None)
    kinds, left = {}, {}
    for column in table.columns.values():
        if column.name in (ids, split):
            continue
        if reason := _useless(column) or dates(column) or row_number(column.plain) or alike(column.plain):
            left[column.name] = reason
            continue
        kind = kind_of(table, [column], proposals)
        if modality(kind).outcome.is_one_of_several and _too_varied(column):
            left[column.name] = _why_too_varied(column)
        else:
            kinds[column.name] = kind
    modalities: dict[str, Group] = {}
    for title, columns in _parts(table, kinds):
        kind = kind_of(table, columns, proposals)
        modalities[free_name(title, modalities)] = Group(columns=tuple(c.name for c in columns), kind=kind)
    if not modalities:
        reasons = {name: why for name, why in ((ids, "names the rows"), (split, "names the splits")) if name} | left
        single = "; it is the only one: cells are separated by commas, semicolons or tabs, and line 1 is the header"
        raise InputError(
            f"{table.path}: no column can be used: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}"
            f"{single if len(table.columns) == 1 and table.lines else ''}"
        )
    return Grouping(ids=ids, split=split, modalities=modalities), left


def _parts(table: Table, kinds: Mapping[str, str]) -> list[tuple[str, list[TableColumn]]]:
    """Return the columns of each modality with a title; `kinds` has the kind of each usable column alone."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, kind in kinds.items():
        match, cells = _NUMBERED.fullmatch(name), columns_of(kind).cells
        # Not by kind: a column of counts without a zero looks like other numbers.
        prefix = match[1] if match and cells is not Cells.TEXTS and match[1] else None
        groups.setdefault((prefix, cells) if prefix else (name, ""), []).append(name)
    found = []
    for (prefix, _), names in groups.items():
        columns = [table.columns[name] for name in names]
        if len(names) == 1 or _filled_together(columns):
            found.append((prefix, columns))
        else:
            found += [(column.name, [column]) for column in columns]
    return found


def shown(grouping: Grouping, table: Table, left: Mapping[str, str]) -> str:
    """Return an inferred grouping as YAML for the user to read and edit; comments say how often each is present."""
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
    if notes := _notes(grouping, table):
        lines += ["# Please check:", *(f"#   {name}: {note}" for name, note in notes.items())]
    lines += ["# Left out:", *(f"#   {name}: {why}" for name, why in left.items())] if left else []
    return "\n".join(lines) + "\n"


def _notes(grouping: Grouping, table: Table) -> dict[str, str]:
    """Return by column how unusual cells are read, and which numbers may be something else."""
    notes: dict[str, str] = {}
    for group in grouping.modalities.values():
        notes |= {name: said for name in group.columns if (said := taken(table.columns[name]))}
        if columns_of(str(group.kind)).cells is not Cells.NUMBERS:
            continue
        for column in (table.columns[name] for name in group.columns):
            parts = [doubt(column.plain)]
            if (form := column.form) is not None:
                example = next(text for text in column.texts if text)
                parts.insert(0, f"numbers with {form.described()}: '{example}' is {form.plain(example)}")
                if form.guessed:
                    parts[0] += f"; if not, add --decimal '{'.' if form.decimal == ',' else ','}'"
            if said := "; ".join(filter(None, parts)):
                notes[column.name] = said
    return notes


def taken(column: TableColumn) -> str:
    """Return which words of a column of texts count as empty cells, and how to keep them; empty for other columns.

    In a column of numbers, nobody takes them for values.
    """
    if column.plain.numeric or not (words := column.taken):
        return ""
    return (
        f"{words} taken as empty; if they are values, list them in `names`, or add --missing-words own (with --missing "
        f"for other words)"
    )


def _useless(column: TableColumn) -> str:
    """Return why nothing can be learned from a column, or the empty string."""
    if column.unreadable:
        return f"its type, {column.unreadable}, cannot be used"
    if not column.distinct:
        return "empty in every row"
    if len(column.distinct) == 1:
        return f"'{column.distinct[0]}' in every row{' that has it' if column.empty.any() else ''}"
    return ""


def _why_too_varied(column: TableColumn) -> str:
    """Return why a column of texts is left out, and what to do to use it."""
    if code := codes(column):
        return (
            f"{len(column.distinct)} different codes such as '{code}', whose zeros count, look like ids; to use them, "
            f"give a kind, such as tokens, or vector if they are numbers"
        )
    return f"{len(column.distinct)} different texts; to use them, give a kind such as tokens"


def _too_varied(column: TableColumn) -> bool:
    """Tell whether a column has so many different texts that they are hardly categories."""
    return len({text.casefold() for text in column.distinct}) > most_classes(int((~column.empty).sum()))


def most_classes(filled: int) -> int:
    """Return how many different texts a column of categories may have: the root of its filled cells, 50 to 1000.

    There are never more than half of the cells.

    >>> most_classes(30), most_classes(900), most_classes(40_000), most_classes(10**9)
    (15, 50, 200, 1000)
    """
    return min(max(_FEW_CLASSES, min(_MOST_CLASSES, math.isqrt(filled))), max(2, filled // 2))


def _filled_together(columns: Sequence[TableColumn]) -> bool:
    """Tell whether few rows have only some of the columns filled."""
    import numpy as np

    filled = np.stack([~column.empty for column in columns])  # (columns, rows)
    return bool(filled.all(0).sum() * len(columns) >= (1 - _LOST) * filled.sum())


def _tells_rows_apart(column: TableColumn) -> bool:
    return not column.empty.any() and len(set(column.texts)) == len(column.texts) > 1


def _names_splits(column: TableColumn) -> bool:
    return bool(column.distinct) and not column.empty.any() and {t.casefold() for t in column.distinct} <= set(SPLITS)


def _pattern(columns: Sequence[str], table: Table) -> str | None:
    """Return a pattern that matches exactly these columns, if their common prefix makes one."""
    match = _NUMBERED.fullmatch(columns[0])
    pattern = f"{match[1]}{match[2]}*" if match and len(columns) > 1 else None
    return pattern if pattern and [c for c in table.columns if fnmatchcase(c, pattern)] == list(columns) else None
