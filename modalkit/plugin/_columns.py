"""How a kind takes the columns of a user's table, and when builders propose it for data that nobody described."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_CODE = re.compile("0[0-9]+")
YES = frozenset({"1", "true", "yes", "t", "y"})
"""Words for 1 in cells of `Cells.BITS`, in lower case."""
NO = frozenset({"0", "false", "no", "f", "n"})
"""Words for 0 in cells of `Cells.BITS`, in lower case."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its header.
        texts: every cell as it is written, without blanks around it; "" where it is empty.
    """

    name: str
    texts: Sequence[str]

    @cached_property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Which cells are empty, `(rows,)`."""
        return np.array([not text for text in self.texts], dtype=bool)

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """Every cell as a number, `(rows,)`; NaN where it is empty or not a number."""
        return np.array([_number(text) for text in self.texts], dtype=np.float64)

    @cached_property
    def numeric(self) -> bool:
        """Whether at least one cell is filled, and every filled cell is a number.

        Whole numbers of which some begin with 0, such as postcodes, are codes, not numbers.
        """
        numbers = bool(not self.empty.all() and not (np.isnan(self.numbers) & ~self.empty).any())
        return numbers and not any(map(_CODE.fullmatch, self.texts))

    @cached_property
    def distinct(self) -> list[str]:
        """The different texts of filled cells, sorted: as numbers if the column is numeric, else by letters."""
        held = sorted(set(self.texts) - {""})
        return sorted(held, key=float) if self.numeric else held

    @cached_property
    def yes_or_no(self) -> bool:
        """Whether every filled cell is a word for yes or for no."""
        return {text.casefold() for text in self.distinct} <= YES | NO


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text or math.nan)
    except ValueError:
        return math.nan


class Cells(StrEnum):
    """What a cell of a kind's column holds, and how it becomes a stored value and a cell again."""

    NUMBERS = "numbers"
    """One number of the sample, stored in its own unit and written with as many decimals as its column has."""
    BITS = "bits"
    """One 0 or 1 of the sample, read from and written as the column's words for no and yes (`NO`, `YES`)."""
    TEXTS = "texts"
    """A whole sample, read by the kind's `read` and written by its `show`."""


@dataclass(frozen=True)
class Required:
    """What a kind requires of the numbers in its columns.

    Attributes:
        holds: `numbers (rows,) ->` bool `(rows,)`: which are allowed. NaN, an empty cell, may get either answer.
        otherwise: what a number is that is not allowed, to complete a sentence such as "'-3' is …".
    """

    holds: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.bool_]]
    otherwise: str


Fields: TypeAlias = dict[str, Any]
"""Fields of a kind's schema, as a recipe has them."""


@dataclass(frozen=True)
class Columns:
    """How a kind takes a table's columns. The default fits every kind: one column, whose cells `read` reads.

    Attributes:
        cells: what a cell holds.
        several: whether one modality can have several columns: one for each number or bit of a sample. A kind of
            `Cells.TEXTS` takes one column.
        alone: the kind that takes one of several columns on its own; this kind by default.
        required: what numbers must be, beside finite.
        standardized: whether the schema has a field `standardize` with `loc` and `scale`, one number for each column,
            which builders fill in with means and standard deviations of the training rows.
        from_names: `(columns' names) ->` fields that follow from how many columns there are and from their names.
        from_cells: `(columns, fields that the user gave) ->` further fields that follow from the cells, such as
            categories. The dataset records them, so that new rows are read alike. It may raise `InputError`.
    """

    cells: Cells = Cells.TEXTS
    several: bool = False
    alone: str | None = None
    required: Required | None = None
    standardized: bool = False
    from_names: Callable[[tuple[str, ...]], Fields] = lambda names: {}
    from_cells: Callable[[Sequence[Column], Mapping[str, Any]], Fields] = lambda columns, given: {}


@dataclass(frozen=True)
class Proposal:
    """When builders propose a kind for the user's own data that nobody described. The user confirms it.

    Builders ask kinds in ascending `order` and take the first that says yes.

    Attributes:
        order: its place; 10 to 80 are the built-in kinds'.
        columns: `columns ->` whether the kind fits a table's columns.
        array: `array (rows, ...) ->` the schema's fields if the kind fits an array, else None.
        texts: `texts ->` the schema's fields if the kind fits the contents of text files, else None.
        suffixes: of the files that the kind's `read` takes, such as ``".png"``.
        files: `(paths of such files, side of pictures in pixels) ->` the schema's fields. It may raise `InputError`.
    """

    order: int
    columns: Callable[[Sequence[Column]], bool] = lambda columns: False
    array: Callable[[npt.NDArray[Any]], Fields | None] = lambda array: None
    texts: Callable[[Sequence[str]], Fields | None] = lambda texts: None
    suffixes: tuple[str, ...] = ()
    files: Callable[[Sequence[str], int], Fields] = lambda paths, size: {}
