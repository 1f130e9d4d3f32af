"""Datasets of N modalities on disk: safetensors shards with a manifest, and batches with presence.

A dataset is a folder::

    manifest.json             schemas, splits, counts, checksums, and how it was built
    shards/00000.safetensors  every modality's rows, which are present, their split and their key
    set_aside.tsv             what the builder could not use, and why (where there is any)
    build.json                only while it is being built: the settings, so that work can go on

A shard is written whole or not at all, so it is the unit of resume and of distribution: whoever writes
it, the bytes are the same.
"""

from modalkit.data.arrays import assign_splits, write_dataset
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
    "read_manifest",
    "write_dataset",
    "write_shard",
]
