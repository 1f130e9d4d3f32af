"""Builds a dataset from a table: columns become modalities, and empty cells absent entries."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from modalkit.errors import InputError
from modalkit.plugin import Builder, as_tuple

from .cells import Table, TableColumn, Words
from .columns import make
from .filling import copies_of, fill, habits_of
from .forms import Decimal
from .grouping import Group, Grouping, apart, declared, read_grouping, resolve
from .inferring import infer, shown, taken
from .joining import check_ids, read_tables
from .options import SPLITS, OwnDataOptions, confirm
from .samples import write_samples

if TYPE_CHECKING:
    from modalkit.data import Array

_log = logging.getLogger(__name__)

VERSION = 5
"""Raised with every change after which the same table gives other bytes."""


class TableOptions(OwnDataOptions):
    """Options of `modalkit build-dataset table`."""

    file: Annotated[
        tuple[Path, ...], BeforeValidator(lambda given: (given,) if isinstance(given, (str, Path)) else as_tuple(given))
    ] = Field(
        min_length=1,
        description="the table: .csv, .tsv or .parquet, with a header; several are joined by the column --ids",
    )
    columns: Path | None = Field(
        None,
        description="YAML that says which columns make which modality, or a dataset built from a table with the same "
        "columns, whose categories and standardisation are used; by default both are inferred and shown",
    )
    ids: str | None = Field(None, description="column whose cells name the rows; several tables are joined by it")
    split: str | None = Field(None, description="column of train, valid and test; by default splits are random")
    incomplete: Literal["absent", "split", "mean"] = Field(
        "absent",
        description="rows with only some of a modality's columns: absent: the modality is absent in them; split: each "
        "column becomes a modality; mean: gaps are filled with the training rows' means",
    )
    missing: str = Field("", description="further words that mean an empty cell, separated by commas")
    missing_words: Words = Field(
        "usual",
        description="usual: in a text file, NA, N/A, NaN, null and none mean an empty cell, except in a column whose "
        "`names` list them; own: only empty cells and the words of --missing do",
    )
    decimal: Decimal = Field(
        "auto",
        description="the decimal mark of columns whose cells do not show it, such as 1,234: a comma or a point; auto: "
        "as the other columns show, else a comma only where semicolons separate cells",
    )


def build(options: TableOptions, out: Path) -> str:
    """Build the dataset `out` from a table, or resume building it.

    Raises:
        InputError: the table or the grouping cannot be used, the user did not accept what was inferred, or `out`
            holds something else.
        RunError: the disk is full.
    """
    missing = options.missing.split(",") if options.missing else ()
    table = read_tables(options.file, options.ids, missing, options.decimal, options.missing_words)
    known = options.columns is not None and options.columns.is_dir()
    if options.columns is None:
        grouping, left = infer(table, options.ids, options.split)
        grouping = resolve(grouping, table)
        confirm(shown(grouping, table, left), options.yes, "--columns")
    else:
        given = {key: name for key in ("ids", "split") if (name := getattr(options, key)) is not None}
        grouping = read_grouping(options.columns).model_copy(update=given)
        table = table.keeping(declared(grouping, table.columns))
        grouping = resolve(grouping, table, absent=known)
        _report_taken(grouping, table)
    if options.incomplete == "split":
        grouping = apart(grouping, [n for n, group in grouping.modalities.items() if _holes(table, group)])
    keys, split = _keys(table, grouping), _splits(table, grouping, options)
    train = split == 0
    if not known and train.sum() < 2:
        raise InputError(
            f"{table.path}: {int(train.sum())} training rows of {table.rows} are too few to learn from (for new rows "
            f"of a trained model, give the dataset that it was trained on as --columns)"
        )
    samples, resolved = {}, {}
    for name, group in grouping.modalities.items():
        samples[name], found = make(name, group, table, train, options.incomplete)
        resolved[name] = found.model_copy(update={"written": _written(found, table)})
    contents = [path.read_bytes() for path in options.file]
    files = [
        {"name": path.name, "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in zip(options.file, contents, strict=True)
    ]
    about = {
        "name": "table",
        "version": VERSION,
        **({"file": files[0]} if len(files) == 1 else {"files": files}),
        **options.model_dump(mode="json", include={"seed", "train", "valid", "incomplete", "missing"}),
        **options.model_dump(mode="json", include={"missing_words", "decimal"}, exclude_defaults=True),
        "columns": grouping.model_copy(update={"modalities": resolved}).model_dump(mode="json"),
    }
    return write_samples(out, about, samples, split, keys, dict(zip(copies_of(files), contents, strict=True)))


def propose(cells: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Propose what the columns of a table in memory are, and say why others are left out; see `infer`.

    Args:
        cells: of each column, as texts, "" where empty.
    """
    columns = {name: TableColumn(name, texts, "", texts) for name, texts in cells.items()}
    grouping, left = infer(Table(Path("data"), len(next(iter(cells.values()))), columns))
    return grouping.model_dump(mode="json"), left


def _written(group: Group, table: Table) -> tuple[int | tuple[str, str] | None, ...]:
    """Return how each column's cells are written: as in the table, or if its cells are empty, as the grouping says."""
    columns = [table.column(name) for name in group.columns]
    before = group.written or (None,) * len(columns)
    return tuple(
        max(here, known) if isinstance(here, int) and isinstance(known, int) else here if here is not None else known
        for here, known in zip(habits_of(group, columns), before, strict=True)
    )


def _report_taken(grouping: Grouping, table: Table) -> None:
    """Log which words count as empty cells of texts."""
    for group in grouping.modalities.values():
        for column in (table.column(name) for name in group.columns):
            if said := taken(column):
                _log.info(f"{column.name}: {said}")


def _holes(table: Table, group: Group) -> bool:
    """Tell whether some row has only some of a group's columns."""
    import numpy as np

    empty = np.array([table.columns[c].empty for c in group.columns if c in table.columns])  # (columns, rows)
    return len(empty) > 1 and bool((empty.any(0) & ~empty.all(0)).any())


def _keys(table: Table, grouping: Grouping) -> Sequence[str]:
    if grouping.ids not in table.columns:  # None, or not in the table of new rows
        return [str(row + 1) for row in range(table.rows)]
    column = table.columns[grouping.ids]
    check_ids(table, column, ", or choose other --ids")
    return column.texts


def _splits(table: Table, grouping: Grouping, options: TableOptions) -> Array:
    from modalkit.data import assign_splits

    if grouping.split not in table.columns:
        return options.splits(table.rows)
    column = table.columns[grouping.split]
    for row, text in enumerate(column.texts):
        if text.casefold() not in SPLITS:
            what = f"'{text}'" if text else "nothing"
            where = f"{table.path}: column '{column.name}', {table.at(row)}"
            raise InputError(f"{where}: {what} is not a split; give train, valid or test")
    return assign_splits(table.rows, [SPLITS[text.casefold()] for text in column.texts], options.seed)


BUILDER = Builder(
    name="table",
    summary="your own table, CSV or Parquet, with empty cells; columns grouped into modalities",
    options=TableOptions,
    build=build,
    argument="file",
    fill=fill,
    propose=propose,
)
