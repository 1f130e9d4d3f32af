"""A dataset described in words: counts, presence, sizes, origin."""

from __future__ import annotations

import hashlib
import re

from modalkit import registry
from modalkit.data.manifest import REMEDY
from modalkit.data.reading import Dataset
from modalkit.data.suitability import require_valid
from modalkit.errors import InputError, guard
from modalkit.plugin import Schema
from modalkit.util.text import columns, evenly_spaced


def schemas(dataset: Dataset) -> dict[str, Schema]:
    """Return the schemas of a dataset's modalities, without those whose kind is not installed.

    Raises:
        InputError: a kind refuses what the manifest says of a modality.
    """
    derived, found = {"event_shape", "dtype"}, {}
    for name in dataset.names:
        facts = dataset.manifest.modalities[name].facts
        if facts["kind"] in registry.names(registry.KINDS):
            where = f"{dataset.folder / 'manifest.json'}: modalities.{name}.facts"
            try:
                with guard("the kind's schema"):
                    found[name] = registry.schema(**{k: v for k, v in facts.items() if k not in derived})
                    made = found[name].facts()
            except InputError as error:
                raise InputError(f"{where}: {error}; build the dataset again") from None
            for key in sorted(derived):
                if made[key] != facts[key]:
                    raise InputError(
                        f"{where}.{key}: is {facts[key]}, but its kind makes {made[key]} of the other facts; build the "
                        f"dataset again"
                    )
    return found


def describe(dataset: Dataset, *, verify: bool = False) -> str:
    """Return a dataset's counts, the presence of each modality in each split, its sizes and its origin, as text.

    Args:
        dataset: opened with all its modalities.
        verify: also compare every shard with its checksum in the manifest.

    Raises:
        InputError: a kind cannot hold the values of its modality, or a shard differs from its checksum.
    """
    require_valid(dataset, schemas(dataset))
    manifest = dataset.manifest
    total = sum(s.bytes for s in manifest.shards)
    origin = {k: v for k, v in manifest.builder.items() if not isinstance(v, dict) and v not in ("", None)}
    shards = "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards)} shards"
    lines = [
        f"{dataset.path}: {manifest.rows} rows in {shards}, {total / 2**20:.1f} MiB",
        "built by: " + ", ".join(f"{k} {_shortened(v)}" for k, v in origin.items()),
        "splits: " + ", ".join(f"{name} {count}" for name, count in manifest.splits.items()),
        f"complete rows: {int(dataset.present.all(1).sum())}",
    ]
    if manifest.set_aside:
        lines.append(f"set aside: {manifest.set_aside} sources, with their reasons in {dataset.path}/set_aside.tsv")
    if verify:
        _verify(dataset)
        lines.append(f"checksums: all match, in {shards}")
    lines += ["", _modalities(dataset)]
    if (shown := len(evenly_spaced(dataset.names))) < len(dataset.names):
        lines.append(f"({shown} of {len(dataset.names)} modalities, evenly spaced)")
    return "\n".join(lines)


def _modalities(dataset: Dataset) -> str:
    """Return a table with a line for each modality."""
    manifest = dataset.manifest
    splits = {name: dataset.present[dataset.rows(name)].sum(0) for name, count in manifest.splits.items() if count}
    lines = [("modality", "kind", "shape", "stored", "present")]
    for name in evenly_spaced(dataset.names):
        column, entry = dataset.names.index(name), manifest.modalities[name]
        shape = "x".join(map(str, entry.facts["event_shape"])) or "one"
        per_split = ", ".join(f"{split} {int(counts[column])}" for split, counts in splits.items())
        share = f"{entry.present} ({100 * entry.present / max(1, manifest.rows):.1f} %: {per_split})"
        if entry.partly:
            share += f", {entry.partly} more in part"
        lines.append((name, entry.facts["kind"], shape, entry.facts["dtype"], share))
    return columns(lines)


def _shortened(value: object) -> str:
    """Return a value as text; of a SHA-256 digest, the first 12 digits."""
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def _verify(dataset: Dataset) -> None:
    for shard in dataset.manifest.shards:
        path = dataset.folder / "shards" / shard.file
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != shard.sha256:
                raise InputError(f"{path}: does not match its checksum in the manifest; {REMEDY}")
