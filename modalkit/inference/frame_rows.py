"""Rows of a table in memory as a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from modalkit.data import Batch
from modalkit.data.annotated import MatrixReader
from modalkit.data.frame_values import Reader
from modalkit.data.frames import Frame
from modalkit.errors import InputError
from modalkit.plugin import Schema

AnyReader: TypeAlias = Reader | MatrixReader
"""Reads a modality some rows at a time, from a table or from a matrix."""


def readers(schemas: Mapping[str, Schema], frame: Frame) -> dict[str, Reader]:
    """Return what reads each modality from a table.

    Raises:
        InputError: the table has no column of any modality.
    """
    found = {name: Reader.of(name, schema, frame) for name, schema in schemas.items()}
    if all(column is None for reader in found.values() for column in reader.columns):
        raise InputError(
            f"data: the table has none of the model's columns; it has {', '.join(frame.names[:9])}, the model "
            f"{', '.join(list(schemas)[:9])}"
        )
    return found


def frame_batch(schemas: Mapping[str, Schema], frame: Frame) -> Batch:
    """Return the rows of a table as a dataset stores them; modalities that it has no column of are absent."""
    return read_rows(readers(schemas, frame), slice(0, frame.rows))[0]


def read_rows(
    reading: Mapping[str, Reader | MatrixReader], rows: slice
) -> tuple[Batch, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Return rows of a table or of matrices, and by modality which numbers are known of entries that are absent."""
    values, present, known = {}, [], {}
    for name, reader in reading.items():
        stored, there, partly = reader(rows)
        values[name] = torch.from_numpy(stored)
        present.append(torch.from_numpy(there))
        if partly is not None:
            known[name] = torch.from_numpy(partly), values[name].clone()
            values[name][~present[-1]] = 0
    return Batch(values, torch.stack(present, 1)), known
