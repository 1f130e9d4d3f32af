"""YAML that remembers where every key was written, so that an error can name the file and line.

Scalars follow the YAML 1.2 core schema: ``yes`` and ``on`` are texts, ``1e-3`` is a number. Repeated keys, tags
for Python objects, and numbers that are not finite are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modalkit.errors import InputError
from modalkit.util.explain import Key, at

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}
MAX_DEPTH = 32
"""Deepest nesting of mappings and lists."""
_MAX_ALIASED = 100_000  # a few lines of aliases can expand to more than fits into memory


class Place(NamedTuple):
    """A line of a file, or (line 0) the text of an override."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Problem(NamedTuple):
    """Something wrong with the value at `key`, which was written at `place`."""

    place: Place
    key: Key
    text: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.place), at(self.key, self.text))))


@dataclass
class Document:
    """Plain data with the place of every key in it, and what could not be read.

    Attributes:
        value: mappings, lists, texts, numbers, booleans and None.
        places: where each key or list item was written; the root's key is ``()``.
        problems: what is wrong so far; the value there is None, or the first of those that were given.
    """

    value: Any
    places: dict[Key, Place]
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: Key) -> Place:
        """Return where `key`, or the nearest mapping or list around it, was written."""
        while key not in self.places:
            key = key[:-1]
        return self.places[key]

    def blame(self, key: Key, text: str) -> None:
        """Note a problem with what stands at `key`."""
        self.problems.append(Problem(self.place(key), key, text))

    def forget(self, key: Key, value: Any) -> None:
        """Drop the places of `key` and of everything in the `value` that stands there."""
        for inner in keys_in(value, key):
            self.places.pop(inner, None)


def keys_in(value: Any, key: Key) -> Iterator[Key]:
    """Yield `key` and the key of everything in the `value` that stands there."""
    yield key
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from keys_in(item, (*key, name))


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema only."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- add_implicit_resolver's own class attribute


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that either version of YAML would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), None)


def dump(value: Any) -> str:
    """Return plain data as YAML that `parse` reads back as the same."""
    text = str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
    # PyYAML writes Unicode's own line breaks as they are, and reads them back as others.
    if re.search("[\x85\u2028\u2029\ufeff]", text):
        text = str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120))
    return text


def flow(value: Any) -> str:
    """Return plain data as YAML on one line.

    >>> flow({"kind": "label", "names": ["a", "1"]})
    "{kind: label, names: [a, '1']}"
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{flow(key)}: {flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(flow, value))}]"
    # In brackets, so that it is quoted where it must be there. JSON's strings are YAML too, on one line.
    text = str(yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**9)).strip()
    return json.dumps(value) if "\n" in text else text[1:-1]


def read(path: Path) -> Document:
    """Read a file that must hold one YAML mapping.

    Raises:
        InputError: it is missing, unreadable, binary, empty, not a mapping, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; a recipe is YAML in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read this recipe: {error.strerror}") from None
    document = parse(text, Place(str(path), 1))
    if document.value is None and not document.problems:
        raise InputError(f"{path}: is empty; a recipe needs at least 'data' and 'modalities'")
    if not isinstance(document.value, dict):
        raise InputError(f"{document.place(())}: should be a mapping (lines of 'key: value') at the top")
    return document


