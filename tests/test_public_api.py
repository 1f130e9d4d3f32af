"""The public API: what each public module offers, and the one page that documents it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "modalkit",
    "modalkit.data",
    "modalkit.distributions",
    "modalkit.errors",
    "modalkit.evaluation",
    "modalkit.generation",
    "modalkit.inference",
    "modalkit.likelihoods",
    "modalkit.model",
    "modalkit.nn",
    "modalkit.plugin",
    "modalkit.recipe",
    "modalkit.runs",
    "modalkit.sklearn",
    "modalkit.testing",
    "modalkit.training",
]
TARGETS = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)


def offered(module: str) -> list[str]:
    return list(importlib.import_module(module).__all__)


def found(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_says_what_it_offers(module: str) -> None:
    names = offered(module)
    kinds = {name: (not name.isupper(), not name[0].isupper()) for name in names}  # constants, classes, functions
    assert names == sorted(set(names), key=lambda name: (*kinds[name], name))
    assert not [name for name in names if not hasattr(importlib.import_module(module), name)]


def outside() -> Iterator[str]:
    """Yield the Python code of all who use the public API: plugins that ship, templates, documents."""
    for room in ("modalities", "tools"):
        yield from (path.read_text("utf-8") for path in (ROOT / room).rglob("*.py"))
    for path in (ROOT / "modalkit" / "scaffold").rglob("*.py.template"):
        yield re.sub(r"\$\{?\w+\}?", "name", path.read_text("utf-8"))
    for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        yield from re.findall(r"^```python[^\n]*\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_what_plugins_and_documents_import_from_public_modules_is_offered() -> None:
    used: dict[str, set[str]] = {module: set() for module in PUBLIC}
    for text in outside():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in used:
                used[node.module] |= {alias.name for alias in node.names}
    used["modalkit"].discard("registry")  # a module, not a name
    assert {
        module: names - set(offered(module)) for module, names in used.items() if names - set(offered(module))
    } == {}


def test_every_public_name_is_on_the_page() -> None:
    """A name may be there under any public module that offers the same object."""
    assert len(TARGETS) == len(set(TARGETS))
    shown = [found(target) for target in TARGETS]
    missing = {
        f"{module}.{name}"
        for module in PUBLIC
        for name in offered(module)
        if not name.startswith("__") and not any(found(f"{module}.{name}") is one for one in shown)
    }
    assert missing == set()


@cache
def sources() -> Any:
    """Return the package as griffe reads it, without importing it."""
    return pytest.importorskip("griffe").load("modalkit", search_paths=[str(ROOT)])


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_on_the_page_can_be_imported_and_is_documented(target: str) -> None:
    thing = found(target)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert (thing.__doc__ or "").strip(), f"{target} has no docstring"
        if module := getattr(thing, "__module__", ""):
            assert module.startswith("modalkit")
    else:  # a constant or an alias of types, whose docstring stands below it in the source
        docstring = sources()[target.removeprefix("modalkit.")].docstring
        assert docstring and docstring.value.strip(), f"{target} has no docstring below it"
