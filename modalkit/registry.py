"""Finds plugins, built-in and third-party alike, and explains what is wrong with those it cannot use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import (
    Builder,
    Metric,
    Modality,
    Objective,
    ObjectiveOptions,
    Schedule,
    ScheduleOptions,
    Schema,
    Settings,
)
from modalkit.util.explain import at, explain
from modalkit.util.source import stated_fields, stated_summary

KINDS, OBJECTIVES, BUILDERS = "modalkit.modalities", "modalkit.objectives", "modalkit.builders"
SCHEDULES, METRICS = "modalkit.schedules", "modalkit.metrics"
"""Entry-point groups."""
_OWN = ("modalkit", "modalkit_modalities", "modalkit_tools")
"""Packages of the plugins that come with modalkit."""
_SLOW = {KINDS: "schema", OBJECTIVES: "options"}
"""Groups of which modalkit's own plugins import torch, and the field that is the class of their settings."""


@dataclass(frozen=True)
class _Contract:
    """What a plugin of one group must be.

    Attributes:
        word: what such a plugin is called.
        dataclass: the plugin's type.
        functions: its fields that must be callable.
        classes: its fields that must be a class, by name the base of this class.
        name: its field that names it.
    """

    word: str
    dataclass: type[Any]
    functions: tuple[str, ...]
    classes: Mapping[str, type[Any]] = field(default_factory=dict)
    name: str = "name"

    def problem(self, plugin: Any) -> str:
        """Return what is wrong with a plugin, or the empty string."""
        if not isinstance(plugin, self.dataclass):
            return f"it is a {type(plugin).__name__}, not a modalkit.plugin.{self.dataclass.__name__}"
        for name in (self.name, "summary"):
            if not isinstance(text := getattr(plugin, name), str) or not text:
                return f"its {name!r} must be a text that is not empty"
        for name in self.functions:
            if not callable(getattr(plugin, name)):
                return f"its {name!r} must be callable"
        for name, base in self.classes.items():
            if not (isinstance(value := getattr(plugin, name), type) and issubclass(value, base)):
                return f"its {name!r} must be a subclass of modalkit.plugin.{base.__name__}"
        return ""


_CONTRACTS = {
    KINDS: _Contract(
        "kind", Modality, ("encoder", "decoder", "likelihood", "show", "read"), {"schema": Schema}, name="kind"
    ),
    OBJECTIVES: _Contract("objective", Objective, ("plan", "check", "frozen"), {"options": ObjectiveOptions}),
    BUILDERS: _Contract("builder", Builder, ("build",), {"options": Settings}),
    SCHEDULES: _Contract("schedule", Schedule, ("factor",), {"options": ScheduleOptions}),
    METRICS: _Contract("metric", Metric, ("measure",)),
}


@dataclass(frozen=True)
class Provided:
    """One plugin that was announced: its name, who provides it, and the object or why it failed to load."""

    name: str
    provider: str
    plugin: Any = None
    failure: str = ""


def groups() -> dict[str, str]:
    """Return every group of plugins: the word for its plugins, such as ``kinds``, and its entry-point group."""
    return {f"{contract.word}s": group for group, contract in _CONTRACTS.items()}


def _name_of(group: str, plugin: Any) -> str:
    """Return the name that recipes and commands use for a plugin of a group."""
    return str(getattr(plugin, _CONTRACTS[group].name))


@cache
def _provider(distribution: Distribution) -> str:
    # Each of `name` and `version` parses the distribution's metadata, and plugins are looked up often.
    return f"{distribution.name} {distribution.version}"


def _load(group: str, entry: EntryPoint) -> Provided:
    provider = _provider(entry.dist) if entry.dist else "?"
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything; the other plugins must stay usable
        return Provided(entry.name, provider, failure=f"{entry.value} raised {type(error).__name__}: {error}")
    problem = _CONTRACTS[group].problem(plugin)
    if not problem and _name_of(group, plugin) != entry.name:
        problem = f"its entry point is called {entry.name!r} but it calls itself {_name_of(group, plugin)!r}"
    return Provided(entry.name, provider, None if problem else plugin, problem and f"{entry.value}: {problem}")


@cache
def _all_entries() -> Any:  # whose type differs between versions of Python
    return entry_points()  # of all groups, because each call reads every installed distribution


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    # The same distribution can be seen twice (an editable install run from its own folder): count it once.
    unique = {(e.name, e.value, e.dist.name if e.dist else ""): e for e in _all_entries().select(group=group)}
    return tuple(sorted(unique.values(), key=lambda e: e.name))


_from_files: dict[str, dict[str, Provided]] = {group: {} for group in _CONTRACTS}


def names(group: str) -> list[str]:
    """Return the announced names in a group, without importing any plugin."""
    return sorted({e.name for e in _entries(group)} | set(_from_files[group]))


def provided(group: str) -> list[Provided]:
    """Load every plugin of a group and return them all, those that failed with their reason."""
    return [_load(group, entry) for entry in _entries(group)] + list(_from_files[group].values())


def described(group: str) -> list[tuple[str, str, str]]:
    """Return name, summary and provider of every plugin of a group; the summary of a broken one says why it is broken.

    The summaries of modalkit's own plugins are read from their source, because their modules import torch. Plugins of
    others are imported, because they may be broken.
    """
    lines = []
    for entry in _entries(group):
        if _is_own(entry) and (summary := stated_summary(entry.module, entry.attr)):
            lines.append((entry.name, summary, _provider(entry.dist) if entry.dist else "?"))
        else:
            lines.append(_described(_load(group, entry)))
    return lines + [_described(plugin) for plugin in _from_files[group].values()]


def _is_own(entry: EntryPoint) -> bool:
    return entry.module.split(".")[0] in _OWN