def parse(text: str, start: Place) -> Document:
    """Read YAML.

    Args:
        text: one YAML document.
        start: place of its first line; line 0 stands for all of it.

    Raises:
        InputError: a syntax error, or more nesting or aliases than anyone would write by hand.
    """
    walk = _Walk(start, _MAX_ALIASED + len(text))  # a node that is written out takes a character at least
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walk.document.value = None if node is None else walk.build(node, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise InputError(f"{walk.at(line)}: not YAML: holds the control character {chr(error.character)!r}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(f"{walk.at(mark.line if mark else 0)}: not YAML: {_plain(error)}") from None
    except RecursionError:
        raise InputError(f"{start}: nested too deeply") from None
    return walk.document


def _plain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    if "'\\t'" in problem:
        return "tabs cannot indent a line; use spaces"
    if problem.startswith("mapping values are not allowed"):
        return "unexpected ':'; check the indentation, and quote a text that holds ': '"
    if "expected <block end>" in problem:
        return "check the indentation: this line begins at another column than its neighbours"
    context = f" {error.context}" if error.context and error.context.startswith("while") else ""
    return problem + context


class _Walk:
    """Turns one YAML node tree into a `Document`."""

    def __init__(self, start: Place, most: int) -> None:
        self.start, self.most, self.nodes = start, most, 0
        self.document = Document(None, {(): start})

    def at(self, line: int) -> Place:
        """Return the place of a line, counted from 0."""
        return self.start._replace(line=self.start.line + line if self.start.line else 0)

    def build(self, node: yaml.Node, key: Key) -> Any:
        """Return what a node stands for, noting places and problems."""
        self.document.places.setdefault(key, self.at(node.start_mark.line))
        self.nodes += 1
        if len(key) > MAX_DEPTH or self.nodes > self.most:
            raise InputError(f"{self.at(node.start_mark.line)}: nested too deeply, or too many aliases")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            made = {}
            for name, (line, item) in self.pairs(node, key).items():
                self.document.places[(*key, name)] = self.at(line)
                made[name] = self.build(item, (*key, name))
            return made
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        try:
            return _scalar(node)
        except ValueError as error:
            self.document.blame(key, str(error))
            return None

    def pairs(self, node: yaml.MappingNode, key: Key) -> dict[str, tuple[int, yaml.Node]]:
        """Return a mapping's own keys and those it merges in by ``<<``, each with its line and value."""
        own: dict[str, tuple[int, yaml.Node]] = {}
        merged: dict[str, tuple[int, yaml.Node]] = {}
        for name_node, item in node.value:
            line = name_node.start_mark.line
            if name_node.tag == _TAG + "merge":
                for base in self.bases(item, key):
                    merged = {**self.pairs(base, key), **merged}
                continue
            name = name_node.value
            if name_node.tag != _TAG + "str" or not is_text(name):
                shown = f" '{name}'" if isinstance(name, str) else ""
                self.wrong(line, key, f"the key{shown} should be a text; put it in quotes")
            elif name in own:
                first = self.at(own[name][0]).line
                self.wrong(line, (*key, name), f"given twice{f', in line {first} already' if first else ''}")
            else:
                own[name] = (line, item)
        return {**merged, **own}

    def bases(self, item: yaml.Node, key: Key) -> Iterator[yaml.MappingNode]:
        """Yield the mappings that ``<<`` names, the most important first."""
        for base in item.value if isinstance(item, yaml.SequenceNode) else [item]:
            self.nodes += 1
            if isinstance(base, yaml.MappingNode):
                yield base
            else:
                self.wrong(base.start_mark.line, (*key, "<<"), "should name a mapping, or a list of them")

    def wrong(self, line: int, key: Key, text: str) -> None:
        """Note a problem at a line, counted from 0."""
        self.document.problems.append(Problem(self.at(line), key, text))


def is_text(text: Any) -> bool:
    """Tell whether a value is a text that YAML and files can hold."""
    return isinstance(text, str) and not re.search("[\0\ud800-\udfff]", text)


def _scalar(node: yaml.Node) -> Any:
    """Return a scalar's value; ValueError says what is wrong with it."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if not isinstance(node, yaml.ScalarNode) or kind not in {*_CORE, "str"}:
        raise ValueError(f"the tag '{node.tag.replace(_TAG, '!!')}' is not supported; write plain values")
    if kind in ("str", "merge"):
        if not is_text(text):
            raise ValueError("a text cannot hold the NUL character or half of a surrogate pair")
        return text
    if not re.fullmatch(_CORE[kind], text):
        raise ValueError(f"'{text}' is not a {kind}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        number = int(text, 0 if text[:2] in ("0x", "0o") else 10) if len(text) < 30 else 1 << 63
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"the number {text[:30]}… is too large" if len(text) > 30 else f"{text} is too large")
        return number
    real = float(text) if text[-1] not in "fFnN" else float("nan")
    if not isfinite(real):
        raise ValueError(f"should be a finite number, got {text}")
    return real
