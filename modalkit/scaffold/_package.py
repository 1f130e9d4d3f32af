"""Writing an installable plugin package from a folder of templates."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from modalkit import registry
from modalkit.errors import InputError
from modalkit.util.files import write_text


def write_package(templates: str, group: str, word: str, plugin: str, out: Path) -> list[Path]:
    """Write a package for one new plugin.

    In the templates, ``$plugin`` is the plugin's name, ``$name`` the same as a Python name and ``$Name`` as the name of
    a class; NAME in a template's file name is replaced by ``$name``.

    Args:
        templates: the folder of templates, such as ``modality``.
        group: the entry-point group that the plugin joins.
        word: what such a plugin is called, such as ``kind``.
        plugin: the name that recipes will use.
        out: the package's folder; created if necessary. Other files in it stay.

    Returns:
        The files.

    Raises:
        InputError: the name cannot be used, or a file exists already; nothing is written then.
    """
    if not re.fullmatch("[a-z][a-z0-9]*([-_][a-z0-9]+)*", plugin):
        raise InputError(
            f"'{plugin}' cannot name a {word}; use lower-case letters and digits, joined by - or _, as in wind-speed"
        )
    if plugin in registry.names(group):
        raise InputError(f"'{plugin}' is an installed {word} already (`modalkit list {word}s`); choose another name")
    name = plugin.replace("-", "_")
    words = {"plugin": plugin, "name": name, "Name": name.title().replace("_", "")}
    texts: dict[Path, str] = {}
    for template in (files("modalkit.scaffold") / "templates" / templates).iterdir():
        target = out / template.name.removesuffix(".template").replace("NAME", name)
        texts[target] = Template(template.read_text(encoding="utf-8")).substitute(words)
    for path in texts:
        if path.exists():
            raise InputError(f"{path}: exists already and is not overwritten; choose another folder with --out")
    for path, text in texts.items():
        write_text(path, text)
    return sorted(texts)
