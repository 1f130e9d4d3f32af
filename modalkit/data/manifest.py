"""Read what describes a dataset: its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema, Settings, Stored
from modalkit.util.json_files import MAX_BYTES, first_problem, parse_json, read_json
from modalkit.util.remote import is_url, read
from modalkit.util.text import listed

FORMAT = 1
SPLITS = ("train", "valid", "test")
"""Names of the splits; a row's split is stored as its index here."""
_MOST_WRONG = 24
_MOST_NUMBERS = 1 << 31
"""Largest sample, in numbers."""
REMEDY = "delete this file and manifest.json, and run the command that builds (or fetches) the dataset again"


class ModalityFacts(Settings):
    """What a manifest says about one modality.

    Attributes:
        facts: the result of `Schema.facts`.
        present: number of rows in which the modality is present.
        partly: number of rows in which it is absent, but some of its numbers are known (`Dataset.known`).
    """

    facts: dict[str, Any]
    present: int = Field(ge=0)
    partly: int = Field(0, ge=0)

    @field_validator("facts")
    @classmethod
    def _describes(cls, facts: dict[str, Any]) -> dict[str, Any]:
        """Check the facts that every kind has."""
        if not isinstance(facts.get("kind"), str):
            raise ValueError("kind: should be the name of a kind")
        if facts.get("dtype") not in get_args(Stored):
            raise ValueError(f"dtype: should be one of {', '.join(get_args(Stored))}")
        shape = facts.get("event_shape")
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _MOST_NUMBERS for size in shape):
            raise ValueError("event_shape: should be a list of sizes")
        if prod(shape) > _MOST_NUMBERS:
            raise ValueError(f"event_shape: a sample of {prod(shape)} numbers is too large")
        return facts


