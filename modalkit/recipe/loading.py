"""Loading a recipe: YAML is read, merged and validated, and every error is reported as ``file:line: key``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json

from modalkit import registry
from modalkit.errors import InputError
from modalkit.recipe.changes import merged, override
from modalkit.recipe.finding import find
from modalkit.recipe.plugged import LATER
from modalkit.recipe.sections import Recipe, models_at
from modalkit.recipe.templates import expand
from modalkit.recipe.trust import Code, Trust, check, code_of, remember
from modalkit.recipe.yaml import Document, Problem, read
from modalkit.util.explain import Key, explain, reach

__all__ = ["Recipe", "allow_again", "load_recipe"]

_OF_NAMES: set[Key] = {
    ("modalities",),
    ("objective",),
    ("data", "weak", "groups"),
    ("train", "self_training", "modalities"),
}
"""Keys that name modalities: errors there are left out if a template that would make the modality is wrong."""
_LATER = "(Values of modalities and of the objective are checked once this is right.)"


def load_recipe(path: Path, overrides: Sequence[str] = (), *, trust: bool | Trust = False) -> Recipe:
    """Load a recipe and check all of it.

    Args:
        path: a YAML file, or the name of a recipe that ships with modalkit.
        overrides: changes such as ``"train.max_steps=5"``, the value in YAML.
        trust: whether the code may run that the recipe names: plugin files, and networks of its own. Code that the
            overrides name may always run, and so may code that the user allowed before and that has not changed.

    Raises:
        InputError: the recipe names code that may not run; then nothing was run. Otherwise, the message lists every
            error, each on a line ``file:line: key: message``.
    """
    path = find(str(path), Path())
    document = _read(path, (path,))
    stated = replace(document, value=copy.deepcopy(document.value), places=dict(document.places))
    _apply(document, path.parent, overrides)
    code = check(path, stated, document, trust if isinstance(trust, Trust) else Trust(given=trust))
    return _checked(document, path.parent, code)


def recipe_of(document: Document, overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe that is in memory, and return it. Paths in it are relative to the working directory.

    Code that it names may run, because it comes from the caller's own code.

    Args:
        document: as `read` returns it for a file; it is changed.
        overrides: see `load_recipe`.

    Raises:
        InputError: lists every error, each on a line ``place: key: message``.
    """
    _anchor(document.value, Path())
    document = _extended(document, Path(), ())
    _apply(document, Path(), overrides)
    return _checked(document, Path(), code_of(document, Path("recipe")))


def _apply(document: Document, folder: Path, overrides: Sequence[str]) -> None:
    """Apply overrides to a document; paths in it are relative to `folder`."""
    for text in overrides:
        override(document, text)
    if isinstance(document.value.get("extends"), str):  # the files' own are merged already
        document.blame(("extends",), "cannot be changed here; write it in the recipe")
    _anchor(document.value, folder)


def _checked(document: Document, folder: Path, code: Sequence[Code]) -> Recipe:
    """Return the recipe that a document is once templates are expanded.

    Args:
        document: with the recipe that it extends, and overrides applied.
        folder: of the recipe; paths of plugins are relative to it.
        code: that it names and that may run.
    """
    known = {
        problem.key for problem in document.problems if reach(document.value, problem.key) is None
    }  # could not be read
    count = len(document.problems)
    templates = expand(document)
    if broken := {problem.key for problem in document.problems[count:]}:
        known |= broken | _OF_NAMES
    problems = list(document.problems)
    if "data" not in document.value:  # which Python code may leave out
        problems.append(Problem(document.place(()), ("data",), "is missing"))
    context = {"folder": str(folder.resolve()), "schemas": {}, "code": bool(code)}
    if "torch" not in sys.modules:  # kinds and objectives import it, which takes seconds; most mistakes need not wait
        _, found = _validated(document, context | {"quick": True}, templates, known)
        if problems or found:
            raise InputError(f"{_lines(problems + found)}\n{_LATER}")
    if plugin_problems := _add_plugins(document, code):
        problems += plugin_problems
    recipe, found = _validated(document, context, templates, known, plugins_failed=bool(plugin_problems))
    if recipe is None or problems or found:
        raise InputError(_lines(problems + found))
    return recipe


