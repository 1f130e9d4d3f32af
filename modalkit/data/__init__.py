"""Datasets of N modalities on disk: safetensors shards with a manifest, and batches with presence.

A dataset is a folder::

    manifest.json             schemas, splits, counts, checksums, and how the dataset was built
    shards/00000.safetensors  the rows: values of every modality, which are present, the split and the key
    set_aside.tsv             inputs that the builder could not use, and why; only if there are any
    build.json                the build's settings, so that it can resume; only while the dataset is being built

A shard is written whole or not at all, and its bytes do not depend on the process that writes it. Builds therefore
resume and are distributed shard by shard.

The names below load on first use, so that checking a recipe does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalkit.util.lazy import on_first_use

if TYPE_CHECKING:
    from modalkit.data.arrays import assign_splits, write_dataset
    from modalkit.data.joining import join
    from modalkit.data.manifest import SPLITS, Manifest, check_manifest, read_manifest
    from modalkit.data.reading import Batch, Dataset
    from modalkit.data.writing import Array, DatasetWriter, Rows, check_values, write_shard

__all__ = [
    "SPLITS",
    "Array",
    "Batch",
    "Dataset",
    "DatasetWriter",
    "Manifest",
    "Rows",
    "assign_splits",
    "check_manifest",
    "check_values",
    "join",
    "read_manifest",
    "write_dataset",
    "write_shard",
]

_MODULES = {
    "arrays": ("assign_splits", "write_dataset"),
    "joining": ("join",),
    "manifest": ("SPLITS", "Manifest", "check_manifest", "read_manifest"),
    "reading": ("Batch", "Dataset"),
    "writing": ("Array", "DatasetWriter", "Rows", "check_values", "write_shard"),
}

__getattr__ = on_first_use(
    __name__, {name: f"modalkit.data.{module}" for module, names in _MODULES.items() for name in names}
)