def _described(found: Provided) -> tuple[str, str, str]:
    summary = found.plugin.summary if found.plugin else f"CANNOT BE USED: {found.failure}"
    return found.name, summary, found.provider


def require(group: str, name: str) -> None:
    """Refuse the name of a plugin that nobody has announced, without importing any plugin.

    Raises:
        InputError: no such plugin; the message names the nearest and all that there are.
    """
    if name not in (known := names(group)):
        where = "; one of your own needs --plugin FILE.py" if group == METRICS else ""
        raise InputError(
            f"unknown {_CONTRACTS[group].word} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}{where}"
        )


def is_quick(group: str, name: str) -> bool:
    """Tell whether a plugin comes with modalkit and its module does not import torch."""
    return group not in _SLOW and any(entry.name == name and _is_own(entry) for entry in _entries(group))


def stated(group: str, name: str) -> dict[str, bool] | None:
    """Return whether each setting of a plugin that comes with modalkit must be given, as its source says.

    No plugin is imported. For other plugins the result is None.
    """
    for entry in _entries(group):
        if entry.name == name and group in _SLOW and _is_own(entry):
            return stated_fields(entry.module, entry.attr, _SLOW[group])
    return None


def get(group: str, name: str) -> Any:
    """Return the plugin `name` of a group.

    Raises:
        InputError: no such plugin (names the nearest), two of them, or one that failed to load (with the cause).
    """
    word = _CONTRACTS[group].word
    found = [e for e in _entries(group) if e.name == name]
    if name in _from_files[group]:
        if found:
            who = found[0].dist.name if found[0].dist else "an installed package"
            raise InputError(
                f"{word} '{name}' is provided twice: by {_from_files[group][name].provider} and by {who}; "
                f"rename the one in your file"
            )
        return _from_files[group][name].plugin
    require(group, name)
    if len(found) > 1:
        who = " and ".join(sorted(e.dist.name if e.dist else "?" for e in found))
        raise InputError(f"{word} '{name}' is provided twice: by {who}; uninstall one of them")
    loaded = _load(group, found[0])
    if loaded.failure:
        raise InputError(f"{word} '{name}' of {loaded.provider} cannot be used: {loaded.failure}")
    return loaded.plugin


def modality(kind: str) -> Modality[Any]:
    """Return the modality plugin of a kind."""
    found: Modality[Any] = get(KINDS, kind)
    return found


def schema(kind: str, **fields: Any) -> Schema:
    """Return a validated schema, for example ``schema("vector", size=5)``.

    Args:
        kind: a modality kind.
        fields: what a recipe would say of it.

    Raises:
        InputError: unknown kind or fields that the kind refuses.
    """
    from pydantic import ValidationError

    model = modality(kind).schema
    try:
        made: Schema = model(kind=kind, **fields)
    except ValidationError as error:
        found = explain(error.errors(include_url=False), {"kind": kind, **fields}, lambda key: ([model], key))
        wrong = "; ".join(at(key, text) for key, text in found)
        raise InputError(f"schema of kind '{kind}': {wrong}") from None
    return made


class _SourceOnly(SourceFileLoader):
    """Compiles a file each time: a ``__pycache__`` beside a file from elsewhere may hold other code than the file."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def import_file(path: Path) -> ModuleType:
    """Import a Python file that is not on the path, once. Only its source counts, never compiled code beside it.

    Raises:
        InputError: there is no such file, or it raised when imported.
    """
    path = path.resolve()
    name = f"modalkit_file_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix != ".py":
        raise InputError(f"{path}: not a Python file; its name must end in .py")
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceOnly(name, str(path)))
    assert spec is not None and spec.loader is not None  # since a loader is given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plugin's file may do anything, such as exit
        del sys.modules[name]
        at = getattr(error, "lineno", None) or _last_line(error, path)
        raise InputError(f"{path}{f':{at}' if at else ''}: raised {type(error).__name__}: {error}") from error
    return module


def _last_line(error: BaseException, path: Path) -> int | None:
    """Return the line of `path` that an exception passed through last."""
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def add_file(path: Path) -> list[str]:
    """Register every plugin object that a Python file defines, and return their names.

    Raises:
        InputError: the file cannot be imported, defines no plugin, or one that breaks the contract.
    """
    module, added = import_file(path), []
    for plugin in vars(module).values():
        for group, contract in _CONTRACTS.items():
            if isinstance(plugin, contract.dataclass):
                name = _name_of(group, plugin)
                if problem := contract.problem(plugin):
                    raise InputError(f"{path}: {contract.dataclass.__name__} '{name}': {problem}")
                known = _from_files[group].get(name)
                if known and known.plugin is not plugin:
                    raise InputError(f"{path}: {contract.word} '{name}' is also defined by {known.provider}")
                _from_files[group][name] = Provided(name, str(path), plugin)
                added.append(name)
    if not added:
        raise InputError(f"{path}: defines no plugin; it needs an object such as a modalkit.plugin.Modality")
    return added


def refresh() -> None:
    """Look again for installed plugins; needed if packages were installed after the first look of this process."""
    _all_entries.cache_clear()
    _entries.cache_clear()


def forget_files() -> None:
    """Unregister the plugins of every file, so that another recipe's can take their names."""
    for found in _from_files.values():
        found.clear()


def import_object(reference: str) -> Any:
    """Return what ``package.module:Name`` or ``path/to/file.py:Name`` refers to.

    Raises:
        InputError: the reference is malformed, or cannot be imported.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name:
        raise InputError(f"'{reference}': write package.module:Name or path/to/file.py:Name")
    if where.endswith(".py"):
        module = import_file(Path(where))
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise InputError(f"'{reference}': {error}") from error
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"'{reference}': {where} has no '{name}'{did_you_mean(name, known)}")
    return getattr(module, name)
