"""Explanations of pydantic's errors, in plain words and at the keys that the user wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from modalkit.errors import did_you_mean

Key = tuple[str | int, ...]
"""Where a value stands in a document: ``("modalities", "image", "size")``."""


def at(key: Key, text: str) -> str:
    """Return a sentence about a value with its key before it, such as ``train.epochs: is missing``."""
    name = ".".join(part if isinstance(part, str) and part.isprintable() else repr(part) for part in key)
    return ": ".join(filter(None, (name, text)))


_WISH = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "dict": "a mapping",
    "model": "a mapping",
    "mapping": "a mapping",
    "model_attributes": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "none_required": "null",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text like {pattern}",
}
"""What a value should be, by pydantic's error type (less ``_type``, ``_parsing`` and so on)."""

Models = Callable[[Key], tuple[Sequence[Any], Key]]
"""``key -> (annotations, rest)``: the types that validate the value which `rest` leads to from theirs."""


def explain(errors: Iterable[ErrorDetails], value: Any, models: Models) -> list[tuple[Key, str]]:
    """Say in words what is wrong, each problem once.

    Args:
        errors: what validating `value` found.
        value: plain data, as the user wrote it.
        models: finds the pydantic models behind a key, whose fields are the names known there.

    Returns:
        Pairs of a key and a sentence without subject, such as "should be a number above 0, got -1".
    """
    grouped: dict[Key, list[ErrorDetails]] = {}
    for detail in errors:
        grouped.setdefault(_key(detail, value), []).append(detail)
    # Where one branch of a union got further into the value than another, only the further one has a say.
    outer = {key[:end] for key in grouped for end in range(len(key))}
    kept = {key: details for key, details in grouped.items() if key not in outer or len(grouped) == 1}
    return [(key, _sentence(key, details, value, models)) for key, details in kept.items()]


def _key(detail: ErrorDetails, value: Any) -> Key:
    """Return an error's place in `value`: its `loc` without the labels of union branches."""
    loc, tail = detail["loc"], Key()
    if detail["type"] in ("missing", "absent"):
        loc, tail = loc[:-1], loc[-1:]
    # The longest part of loc that leads somewhere; the empty one always does.
    found = next(p for n in range(len(loc), -1, -1) for p in combinations(loc, n) if reach(value, p) is not _NOWHERE)
    if detail["type"].startswith("union_tag") and isinstance(reach(value, found), dict):
        tail = (detail["ctx"]["discriminator"].strip("'"),)
    return found + tail


_NOWHERE = object()


def reach(value: Any, key: Key) -> Any:
    """Return what stands at `key` in plain data, or a marker if nothing does."""
    for part in key:
        index = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not index and not (isinstance(value, dict) and part in value):
            return _NOWHERE
        value = value[part]
    return value


def _sentence(key: Key, details: list[ErrorDetails], value: Any, models: Models) -> str:
    wishes, others = [], []
    for detail in details:
        name = re.sub("_(type|parsing|parsing_size|from_float|exact_type|exact)$", "", detail["type"])
        if name in _WISH:
            limits = {
                k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in detail.get("ctx", {}).items()
            }
            wishes.append(_WISH[name].format(**limits))
        else:
            others.append(_other(key, detail, value, models))
    if wishes:
        got = reach(value, key)
        near = did_you_mean(got, re.findall("'([^']*)'", " ".join(wishes))) if isinstance(got, str) else ""
        others.insert(0, f"should be {' or '.join(dict.fromkeys(wishes))}, got {_shown(got)}{near}")
    return "; ".join(dict.fromkeys(others))


def _other(key: Key, detail: ErrorDetails, value: Any, models: Models) -> str:
    """Return the sentence for an error that is not about what a value should be."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(str(key[-1]), _fields(*models(key[:-1]), value, key[:-1]))
    if kind in ("missing", "absent", "union_tag_not_found"):
        near = ""
        if len(key) == 3 and key[0] == "modalities" and key[2] == "kind":  # a change to an inherited modality?
            near = did_you_mean(str(key[1]), [name for name in value["modalities"] if name != key[1]])
        return (detail["msg"] if kind == "absent" else "is missing") + near
    if kind == "union_tag_invalid":
        known = re.findall("'([^']*)'", context["expected_tags"])
        word, tag = context["discriminator"].strip("'"), str(context["tag"])
        return f"unknown {word} '{tag}'{did_you_mean(tag, known)}; known: {', '.join(known)}"
    if kind in ("too_short", "too_long"):
        allowed = f"{context['min_length']} or more" if kind == "too_short" else f"at most {context['max_length']}"
        return f"should have {allowed} entries, has {context['actual_length']}"
    return str(context["error"]) if "error" in context else detail["msg"]


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Say that a mapping has a key that it cannot have, and which is meant or which there are."""
    ordered = sorted(known)
    return f"unknown key{did_you_mean(name, ordered) or '; known here: ' + ', '.join(ordered)}"


def _shown(value: Any) -> str:
    """Return a value as the user wrote it, if it is short."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}{'' if value else ' that is empty'}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…{text[-1]}"


def _fields(annotations: Sequence[Any], rest: Key, value: Any, key: Key) -> set[str]:
    """Return the names that a mapping at `key` may hold, following `rest` from the annotations on."""
    models = [model for annotation in annotations for model in _models(annotation)]
    for index, part in enumerate(rest):
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        # No such field: an index of a list or a name in a mapping, whose models were found with it.
        models = [model for annotation in fields for model in _models(annotation)] if fields else models
        here = reach(value, key[: len(key) - len(rest) + index + 1])
        models = [model for model in models if _chosen(model, here)] or models
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every model in an annotation, such as those of a union."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _chosen(model: type[BaseModel], value: Any) -> bool:
    """Tell whether no field that holds one constant, such as ``type``, speaks against `value` being a `model`."""
    literals = {n: get_args(f.annotation) for n, f in model.model_fields.items() if get_origin(f.annotation) is Literal}
    tags = {name: allowed[0] for name, allowed in literals.items() if len(allowed) == 1}
    return not isinstance(value, dict) or all(value.get(name, tag) == tag for name, tag in tags.items())
