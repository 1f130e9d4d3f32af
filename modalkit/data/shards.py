"""Open a shard, and check that it holds what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modalkit.data.manifest import REMEDY, SPLITS
from modalkit.errors import InputError
from modalkit.util.files import refusal
from modalkit.util.json_files import clipped_error, parse_json
from modalkit.util.text import listed

Facts = Mapping[str, Mapping[str, Any]]
"""The result of `Schema.facts` for each modality."""


def open_shard(path: Path, facts: Facts, rows: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a shard, memory-mapped, and its header.

    Names, shapes, dtypes, splits, presence and keys are checked. Values are not read; `require_valid` checks them.

    Args:
        path: file of the shard.
        facts: the dataset's modalities; the columns of `present` are returned in this order.
        rows: number of rows that the shard must hold; None if it is not known.

    Raises:
        InputError: the shard is missing, damaged, or belongs to another dataset; the message names the tensor.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            about = _header(shard.metadata() or {}, facts)
            stored, needed = set(shard.keys()), {"present", "split", "key", *(f"value.{name}" for name in facts)}
            if lacking := sorted(needed - stored):
                raise ValueError(f"lacks {listed(lacking, 5)}")
            optional = {f"{what}.{name}" for name in facts for what in ("known", "part")}
            tensors = {key: shard.get_tensor(key) for key in sorted(stored & (needed | optional))}
        if rows is None or about["rows"] == rows:
            _check(tensors, about["rows"], facts)
    except FileNotFoundError:  # safetensors raises it whatever the reason
        if (why := refusal(path)) is not None:
            raise InputError(f"{path}: cannot be read ({why}); ask its owner for the right to read it") from None
        raise InputError(f"{path}: this shard is missing; run the command that builds the dataset again") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, InputError) as error:
        raise InputError(f"{path}: this shard is truncated or damaged ({clipped_error(error)}); {REMEDY}") from None
    if rows is not None and about["rows"] != rows:
        raise InputError(f"{path}: this shard holds {about['rows']} rows, but the manifest says {rows}; {REMEDY}")
    columns = {name: column for column, name in enumerate(about["modalities"])}
    tensors["present"] = tensors["present"][:, [columns[name] for name in facts]]
    return tensors, about


def _header(metadata: Mapping[str, str], facts: Facts) -> dict[str, Any]:
    """Return what a shard says of itself, once it is checked; ValueError says what is wrong."""
    if "modalkit" not in metadata:
        raise ValueError("its header lacks 'modalkit'")
    about = parse_json(metadata["modalkit"], "header", "")
    names = about.get("modalities") if isinstance(about, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("header: modalities: should be a list of names")
    if len(set(names)) < len(names) or set(names) != set(facts):
        raise ValueError(f"holds {listed(names)}, not {listed(list(facts))}")
    if not isinstance(about.get("rows"), int) or isinstance(about["rows"], bool) or about["rows"] < 0:
        raise ValueError("header: rows: should be a whole number from 0")
    aside = about.get("set_aside")
    pairs = isinstance(aside, list) and all(isinstance(one, list) and len(one) == 2 for one in aside)
    if not pairs or not all(isinstance(text, str) for one in aside for text in one):
        raise ValueError("header: set_aside: should be a list of pairs of texts")
    checked: dict[str, Any] = about
    return checked


def _check(tensors: Mapping[str, Tensor], rows: int, facts: Facts) -> None:
    """Check shapes, dtypes, splits, presence and keys; ValueError names the tensor."""
    _require(tensors, "present", torch.bool, (rows, len(facts)))
    _require(tensors, "split", torch.uint8, (rows,))
    _require(tensors, "key", torch.uint8, (rows, None))
    _require_booleans(tensors, "present")
    if rows and int(tensors["split"].max()) >= len(SPLITS):
        raise ValueError(f"split: holds {int(tensors['split'].max())}, but there are only {len(SPLITS)} splits")
    _check_keys(tensors["key"])
    for name, about in facts.items():
        shape = (rows, *about["event_shape"])
        _require(tensors, f"value.{name}", getattr(torch, about["dtype"]), shape)
        known, part = f"known.{name}", f"part.{name}"
        if (known in tensors) != (part in tensors):
            raise ValueError(f"has only one of {known} and {part}")
        if known in tensors:
            _require(tensors, known, torch.bool, shape)
            _require_booleans(tensors, known)
            _require(tensors, part, getattr(torch, about["dtype"]), (int(tensors[known].sum()),))


def _require(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Check a tensor's dtype and shape; None stands for any size."""
    found = tensors[name]
    fits = found.ndim == len(shape) and all(b in (None, a) for a, b in zip(found.shape, shape, strict=True))
    if found.dtype != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{name}: is {str(found.dtype).removeprefix('torch.')} ({', '.join(map(str, found.shape))}), should be "
            f"{str(dtype).removeprefix('torch.')} ({wanted})"
        )


def _require_booleans(tensors: Mapping[str, Tensor], name: str) -> None:
    """Check the bytes of booleans, because PyTorch computes nonsense with others than 0 and 1."""
    as_bytes = tensors[name].view(torch.uint8)
    if as_bytes.numel() and int(as_bytes.max()) > 1:
        raise ValueError(f"{name}: holds bytes other than 0 and 1")


def _check_keys(keys: Tensor) -> None:
    """Check that each row's key is UTF-8."""
    if not keys.numel() or int(keys.max()) < 128:
        return
    table = keys.numpy()
    # A zero byte after each key separates it from the key of the next row.
    lines = np.concatenate([table, np.zeros((len(table), 1), np.uint8)], 1)
    try:
        lines.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"key: that of row {error.start // lines.shape[1]} of the shard is not UTF-8") from None
