"""Small datasets of random values in the place of each that the shipped recipes name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from modalkit_tools.faces.celeba import make_schemas as celeba_schemas
from modalkit_tools.mnist.idx import schemas as idx_schemas
from modalkit_tools.mnist.multimnist import make_schemas as multimnist_schemas
from modalkit_tools.mnist.poly_mnist import make_schemas as poly_schemas
from modalkit_tools.sample_bits import make_schemas as bits_schemas

import modalkit
from modalkit.plugin import Schema

ROWS = {"train": 4, "valid": 2, "test": 2}
DATASETS: dict[str, Callable[[], Mapping[str, Schema]]] = {  # as the builders make them, by their folder
    "mnist": idx_schemas,
    "binary-mnist": idx_schemas,
    "fashion-mnist": idx_schemas,
    "multimnist": multimnist_schemas,
    "poly-mnist": lambda: poly_schemas(5),
    "celeba-transforms": lambda: celeba_schemas(64, annotated=True),
    "celeba32": lambda: celeba_schemas(32, annotated=True),
    "bits1000": lambda: bits_schemas(1000),
    "quickstart": lambda: celeba_schemas(32, annotated=False),
}


def random_values(schema: Schema, rows: int, generator: torch.Generator) -> Any:
    fields = schema.model_dump()
    if schema.kind == "tokens":
        lengths = torch.randint(fields["max_length"] + 1, (rows,), generator=generator)
        return ["7" * int(length) for length in lengths]
    high = {"label": fields.get("classes", 0), "bit": 2, "attributes": 2}.get(schema.kind, 256)
    return torch.randint(high, (rows, *schema.event_shape), generator=generator)


def write_made(folder: Path) -> Path:
    """Write all of them into a folder, each by its name, and return it."""
    generator = torch.Generator().manual_seed(0)
    split = [name for name, rows in ROWS.items() for _ in range(rows)]
    for name, schemas in DATASETS.items():
        described = schemas()
        values = {n: random_values(schema, len(split), generator) for n, schema in described.items()}
        modalkit.write_dataset(folder / name, described, values, split=split)
    return folder
