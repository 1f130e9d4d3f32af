"""A recipe's modalities by the hundred: what may name one, and entries that stand for many alike.

In ``modalities:`` an entry whose key holds ``{}`` and which has ``each:`` is a template. ``"bit{}": {each: 0..999,
kind: bit}`` stands for bit0 to bit999, alike but for their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from modalkit.recipe.changes import merged
from modalkit.recipe.yaml import Document
from modalkit.util.explain import Key

SLOT, EACH = "{}", "each"
"""What a template's key holds, and the entry's key that says what to put there."""

_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_MOST = 1_000_000  # of one template: more is a slip of the pen
_FEW = 3  # that are alike are written out one by one


def modality_name(name: str) -> str:
    """Return a modality's name, or raise `ValueError` if it cannot be one."""
    if not (name.isascii() and name[:1].isalpha() and name.replace("_", "").replace("-", "").isalnum()):
        raise ValueError("a modality's name should begin with a letter and hold only letters, digits, - and _")
    if name == "all":
        raise ValueError("'all' stands for all modalities together; rename this one")
    return name


def expand(document: Document) -> dict[str, str]:
    """Put modalities in the place of a recipe's templates, in the order of writing.

    An entry of its own that names one of a template's modalities changes that one, as a recipe that extends another
    changes an inherited one. With a ``kind`` of its own, in the file that has the ``each``, it is a mistake.
    What is wrong is noted in ``document.problems``.

    Returns:
        By name of every modality that a template made, the template's key.
    """
    entries = document.value.get("modalities")
    if not isinstance(entries, dict):
        return {}
    templates: dict[str, list[str]] = {}
    origin: dict[str, str] = {}
    for key, entry in entries.items():
        if SLOT in key:
            templates[key] = _names(document, key, entry, origin)
            origin |= {name: key for name in templates[key]}
    shared = {key: _less_each(entries[key]) for key in templates}
    own = {name: entry for name, entry in entries.items() if name in origin}
    changed = merged(
        Document({"modalities": {name: shared[origin[name]] for name in own}}, {}),
        Document({"modalities": own}, document.places),
    ).value["modalities"]
    made: dict[str, Any] = {}
    for key, entry in entries.items():
        if key in templates:
            made |= {n: changed.get(n, shared[key]) for n in templates[key] if n in changed or n not in own}
        elif key not in origin:
            made[key] = _less_each(entry)
            if made[key] is not entry:
                document.blame(("modalities", key, EACH), f"works only under a key that holds {SLOT}: '{key}{SLOT}'")
        elif isinstance(entry, dict) and "kind" in entry:
            here, there = document.place(("modalities", key)), document.place(("modalities", origin[key], EACH))
            if here.source == there.source:
                document.blame(("modalities", key), f"is one of '{origin[key]}' already; to change it, give no kind")
    document.value["modalities"] = made
    return origin


def _less_each(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if k != EACH} if isinstance(entry, dict) and EACH in entry else entry


def _names(document: Document, key: str, entry: Any, taken: Mapping[str, str]) -> list[str]:
    """Return the names that a template makes, and note what is wrong with it.

    Args:
        document: the recipe.
        key: the template's.
        entry: what stands there.
        taken: by name, the template that makes it already.
    """
    at: Key = ("modalities", key)
    if not isinstance(entry, dict) or EACH not in entry:
        at = (*at, EACH) if isinstance(entry, dict) else at
        document.blame(at, f"is missing; where a key holds {SLOT}, `{EACH}` lists names or a range, such as 0..9")
        return []
    if "kind" not in entry:
        document.blame((*at, "kind"), "is missing")
    items, names = entry[EACH], dict[str, None]()
    if items == []:
        document.blame((*at, EACH), "should have 1 or more entries, has 0")
    for index, item in enumerate(items if isinstance(items, list) else [items]):
        try:
            for part in _parts(item):
                name = key.replace(SLOT, part)
                if len(names) == _MOST:
                    raise ValueError(f"makes more than {_MOST:,} modalities")
                if name in names or name in taken:
                    raise ValueError(
                        f"'{name}' is {'given twice' if name in names else f'made by {taken[name]!r} too'}"
                    )
                try:
                    names[modality_name(name)] = None
                except ValueError as error:
                    raise ValueError(str(error) if f"'{name}'" in str(error) else f"'{name}': {error}") from None
        except ValueError as error:
            document.blame((*at, EACH, index) if isinstance(items, list) else (*at, EACH), str(error))
    return list(names)


def _parts(item: Any) -> Sequence[str]:
    """Return what an item of ``each`` puts in the slot: itself, or the numbers of a range.

    >>> _parts("8..11"), _parts("08..11"), _parts("Male")
    (['8', '9', '10', '11'], ['08', '09', '10', '11'], ['Male'])
    """
    if not isinstance(item, str):
        raise ValueError(f"should be a name or a range such as 0..9, got {item!r}; put numbers in quotes")
    if not (span := _RANGE.fullmatch(item)):
        return [item]
    first, last = map(int, span.groups())
    if last < first:
        raise ValueError(f"the range {item} goes backwards")
    if last - first >= _MOST:
        raise ValueError(f"the range {item} makes more than {_MOST:,} modalities")
    width = max(map(len, span.groups())) if any(n[0] == "0" and len(n) > 1 for n in span.groups()) else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def _span(parts: Sequence[str]) -> str:
    """Return the range that makes these parts, or the empty string."""
    span = f"{parts[0]}..{parts[-1]}"
    counted = _RANGE.fullmatch(span) and int(parts[-1]) - int(parts[0]) == len(parts) - 1
    return span if counted and _parts(span) == parts else ""


def fold(modalities: Mapping[str, Any]) -> dict[str, Any]:
    """Write neighbours that are alike as templates, of which `expand` makes the same modalities again.

    >>> fold({f"bit{i}": {"kind": "bit"} for i in range(9)})
    {'bit{}': {'each': '0..8', 'kind': 'bit'}}
    """
    folded: dict[str, Any] = {}
    for entry, group in groupby(modalities.items(), key=lambda pair: pair[1]):
        names = [name for name, _ in group]
        stem = names[0].rstrip("0123456789")
        parts = [name.removeprefix(stem) for name in names]
        key, each = (f"{stem}{SLOT}", span) if (span := _span(parts)) else (SLOT, names)
        if len(names) <= _FEW or key in folded:
            folded |= dict.fromkeys(names, entry)
        else:
            folded[key] = {EACH: each} | entry
    return folded
