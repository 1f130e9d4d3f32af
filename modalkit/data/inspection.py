"""What a dataset holds, for a person to read and look at."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.manifest import REMEDY
from modalkit.errors import InputError
from modalkit.pictures import MOST_COLUMNS, chosen, dataset_sheet
from modalkit.plugin import Schema, Settings
from modalkit.util.files import write_atomic
from modalkit.util.text import evenly_spaced, listed


def schemas(dataset: Dataset) -> dict[str, Schema]:
    """Return the schemas that a dataset was written with, as far as their kinds are known here."""
    derived, found = {"event_shape", "dtype"}, {}
    for name in dataset.names:
        facts = dataset.manifest.modalities[name].facts
        if facts["kind"] in registry.names(registry.KINDS):
            found[name] = registry.schema(**{k: v for k, v in facts.items() if k not in derived})
    return found


def keys(model: type[Settings]) -> str:
    """Return the keys of a schema or of options, a line each: what it may be, its default, what it means."""
    whole = model.model_json_schema()
    lines = []
    for name, part in whole["properties"].items():
        default = "required" if name in whole.get("required", []) else f"default {json.dumps(part.get('default'))}"
        lines.append(
            f"  {name}: {_may_be(part, whole.get('$defs', {}))}; {default}\n      {part.get('description', '')}"
        )
    return "\n".join(lines)


def _may_be(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return a JSON Schema as a few words."""
    if "$ref" in part:
        target = definitions[part["$ref"].split("/")[-1]]
        return f"{{{', '.join(target.get('properties', {}))}}}"
    for several in ("anyOf", "oneOf"):
        if several in part:
            return " or ".join(dict.fromkeys(_may_be(one, definitions) for one in part[several]))
    if "const" in part or "enum" in part:
        return " | ".join(json.dumps(one) for one in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        inside = part.get("items") or {}
        return f"list of {_may_be(inside, definitions)}" if inside else f"list of {part.get('maxItems', 'any')}"
    return str(part.get("type", "any"))


def describe(dataset: Dataset, *, verify: bool = False) -> str:
    """Return counts, presence for each modality and split, sizes and origin, as text.

    Args:
        dataset: opened with all its modalities.
        verify: also compare every shard with the checksum in the manifest.

    Raises:
        InputError: a shard is not what was written.
    """
    manifest = dataset.manifest
    total = sum(s.bytes for s in manifest.shards)
    said = {k: v for k, v in manifest.builder.items() if not isinstance(v, dict) and v not in ("", None)}
    shards = "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards)} shards"
    lines = [
        f"{dataset.path}: {manifest.rows} rows in {shards}, {total / 2**20:.1f} MiB",
        "built by: " + ", ".join(f"{k} {v}" for k, v in said.items()),
        "splits: " + ", ".join(f"{name} {count}" for name, count in manifest.splits.items()),
        f"complete rows: {int(dataset.present.all(1).sum())}",
    ]
    if manifest.set_aside:
        lines.append(f"set aside: {manifest.set_aside} sources, with their reasons in {dataset.path}/set_aside.tsv")
    if verify:
        _verify(dataset)
        lines.append(f"checksums: as they were written, in {shards}")
    width = max(len(n) for n in evenly_spaced(dataset.names)) + 2
    lines += ["", "modality".ljust(width) + "kind".ljust(12) + "shape".ljust(14) + "stored".ljust(9) + "present"]
    splits = {name: dataset.present[dataset.rows(name)].sum(0) for name, count in manifest.splits.items() if count}
    for name in evenly_spaced(dataset.names):
        column = dataset.names.index(name)
        facts, count = manifest.modalities[name].facts, manifest.modalities[name].present
        shape = "x".join(map(str, facts["event_shape"])) or "one"
        per_split = ", ".join(f"{s} {int(c[column])}" for s, c in splits.items())
        share = f"{count} ({100 * count / max(1, manifest.rows):.1f} %: {per_split})"
        if partly := manifest.modalities[name].partly:
            share += f", {partly} more in part"
        lines.append(name.ljust(width) + facts["kind"].ljust(12) + shape.ljust(14) + facts["dtype"].ljust(9) + share)
    if len(evenly_spaced(dataset.names)) < len(dataset.names):
        lines.append(f"({len(evenly_spaced(dataset.names))} of {len(dataset.names)} modalities, evenly spaced)")
    return "\n".join(lines)


def _verify(dataset: Dataset) -> None:
    for shard in dataset.manifest.shards:
        path = dataset.folder / "shards" / shard.file
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != shard.sha256:
                raise InputError(f"{path}: is not what was written (its checksum differs); {REMEDY}")


def save_sheet(dataset: Dataset, rows: int, path: Path) -> str:
    """Save a picture sheet of a dataset's first rows and return a line that says where, and what is not on it."""
    known = schemas(dataset)
    shown, unknown = chosen(known, MOST_COLUMNS), [name for name in dataset.names if name not in known]
    sheet = dataset_sheet(dataset, {name: known[name] for name in shown}, torch.arange(min(rows, len(dataset))))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="png"))
    part = f" ({len(shown)} of {len(known)} modalities)" if len(shown) < len(known) else ""
    why = f"; not shown, their kind is not installed (--plugin names its file): {listed(unknown)}" if unknown else ""
    return f"pictures: {path}{part}{why}"
