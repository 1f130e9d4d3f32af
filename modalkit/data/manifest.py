"""What a dataset says of itself: its manifest, and the header of each shard."""

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
from modalkit.util.remote import is_url, read
from modalkit.util.text import listed

FORMAT = 1
SPLITS = ("train", "valid", "test")
"""Names of the splits; a row's split is stored as its index here."""
_MOST_WRONG = 24
REMEDY = "delete this file and manifest.json, and run the command that builds (or fetches) the dataset again"


class ModalityFacts(Settings):
    """What a manifest says of one modality: what `Schema.facts` gives, and in how many rows it is present.

    `partly` counts the rows in which it is absent, but some of its numbers are known (`Dataset.known`).
    """

    facts: dict[str, Any]
    present: int
    partly: int = 0


class ShardFacts(Settings):
    """What a manifest says of one shard."""

    file: str = Field(pattern=r"^[0-9]+\.safetensors$")  # a name and no path: a manifest may come from anywhere
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
            raise ValueError(f"says {self.rows} rows, its shards add up to {sum(shard.rows for shard in self.shards)}")
        return self

    def complete(self, schemas: Mapping[str, Schema]) -> dict[str, Schema]:
        """Return schemas with the fields that they leave to the dataset as it has them (`Schema.from_dataset`)."""
        completed = {}
        for name, schema in schemas.items():
            there = self.modalities[name].facts if name in self.modalities else {}
            left = {key: there[key] for key in _left_out(schema) if there.get(key) is not None}
            given = schema.model_dump(include=schema.model_fields_set)
            completed[name] = type(schema).model_validate(given | left) if left else schema
        return completed

    def mismatches(self, schemas: Mapping[str, Schema]) -> list[str]:
        """Return a sentence for each way in which schemas do not describe this dataset, up to a few dozen."""
        missing = [name for name in schemas if name not in self.modalities]
        if len(missing) <= _MOST_WRONG:  # near names are sought among few
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
            # The event's shape follows from the other facts, where they differ.
            keys = [key for key in keys if key != "event_shape"] or keys
            wrong += [
                f"modalities.{name}.{key}: {json.dumps(there[key])} in the dataset, {json.dumps(here[key])} here"
                for key in keys
            ]
        return wrong

    def check(self, schemas: Mapping[str, Schema], path: Path | str) -> None:
        """Raise `InputError` with every way in which schemas do not describe this dataset, which is at `path`."""
        if wrong := self.mismatches(schemas):
            raise InputError(f"{path}: does not fit the recipe:\n  " + "\n  ".join(wrong))


def _left_out(schema: Schema) -> set[str]:
    """Return the fields that a schema leaves to the dataset."""
    return {key for key in schema.from_dataset if getattr(schema, key) is None}


def shard_path(out: Path, index: int) -> Path:
    """Return where shard `index` of the dataset `out` lies."""
    return out / "shards" / f"{index:05d}.safetensors"


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or raise `InputError` if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def read_manifest(path: Path | str) -> Manifest:
    """Read a dataset's manifest; of a dataset in object storage nothing else is read.

    Args:
        path: its folder, or its URL.

    Raises:
        InputError: no dataset there, one half-built, or a manifest that cannot be read.
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
                f"command that builds it again and it goes on where it stopped"
            )
        what = "is not a modalkit dataset (no manifest.json)" if path.exists() else "there is no such dataset"
        raise InputError(f"{path}: {what}; build one with `modalkit build-dataset` or modalkit.write_dataset")
    try:
        return parse_manifest(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def parse_manifest(content: bytes, file: str) -> Manifest:
    """Return the manifest that a file's content is.

    Raises:
        InputError: it is none, or one of another version; names `file`.
    """
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {raw.get('format')!r} is not one this version reads ({FORMAT}); build it again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; build the dataset again"
        ) from None


def check_manifest(path: Path | str, schemas: Mapping[str, Schema]) -> Manifest:
    """Read a dataset's manifest and check that a recipe's schemas describe the dataset.

    Raises:
        InputError: it cannot be read, or lists the ways in which they do not.
    """
    manifest = read_manifest(path)
    manifest.check(schemas, path)
    return manifest


def open_shard(path: Path, names: Sequence[str], rows: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's tensors, memory-mapped, and what it says of itself.

    Args:
        path: its file.
        names: the dataset's modalities; the columns of `present` are brought into this order.
        rows: how many rows it must hold, if that is known.

    Raises:
        InputError: it is missing, damaged, or another dataset's.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            about = json.loads((shard.metadata() or {})["modalkit"])
            tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118 (it is no dict)
        present = tensors["present"]
        if set(about["modalities"]) != set(names) or len(present) != about["rows"]:
            raise ValueError(f"holds {listed(about['modalities'])}, not {listed(names)}")
        columns = {name: column for column, name in enumerate(about["modalities"])}
        tensors["present"] = present[:, [columns[name] for name in names]]
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; run the command that builds the dataset again") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: this shard is truncated or damaged ({error}); {REMEDY}") from None
    if rows is not None and about["rows"] != rows:
        raise InputError(f"{path}: this shard holds {about['rows']} rows, the manifest says {rows}; {REMEDY}")
    return tensors, about


def difference(before: Any, now: Any, at: str = "") -> str:
    """Name the first place in which two JSON values differ, and what stands there in each.

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