class ShardFacts(Settings):
    """What a manifest says about one shard."""

    # A name, never a path: a manifest may come from an untrusted source.
    file: str = Field(pattern=r"^[0-9]+\.safetensors$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Settings):
    """The content of manifest.json."""

    format: int
    rows: int = Field(ge=0)
    modalities: dict[str, ModalityFacts] = Field(min_length=1)
    splits: dict[Literal["train", "valid", "test"], Annotated[int, Field(ge=0)]]
    set_aside: int = Field(ge=0)
    builder: dict[str, Any]
    shards: list[ShardFacts] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if self.rows != sum(shard.rows for shard in self.shards):
            raise ValueError(f"says {self.rows} rows, but its shards add up to {sum(s.rows for s in self.shards)}")
        if self.rows != sum(self.splits.values()):
            raise ValueError(f"says {self.rows} rows, but its splits add up to {sum(self.splits.values())}")
        if len({shard.file for shard in self.shards}) < len(self.shards):
            raise ValueError("shards: a file is listed twice")
        for name, entry in self.modalities.items():
            if entry.present + entry.partly > self.rows:
                raise ValueError(f"modalities.{name}.present: more than the {self.rows} rows")
        return self

    def complete(self, schemas: Mapping[str, Schema]) -> dict[str, Schema]:
        """Return the schemas with the fields that they leave out filled in from the dataset (`Schema.from_dataset`).

        Raises:
            InputError: a kind refuses what the manifest says.
        """
        completed = {}
        for name, schema in schemas.items():
            there = self.modalities[name].facts if name in self.modalities else {}
            left = {key: there[key] for key in _left_out(schema) if there.get(key) is not None}
            given = schema.model_dump(include=schema.model_fields_set)
            try:
                completed[name] = type(schema).model_validate(given | left) if left else schema
            except ValidationError as error:
                raise InputError(
                    f"manifest.json: modalities.{name}.facts: {first_problem(error)}; build the dataset again"
                ) from None
        return completed

    def mismatches(self, schemas: Mapping[str, Schema]) -> list[str]:
        """Return a sentence for each difference between the schemas and this dataset, at most a few dozen."""
        missing = [name for name in schemas if name not in self.modalities]
        if len(missing) <= _MOST_WRONG:  # similar names are only sought for a few
            missing = [name for name in missing if not did_you_mean(name, self.modalities)]
        together = set(missing) if len(missing) > 1 else set()
        wrong = [f"the dataset lacks {listed(missing)}; it has {listed(self.modalities)}"] if together else []
        for name, schema in schemas.items():
            if name in together:
                continue
            if len(wrong) >= _MOST_WRONG:
                return [*wrong, f"and so on; only the first {len(wrong)} are listed"]
            if name not in self.modalities:
                near = did_you_mean(name, self.modalities) or f"; it has {listed(self.modalities)}"
                wrong.append(f"modalities.{name}: the dataset has no such modality{near}")
                continue
            there, here = self.modalities[name].facts, schema.facts()
            # The kind itself may differ: another kind may model the same stored samples.
            unsaid = _left_out(schema) | {key for key in schema.from_dataset if there.get(key) is None}
            skipped = {"kind", *schema.model_only, *unsaid}
            keys = [key for key in there if key in here and key not in skipped and there[key] != here[key]]
            # The shape of a sample follows from the other facts, so it is reported only if it alone differs.
            keys = [key for key in keys if key != "event_shape"] or keys
            wrong += [
                f"modalities.{name}.{key}: {json.dumps(there[key])} in the dataset, {json.dumps(here[key])} here"
                for key in keys
            ]
        return wrong

    def check(self, schemas: Mapping[str, Schema], path: Path | str) -> None:
        """Raise `InputError` if schemas do not describe this dataset at `path`; the message lists all differences."""
        if wrong := self.mismatches(schemas):
            raise InputError(f"{path}: does not fit the recipe:\n  " + "\n  ".join(wrong))


def _left_out(schema: Schema) -> set[str]:
    """Return the fields that a schema takes from the dataset."""
    return {key for key in schema.from_dataset if getattr(schema, key) is None}


def shard_path(out: Path, index: int) -> Path:
    """Return the path of shard `index` of the dataset in the folder `out`."""
    return out / "shards" / f"{index:05d}.safetensors"


def read_manifest(path: Path | str) -> Manifest:
    """Read the manifest of a dataset, and none of its shards.

    Args:
        path: folder or URL of the dataset.

    Raises:
        InputError: there is no dataset, it is half-built, or its manifest cannot be read.
    """
    if is_url(path):
        return parse_manifest(read(f"{path}/manifest.json"), f"{path}/manifest.json")
    path = Path(path)
    file = path / "manifest.json"
    if not file.exists():
        if (path / "build.json").exists():
            begun = read_json(path / "build.json")
            begun = begun if isinstance(begun, dict) else {}
            done = len(list((path / "shards").glob("*.safetensors"))) if (path / "shards").exists() else 0
            raise InputError(
                f"{path}: this dataset is half-built ({done} of {begun.get('shards', '?')} shards); run the "
                f"command that builds it again, and it resumes where it stopped"
            )
        what = "is not a modalkit dataset (no manifest.json)" if path.exists() else "there is no such dataset"
        raise InputError(f"{path}: {what}; build one with `modalkit build-dataset` or modalkit.write_dataset")
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{file}: {size} bytes are too many for a manifest; build the dataset again")
        return parse_manifest(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def parse_manifest(content: bytes, file: str) -> Manifest:
    """Parse the content of a manifest file.

    Args:
        content: content of the file.
        file: its name in error messages.

    Raises:
        InputError: the content is not a manifest, or has a format of another version.
    """
    raw = parse_json(content, file, "build the dataset again", finite=True)
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {raw.get('format')!r} cannot be read by this version (it reads {FORMAT}); build it again"
        )
    try:
        return Manifest.model_validate(raw, strict=True)
    except ValidationError as error:
        raise InputError(f"{file}: {first_problem(error)}; build the dataset again") from None


def check_manifest(path: Path | str, schemas: Mapping[str, Schema]) -> Manifest:
    """Read the manifest of a dataset and check that a recipe's schemas describe the dataset.

    Raises:
        InputError: the manifest cannot be read, or the schemas differ; the message lists the differences.
    """
    manifest = read_manifest(path)
    manifest.check(schemas, path)
    return manifest


def difference(before: Any, now: Any, at: str = "") -> str:
    """Return the path of the first difference between two JSON values, with both values.

    >>> difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b: 1 there, 2 now'
    """
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{at}.{key}" if at else str(key))
    return f"{at}: {json.dumps(before)} there, {json.dumps(now)} now"
