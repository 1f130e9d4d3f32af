"""Writes a plugin package for a new modality kind, which works as it stands and is there to be changed."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from modalkit import registry
from modalkit.errors import InputError
from modalkit.util.files import write_text


def new_modality(kind: str, out: Path) -> list[Path]:
    """Write an installable package: the kind in one module, its test, a dataset, a recipe, README and pyproject.toml.

    Args:
        kind: the name that recipes will use.
        out: the package's folder; made if needed, and what else is in it stays.

    Returns:
        The files.

    Raises:
        InputError: the name cannot be used, or a file is there already; nothing is written then.
    """
    if not re.fullmatch("[a-z][a-z0-9]*([-_][a-z0-9]+)*", kind):
        raise InputError(
            f"'{kind}' cannot name a kind; write lower-case letters and digits, joined by - or _, as in wind-speed"
        )
    if kind in registry.names(registry.KINDS):
        raise InputError(f"'{kind}' is a kind that is installed already (`modalkit list kinds`); choose another name")
    name = kind.replace("-", "_")
    words = {"kind": kind, "name": name, "Name": name.title().replace("_", "")}
    texts: dict[Path, str] = {}
    for template in (files("modalkit.scaffold") / "templates" / "modality").iterdir():
        target = out / template.name.removesuffix(".template").replace("NAME", name)
        texts[target] = Template(template.read_text(encoding="utf-8")).substitute(words)
    for path in texts:
        if path.exists():
            raise InputError(f"{path}: is there already, and nothing is overwritten; choose another folder by --out")
    for path, text in texts.items():
        write_text(path, text)
    return sorted(texts)
