"""What is installed, which module may import which, and that every habit has the same command everywhere."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["project"]["entry-points"]

# Each line may know itself and the lines above it.
ORDER = [
    ["errors", "util"],
    ["plugin"],
    ["nn", "distributions", "likelihoods"],
    ["registry"],
    ["pictures", "data"],
    ["recipe", "scaffold"],
    ["model", "objectives"],
    ["runs"],
    ["evaluation", "testing"],
    ["inference", "training"],
    ["generation"],
    ["api"],
    ["sklearn"],
    ["playground", "publishing", "report", "reproduction"],
    ["doctor"],
    ["cli"],
    ["__main__"],
]
ROOMS = {
    "modalities": {"plugin", "nn", "distributions", "likelihoods", "errors", "util"},
    "tools": {"plugin", "data", "registry", "errors", "util", "recipe"},
}

ROOTS = {"modalkit": "modalkit"} | {room: f"modalkit_{room}" for room in ("modalities", "tools", "recipes")}


def imports(path: Path) -> set[str]:
    """Return the absolute modules that a file imports while running (not for type checking alone)."""
    found: set[str] = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.update(f"{node.module}.{a.name}" if node.module == "modalkit" else node.module for a in node.names)
    return found


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a file, those in functions included, but none that is for type checking alone."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts[0] = ROOTS[parts[0]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def knows(path: Path, modules: set[str]) -> set[str]:
    """Return the modules of the project that a file imports, relative imports and those in functions included."""
    here = module_name(path).split(".")
    package = here if path.stem == "__init__" else here[:-1]
    found = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{source}.{alias.name}" for alias in node.names}
            found |= inner & modules or {source}
    return found & modules - {module_name(path)}


def core(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("modalkit.")}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_every_core_module_has_a_place_in_the_order() -> None:
    modules = {p.stem for p in (ROOT / "modalkit").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert modules - {"__init__"} == {name for line in ORDER for name in line}


@pytest.mark.parametrize("path", sources("modalkit"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_knows_only_what_stands_above(path: Path) -> None:
    if path.parent.name == "modalkit" and path.stem == "__init__":
        return
    name = path.relative_to(ROOT / "modalkit").parts[0].removesuffix(".py")
    place = next(i for i, line in enumerate(ORDER) if name in line)
    allowed = {known for line in ORDER[: place + 1] for known in line}
    assert core(imports(path)) - {"__version__"} <= allowed


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {module_name(path): path for folder in ("modalkit", "modalities", "tools") for path in sources(folder)}
    graph = {name: knows(path, set(paths)) for name, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", ROOMS)
def test_plugins_know_the_contract_and_its_tools_only(room: str) -> None:
    for path in sources(room):
        assert core(imports(path)) <= ROOMS[room], path.name


def test_no_source_line_imports_the_plugin_rooms() -> None:
    forbidden = ("modalities", "tools", "recipes", "modalkit_")
    for folder in ("modalkit", "modalities", "tools", "recipes"):
        for path in sources(folder):
            assert not [name for name in imports(path) if name.split(".")[0].startswith(forbidden)], path


def test_every_plugin_file_has_its_entry_point() -> None:
    kinds = {p.stem for p in sources("modalities")} - {"__init__"}
    assert set(GROUPS["modalkit.modalities"]) == kinds
    with_builder = {p.relative_to(ROOT / "tools") for p in sources("tools") if "BUILDER" in p.read_text()}
    named = [value.split(":")[0].split(".")[1:] for value in GROUPS["modalkit.builders"].values()]
    assert {Path(*parts).with_suffix(".py") for parts in named} == with_builder


@pytest.mark.parametrize("group", GROUPS)
def test_the_installed_entry_points_are_those_of_the_project(group: str) -> None:
    """Fails after pyproject.toml changed until the package is installed again."""
    installed = {e.name: e.value for e in entry_points(group=group) if e.dist and e.dist.name == "modalkit-vae"}
    assert installed == GROUPS[group]
    for entry in entry_points(group=group):
        assert entry.load() is not None


def test_packages_are_all_listed() -> None:
    folders = [p.parent.relative_to(ROOT) for room in ROOTS for p in (ROOT / room).rglob("__init__.py")]
    found = {".".join((ROOTS[folder.parts[0]], *folder.parts[1:])) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def commands_of_make() -> dict[str, list[str]]:
    """Return the commands of each target of the Makefile, those of the targets that it needs first."""
    found: dict[str, list[str]] = {}
    needs: dict[str, list[str]] = {}
    target = ""
    for line in (ROOT / "Makefile").read_text().splitlines():
        if heading := re.match(r"([a-z]+):([a-z ]*)", line):
            target = heading[1]
            needs[target], found[target] = heading[2].split(), []
        elif line.startswith("\t"):
            found[target].append(line.strip())
    return {target: [c for need in needs[target] for c in found[need]] + found[target] for target in found}


def test_make_the_continuous_integration_and_the_hooks_run_the_same_commands() -> None:
    make = commands_of_make()
    assert {"format", "lint", "types", "tests", "docs", "benchmarks", "ci"} <= set(make)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    programs = {command.split()[0] for command in make["ci"]}
    assert [line for line in lines if line.split(" ")[0] in programs] == make["ci"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = {hook["id"]: hook["entry"] for hook in hooks[0]["hooks"]}
    for name in ("lint", "format", "types"):
        assert entries[name] == make[name][0]
    assert make["doctests"][0].split()[0] in entries["doctests"]
    shown = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"`make (\w+)`", shown)) == set(make)
