"""What each modality is, as YAML: a kind and its fields, for builders whose input names the modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalkit.data.manifest import read_manifest
from modalkit.errors import InputError, did_you_mean
from modalkit.recipe.templates import modality_name
from modalkit.recipe.yaml import Document, Place, flow, parse


def described(entries: Mapping[str, Mapping[str, Any]], source: str) -> str:
    """Return modalities as YAML that `read_entries` reads, under a comment that names their source."""
    lines = [f"# Inferred from {source}"]
    lines += [f"{name}: {flow(dict(entry))}" for name, entry in entries.items()]
    return "\n".join(lines) + "\n"


def read_entries(path: Path, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read a kind and its fields for each modality from YAML, or from a dataset that was built before.

    Args:
        path: a YAML file, or a dataset's folder.
        known: the names of what modalities can be made of.

    Raises:
        InputError: the file cannot be read, or has an unknown name or a wrong entry; the message names the line.
    """
    if path.is_dir():
        derived = {"event_shape", "dtype"}
        facts = {name: m.facts for name, m in read_manifest(path).modalities.items()}
        return {n: {k: v for k, v in f.items() if k not in derived} for n, f in facts.items() if n in known}
    document = read_yaml(path)
    value = document.value if isinstance(document.value, dict) else {}
    for name, entry in value.items():
        if name not in known:
            document.blame((name,), f"does not exist{did_you_mean(name, known) or f'; there is {listed(known)}'}")
        elif not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            document.blame((name,), "should be a mapping with a kind, such as {kind: vector, size: 3}")
        else:
            check_name(document, (name,), name)
    if document.problems or not value:
        raise InputError("\n".join(map(str, document.problems)) or f"{path}: names no modality")
    return value


def check_name(document: Document, at: tuple[str | int, ...], name: str) -> None:
    """Note in a document if a modality must not have this name."""
    try:
        modality_name(name)
    except ValueError as error:
        document.blame(at, str(error))


def read_yaml(path: Path) -> Document:
    """Read a YAML file; raise `InputError` if it cannot be read."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"), Place(str(path), 1))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def listed(names: Sequence[str]) -> str:
    """Return names separated by commas; of more than 20 the first 20 and how many follow."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
