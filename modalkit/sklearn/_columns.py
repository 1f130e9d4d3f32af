"""What an estimator keeps of each column, and how columns become a model's modalities."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.errors import InputError, did_you_mean
from modalkit.sklearn._tables import BIT, CATEGORY, NUMBER, Cells, TableError

CONSTANT, EMPTY = "constant", "empty"
"""Further sorts of columns of a fitted estimator: one value, or none, in all rows. The model leaves them out."""
_MOST_TEXTS = 50
"""Columns of texts with more different ones are names or remarks rather than categories."""
_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]*")


@dataclass
class Column:
    """A column as it was when the estimator was fitted.

    Attributes:
        label: its label in the table.
        sort: `NUMBER`, `BIT`, `CATEGORY`, `CONSTANT` or `EMPTY`.
        categories: the values of categories, bits (no, then yes) and constants; those of numbers if they are few.
        loc: the mean of numbers.
        scale: their standard deviation.
    """

    label: Hashable
    sort: str
    categories: list[Any] = field(default_factory=list)
    loc: float = 0.0
    scale: float = 1.0

    @property
    def modelled(self) -> bool:
        """Whether the model has it."""
        return self.sort not in (CONSTANT, EMPTY)

    def encode(
        self, cells: Cells, *, unknown_is_missing: bool
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the cells as numbers, standardised, or as the places of categories; and which are known.

        Args:
            cells: of the same column, in any table.
            unknown_is_missing: whether a category that was not seen counts as missing.

        Raises:
            TableError: the column has another type than in `fit`, or a category that `fit` did not see.
        """
        if self.sort == NUMBER:
            if cells.sort not in (NUMBER, BIT, ""):
                raise TableError(f"column '{self.label}': held numbers in fit, and holds a {cells.sort} now")
            return (cells.numbers() - self.loc) / self.scale, ~cells.missing
        places = {value: place for place, value in enumerate(self.categories)}
        codes, known = np.full(len(cells.values), -1.0), ~cells.missing
        codes[known] = [places.get(value, -1) for value in cells.values[known]]
        if (known & (codes < 0)).any() and not unknown_is_missing:
            row = int((known & (codes < 0)).argmax())
            seen = ", ".join(map(repr, self.categories[:10])) + (", …" if len(self.categories) > 10 else "")
            raise TableError(
                f"column '{self.label}', row {row}: {cells.values[row]!r} was not seen in fit, which saw {seen}; "
                f"handle_unknown='missing' takes it as missing"
            )
        return codes, codes >= 0

    def decode(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return predicted numbers as cells, `(cells,)`: in the column's unit, or as its categories."""
        if self.sort == NUMBER:
            return values * self.scale + self.loc
        places = np.clip(np.rint(values), 0, len(self.categories) - 1).astype(int)
        found = np.empty(len(places), object)
        found[:] = [self.categories[place] for place in places]
        return found


def describe(cells: Cells) -> Column:
    """Return what an estimator keeps of a column that it is fitted to.

    Raises:
        TableError: a column of texts has too many different ones.
    """
    known = cells.values[~cells.missing]
    if not len(known):
        return Column(cells.label, EMPTY)
    distinct = sorted(set(known.tolist())) if cells.categories is None else []
    if cells.categories is not None:
        held = set(known.tolist())
        distinct = [value for value in cells.categories if value in held]
    if len(distinct) == 1:
        return Column(cells.label, CONSTANT, distinct)
    if cells.sort == BIT or (cells.sort == NUMBER and distinct == [0, 1]):
        return Column(cells.label, BIT, distinct)
    if cells.sort == NUMBER:
        numbers = cells.numbers()[~cells.missing]
        loc = float(numbers.mean())
        few = distinct if len(distinct) <= _MOST_TEXTS else []
        return Column(cells.label, NUMBER, few, loc, float((numbers - loc).std()) or 1.0)
    if cells.categories is None and len(distinct) > _MOST_TEXTS:
        raise TableError(
            f"column '{cells.label}': holds {len(distinct)} different texts, which look like names rather than "
            f"categories; drop it, or give it the type `category`"
        )
    return Column(cells.label, CATEGORY, list(cells.categories or distinct))


@dataclass
class Group:
    """The columns of one modality.

    Attributes:
        modality: its name.
        columns: the places of its columns in the table.
        kind: its kind.
        fields: of the kind's schema.
        standardized: whether its numbers are standardised.
        covariate: whether it is a condition, which is known and not explained.
    """

    modality: str
    columns: list[int]
    kind: str
    fields: dict[str, Any]
    standardized: bool
    covariate: bool = False


def places_of(columns: Sequence[Column], covariates: Any) -> list[int]:
    """Return the places of the columns that are covariates.

    Args:
        columns: of the table.
        covariates: their labels; None: there are none.

    Raises:
        TableError: it is no list, or names a column that the table does not have.
    """
    if covariates is None:
        return []
    if isinstance(covariates, str) or not isinstance(covariates, Iterable):
        raise TableError(f"covariates: give a list of columns, such as [{covariates!r}]")
    places, labels = {column.label: place for place, column in enumerate(columns)}, list(covariates)
    for label in labels:
        if not isinstance(label, Hashable) or label not in places:
            raise TableError(f"covariates: there is no column {label!r}{did_you_mean(str(label), map(str, places))}")
    return sorted({places[label] for label in labels})


def grouped(
    columns: Sequence[Column], modalities: Mapping[str, Any] | None, covariates: Sequence[int] = ()
) -> list[Group]:
    """Return the modalities of a table, covariates among them.

    Args:
        columns: of the table.
        modalities: by name of a modality the labels of its columns, or a mapping with ``columns``, ``kind`` and other
            keys of the kind. A column that stands in none is a modality of its own.
        covariates: the places of the columns that are covariates.

    Raises:
        TableError: a column is unknown, stands twice, or does not fit the others of its modality.
    """
    if modalities is not None and not isinstance(modalities, Mapping):
        raise TableError("modalities: give a dict with a list of columns for each modality, or None")
    places, taken = {column.label: place for place, column in enumerate(columns)}, dict[int, str]()
    groups = []
    for name, entry in (modalities or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "all":
            raise TableError(f"modalities: the name {name!r} should begin with a letter and hold letters, digits, - _")
        fields = dict(entry) if isinstance(entry, Mapping) else {"columns": entry}
        labels = fields.pop("columns", None)
        if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
            raise TableError(f"modalities: '{name}': give a list of columns")
        own = []
        for label in labels:
            if label not in places:
                near = did_you_mean(str(label), map(str, places))
                raise TableError(f"modalities: '{name}': there is no column {label!r}{near}")
            if places[label] in taken:
                raise TableError(f"modalities: column {label!r} is in '{taken[places[label]]}' and in '{name}'")
            taken[places[label]] = name
            own.append(places[label])
        if 0 < len(apart := [place for place in own if place in covariates]) < len(own):
            label = columns[apart[0]].label
            raise TableError(f"modalities: '{name}': {label!r} is a covariate, and other columns of '{name}' are not")
        if used := [place for place in own if columns[place].modelled]:
            groups.append(_group(name, used, columns, fields, covariate=bool(apart)))
    names = {group.modality for group in groups}
    for place, column in enumerate(columns):
        if place not in taken and column.modelled:
            name = str(column.label)
            name = name if _NAME.fullmatch(name) and name != "all" and name not in names else _free(f"x{place}", names)
            names.add(name)
            groups.append(_group(name, [place], columns, {}, covariate=place in covariates))
    return groups


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def free_name(name: str, groups: Sequence[Group]) -> str:
    """Return a name that no modality has."""
    return _free(name, {group.modality for group in groups})


def _group(
    name: str, places: list[int], columns: Sequence[Column], fields: dict[str, Any], *, covariate: bool
) -> Group:
    """Return a group with its kind, and with the fields of the kind's schema that follow from the columns."""
    from modalkit import registry
    from modalkit.plugin import Cells as Takes

    own = [columns[place] for place in places]
    kind = fields.pop("kind", None) or _kind(name, own)
    if not isinstance(kind, str):
        raise TableError(f"modalities: '{name}': kind: {kind!r} is no name of a kind")
    try:
        takes = registry.modality(kind).columns
    except InputError as error:
        raise TableError(f"modalities: '{name}': {error}") from None
    categories = [column for column in own if column.sort == CATEGORY]
    if takes.cells is Takes.TEXTS:
        if len(own) > 1 or not own[0].categories:
            raise TableError(f"modalities: '{name}': the kind {kind} takes one column of a few categories")
        own[0].sort = CATEGORY  # of numbers too: each is a class or a level
        if not {"names", "classes"} & fields.keys():
            fields["classes"] = len(own[0].categories)
    elif categories:
        raise TableError(f"modalities: '{name}': the kind {kind} takes no categories, as in '{categories[0].label}'")
    else:
        fields = dict(takes.from_names(tuple(f"n{place}" for place in places))) | fields
    for column in own:
        if not takes.standardized:
            column.loc, column.scale = 0.0, 1.0
    if takes.standardized:
        fields |= {"standardize": {"loc": [0.0] * len(own), "scale": [1.0] * len(own)}}
    if covariate:
        fields["role"] = "covariate"
    elif fields.get("role") == "covariate":
        raise TableError(f"modalities: '{name}': name its columns in `covariates` instead of giving it a role")
    return Group(name, places, kind, fields, takes.standardized, covariate)


def _kind(name: str, own: Sequence[Column]) -> str:
    sorts = {column.sort for column in own}
    if CATEGORY in sorts:
        if len(own) > 1:
            one = next(column for column in own if column.sort == CATEGORY)
            raise TableError(
                f"modalities: '{name}': '{one.label}' holds categories, so it must be a modality of its own"
            )
        return "label"
    if sorts == {BIT}:
        return "bit" if len(own) == 1 else "attributes"
    return "vector"
