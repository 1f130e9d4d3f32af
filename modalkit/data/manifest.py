"""Read what describes a dataset: its manifest, and the header of each shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modalkit.errors import InputError, did_you_mean
from modalkit.plugin import Schema, Settings
from modalkit.util.files import refusal
from modalkit.util.remote import is_url, read
from modalkit.util.text import listed

FORMAT = 1
SPLITS = ("train", "valid", "test")
"""Names of the splits; a row's split is stored as its index here."""
_MOST_WRONG = 24
REMEDY = "delete this file and manifest.json, and run the command that builds (or fetches) the dataset again"


class ModalityFacts(Settings):
    """What a manifest says about one modality.

    Attributes:
        facts: the result of `Schema.facts`.
        present: number of rows in which the modality is present.
        partly: number of rows in which it is absent, but some of its numbers are known (`Dataset.known`).
    """

    facts: dict[str, Any]
    present: int
    partly: int = 0


class ShardFacts(Settings):
    """What a manifest says about one shard."""

    # A name, never a path: a manifest may come from an untrusted source.
    file: str = Field(pattern=r"^[0-9]+\.safetensors$")
    rows: int
    bytes: int
    sha256: str


class Manifest(Settings):
    """The content of manifest.json."""

    format: int
    rows: int
    modalities: dict[str, ModalityFacts]
    splits: dict[str, int]
    set_aside: int
    builder: dict[str, Any]
    shards: list[ShardFacts] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if self.rows != sum(shard.rows for shard in self.shards):
            raise ValueError(f"says {self.rows} rows, but its shards add up to {sum(s.rows for s in self.shards)}")
        return self

    def complete(self, schemas: Mapping[str, Schema]) -> dict[str, Schema]:
        """Return the schemas with the fields that they leave out filled in from the dataset (`Schema.from_dataset`)."""
        completed = {}
        for name, schema in schemas.items():
            there = self.modalities[name].facts if name in self.modalities else {}
            left = {key: there[key] for key in _left_out(schema) if there.get(key) is not None}
            given = schema.model_dump(include=schema.model_fields_set)
            completed[name] = type(schema).model_validate(given | left) if left else schema
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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


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
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {raw.get('format')!r} cannot be read by this version (it reads {FORMAT}); build it again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; build the dataset again"
        ) from None


def check_manifest(path: Path | str, schemas: Mapping[str, Schema]) -> Manifest:
    """Read the manifest of a dataset and check that a recipe's schemas describe the dataset.

    Raises:
        InputError: the manifest cannot be read, or the schemas differ; the message lists the differences.
    """
    manifest = read_manifest(path)
    manifest.check(schemas, path)
    return manifest


def open_shard(path: Path, names: Sequence[str], rows: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a shard, memory-mapped, and its header.

    Args:
        path: file of the shard.
        names: the dataset's modalities; the columns of `present` are returned in this order.
        rows: number of rows that the shard must hold; None if it is not known.

    Raises:
        InputError: the shard is missing, damaged, or belongs to another dataset.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            about = json.loads((shard.metadata() or {})["modalkit"])
            tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118 (not a dict)
        present = tensors["present"]
        if set(about["modalities"]) != set(names) or len(present) != about["rows"]:
            raise ValueError(f"holds {listed(about['modalities'])}, not {listed(names)}")
        columns = {name: column for column, name in enumerate(about["modalities"])}
        tensors["present"] = present[:, [columns[name] for name in names]]
    except FileNotFoundError:  # safetensors raises it whatever the reason
        if (why := refusal(path)) is not None:
            raise InputError(f"{path}: cannot be read ({why}); ask its owner for the right to read it") from None
        raise InputError(f"{path}: this shard is missing; run the command that builds the dataset again") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: this shard is truncated or damaged ({error}); {REMEDY}") from None
    if rows is not None and about["rows"] != rows:
        raise InputError(f"{path}: this shard holds {about['rows']} rows, but the manifest says {rows}; {REMEDY}")
    return tensors, about


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
