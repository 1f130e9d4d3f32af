"""Draws portraits, and lays them out on disk as CelebA is, with true attributes.

Portrait number i is a function of (seed, i) alone: whoever draws it, and whenever, it has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from modalkit.errors import InputError
from modalkit.plugin import Builder
from modalkit.util.files import is_empty, locked, remove_leftovers, write_atomic, write_json, write_text
from modalkit.util.progress import bar

from ..execution.options import Execution
from ..execution.tasks import map_tasks
from .annotations import ATTRIBUTES
from .sources import FOLDER

if TYPE_CHECKING:
    from .portrait import Portrait

VERSION = 1
"""Raised whenever the same options would give other bytes."""
QUALITY = 92
"""Of the JPEG files."""
SHARES = (1, 2, 2, 3, 3, 3, 3, 4, 4, 5)
"""Portraits that each of ten people has among thirty in a row; of the ten, eight train, one validates, one tests."""
CHUNK = 30
"""Portraits a task."""
_PEOPLE, _FACE, _PORTRAIT = range(3)
"""What a random stream is for, so that no two share one."""


class SampleFacesOptions(Execution):
    """What `modalkit build-dataset sample-faces` can be told."""

    count: int = Field(2000, ge=1, le=999_999, description="portraits to draw")
    seed: int = Field(0, ge=0, description="other seeds give other portraits")


@dataclass(frozen=True)
class Task:
    """Some portraits to draw, by their numbers."""

    out: Path
    seed: int
    numbers: range


@dataclass(frozen=True)
class Entry:
    """What the annotation files say of one portrait; `split` is 0, 1 or 2 for train, valid, test."""

    number: int
    person: int
    split: int
    attributes: tuple[bool, ...]


def file_name(number: int) -> str:
    """Return the file name of a portrait, numbered from 1 as CelebA's images are."""
    return f"{number:06d}.jpg"


@cache
def _people(seed: int, group: int) -> tuple[tuple[int, int], ...]:
    """Return the person and the split of each of the 30 portraits of a group, in which nobody of another appears."""
    import numpy as np

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PEOPLE, group)))
    places = np.repeat(rng.permutation(10), SHARES)
    splits = rng.permutation([0] * 8 + [1, 2])
    return tuple((10 * group + int(p) + 1, int(splits[p])) for p in rng.permutation(places))


def person_of(seed: int, number: int) -> tuple[int, int]:
    """Return whom portrait `number` shows, numbered from 1, and the split that all portraits of that person are in."""
    group, place = divmod(number - 1, sum(SHARES))
    return _people(seed, group)[place]


def describe(seed: int, number: int) -> Portrait:
    """Return the parameters of portrait `number`, numbered from 1."""
    import numpy as np

    from .portrait import draw_face, draw_portrait

    person, _ = person_of(seed, number)
    face = draw_face(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FACE, person))))
    return draw_portrait(face, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PORTRAIT, number))))


def draw(task: Task) -> list[Entry]:
    """Write a task's portraits that are not there yet, and return what the annotation files say of all of them."""
    import cv2

    from .portrait import attributes
    from .portrait_paint import paint

    entries = []
    for number in task.numbers:
        portrait, path = describe(task.seed, number), task.out / FOLDER / file_name(number)
        if not path.exists():
            picture = cv2.cvtColor(paint(portrait), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
            write_atomic(path, lambda temporary, data=data: temporary.write_bytes(data))  # type: ignore[misc]
        truth = attributes(portrait)
        entries.append(Entry(number, *person_of(task.seed, number), tuple(truth[name] for name in ATTRIBUTES)))
    return entries


def _begin(options: SampleFacesOptions, out: Path) -> None:
    """Note in `out` what is being drawn there, and refuse a folder that holds anything else."""
    about = {"builder": "sample-faces", "version": VERSION, "count": options.count, "seed": options.seed}
    note = out / "sample_faces.json"
    if note.exists():
        try:
            before = json.loads(note.read_text())
        except ValueError as error:
            raise InputError(f"{note}: cannot be read ({error}); choose another folder or delete this one") from None
        if before != about:
            raise InputError(
                f"{out}: holds portraits drawn with other options ({json.dumps(before)} there, {json.dumps(about)} "
                f"now); choose another folder or delete this one"
            )
    elif not is_empty(out):
        raise InputError(f"{out}: is not empty and holds no portraits of this builder; choose another folder")
    else:
        write_json(note, about)
    remove_leftovers(out, out / FOLDER)


def _write_annotations(out: Path, entries: Iterable[Entry]) -> None:
    """Write CelebA's three annotation files."""
    rows = sorted(entries, key=lambda entry: entry.number)
    table = [str(len(rows)), " ".join(ATTRIBUTES) + " "]
    for row in rows:
        table.append(file_name(row.number) + "".join(" %2d" % (1 if true else -1) for true in row.attributes))  # noqa: UP031
    write_text(out / "list_attr_celeba.txt", "".join(f"{line}\r\n" for line in table))
    write_text(out / "identity_CelebA.txt", "".join(f"{file_name(r.number)} {r.person}\n" for r in rows))
    write_text(out / "list_eval_partition.txt", "".join(f"{file_name(r.number)} {r.split}\n" for r in rows))


def build(options: SampleFacesOptions, out: Path) -> str:
    """Paint portraits into `out`, or resume a build that stopped.

    Raises:
        InputError: `out` holds something else.
        RunError: the disk is full, or a worker died.
    """
    numbers = range(1, options.count + 1)
    with locked(out, "drawing portraits"):
        _begin(options, out)
        tasks = [Task(out.absolute(), options.seed, numbers[i : i + CHUNK]) for i in range(0, options.count, CHUNK)]
        entries: list[Entry] = []
        with bar(options.count, "portraits", unit="portrait") as progress:
            for part in map_tasks(draw, tasks, **options.execution(), out=out.absolute()):
                entries += part
                progress.update(len(part))
        _write_annotations(out, entries)
        remove_leftovers(out, out / FOLDER)  # of a worker that was lost and replaced
    people = len({entry.person for entry in entries})
    return f"{out}: {options.count} portraits of {people} people, annotated as CelebA is"


BUILDER = Builder(
    name="sample-faces",
    summary="drawn portraits with true attributes, in CelebA's layout",
    options=SampleFacesOptions,
    build=build,
)
