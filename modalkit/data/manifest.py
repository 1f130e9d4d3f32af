"""What a dataset says of itself: its manifest, and the header of each shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modalkit.errors import InputError
from modalkit.plugin import Settings

FORMAT = 1
SPLITS = ("train", "valid", "test")


class ModalityFacts(Settings):
    """What a manifest says of one modality: what `Schema.facts` gives, and in how many rows it is present."""

    facts: dict[str, Any]
    present: int


class ShardFacts(Settings):
    """What a manifest says of one shard."""

    file: str
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
    shards: list[ShardFacts]


def shard_path(out: Path, index: int) -> Path:
    """Return where shard `index` of the dataset `out` lies."""
    return out / "shards" / f"{index:05d}.safetensors"


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or raise `InputError` if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def read_manifest(path: Path) -> Manifest:
    """Read a dataset's manifest.

    Raises:
        InputError: no dataset there, one half-built, or a manifest that cannot be read.
    """
    file = path / "manifest.json"
    if not file.exists():
        if (path / "build.json").exists():
            begun = read_json(path / "build.json")
            done = len(list((path / "shards").glob("*.safetensors"))) if (path / "shards").exists() else 0
            raise InputError(
                f"{path}: this dataset is half-built ({done} of {begun.get('shards', '?')} shards); run the "
                f"command that builds it again and it goes on where it stopped"
            )
        what = "is not a modalkit dataset (no manifest.json)" if path.exists() else "there is no such dataset"
        raise InputError(f"{path}: {what}; build one with `modalkit build-dataset` or modalkit.write_dataset")
    raw = read_json(file)
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


def open_shard(path: Path, rows: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's tensors, memory-mapped, and what it says of itself."""
    remedy = "delete this file and run the command that builds the dataset again"
    try:
        with safe_open(path, framework="pt") as shard:
            about = json.loads((shard.metadata() or {})["modalkit"])
            tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118 (it is no dict)
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; run the command that builds the dataset again") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: this shard is truncated or damaged ({error}); {remedy}") from None
    if rows is not None and about["rows"] != rows:
        raise InputError(f"{path}: this shard holds {about['rows']} rows, the manifest says {rows}; {remedy}")
    return tensors, about