def _lines(problems: Sequence[Problem]) -> str:
    """Return problems in the order of their lines, each once."""
    return "\n".join(dict.fromkeys(map(str, sorted(problems, key=lambda p: p.place))))


def _validated(
    document: Document,
    context: dict[str, Any],
    templates: Mapping[str, str],
    known: Set[Key],
    *,
    plugins_failed: bool = False,
) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe that a document is, or None and what is wrong with it.

    Args:
        document: with its templates expanded.
        context: what validators need to know.
        templates: the template of each modality that one made.
        known: keys whose problems are listed already.
        plugins_failed: so that names of plugins that are not found are no problem of their own.
    """
    try:
        return Recipe.model_validate_json(to_json(document.value), strict=True, context=context), []
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != LATER]
    details, problems = _once_a_template(details, document, templates), []
    known = known | ({e["loc"] for e in details if e["type"] == "plugin"} if plugins_failed else set())
    for key, text in explain(details, document.value, lambda key: models_at(document.value, key)):
        written = _written(document, key, templates)
        if not {key, written} & known:
            problems.append(Problem(document.place(written), written, text))
    return None, problems


def allow_again(path: Path) -> None:
    """Record that the code of a run's recipe may run, and its URL be contacted, because this process was allowed to.

    Args:
        path: the recipe's file, which this process wrote.
    """
    remember(path, _read(path, (path,)))


def _written(document: Document, key: Key, templates: Mapping[str, str]) -> Key:
    """Return the key that the user wrote for `key`: that of a template, unless this modality was changed alone."""
    made = key[:1] == ("modalities",) and len(key) > 1 and key not in document.places
    return (key[0], templates.get(str(key[1]), key[1]), *key[2:]) if made else key


def _once_a_template(
    details: Sequence[ErrorDetails], document: Document, templates: Mapping[str, str]
) -> list[ErrorDetails]:
    """Keep the errors of only the first modality that a template makes, and of those that were changed alone."""
    first: dict[str, str | int] = {}
    found = []
    for detail in details:
        loc = detail["loc"]
        key = templates.get(str(loc[1])) if loc[:1] == ("modalities",) and len(loc) > 1 else None
        if key is None or loc[:2] in document.places or first.setdefault(key, loc[1]) == loc[1]:
            found.append(detail)
    return found


def _read(path: Path, chain: tuple[Path, ...]) -> Document:
    """Read a file and lay it over the recipe that it extends; `chain` holds the files that led here, and it."""
    document = read(path)
    _anchor(document.value, path.parent)
    return _extended(document, path.parent, chain)


def _extended(document: Document, folder: Path, chain: tuple[Path, ...]) -> Document:
    """Lay a document over the recipe that it extends, if it names one; its paths are relative to `folder`."""
    reference = document.value.get("extends")
    if not isinstance(reference, str):
        return document
    place = document.place(("extends",))
    del document.value["extends"]
    try:
        base = find(reference, folder)
    except InputError as error:
        raise InputError(f"{place}: extends: {error}") from None
    if base.resolve() in [p.resolve() for p in chain]:
        raise InputError(f"{place}: extends: goes in a circle: {' -> '.join(map(str, (*chain, base)))}")
    return merged(_read(base, (*chain, base)), document)


def _anchor(value: dict[str, Any], folder: Path) -> None:
    """Make a file's own paths to Python files absolute, before it is merged with one in another folder."""
    if isinstance(plugins := value.get("plugins"), list):
        value["plugins"] = [str((folder / p).resolve()) if isinstance(p, str) else p for p in plugins]
    modalities = value.get("modalities")
    for entry in modalities.values() if isinstance(modalities, dict) else ():
        network: Any = entry.get("network") if isinstance(entry, dict) else None
        for part in {"encoder", "decoder"} & network.keys() if isinstance(network, dict) else ():
            if isinstance(network[part], str) and ".py:" in network[part]:
                network[part] = str(folder.resolve() / network[part])


def _add_plugins(document: Document, code: Sequence[Code]) -> list[Problem]:
    """Register those of a recipe's files that are plugins, and return what is wrong with them."""
    problems = []
    for one in code:
        try:
            if one.key[0] == "plugins":
                registry.add_file(Path(one.text))
        except (InputError, OSError) as error:
            problems.append(Problem(document.place(one.key), one.key, str(error)))
    return problems
