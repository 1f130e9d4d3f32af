"""Compares the builder `celeba-transforms` with what its primitives alone allow on one core.

    python tests/benchmarks/builder.py --source "$MODALKIT_DATA/celeba" --photos 400 --rounds 5

First, shard by shard and in turns: the primitives on its photos (library calls in a bare loop, written without the
builder), and the builder's own task for it, in one process. Then the whole builder as a program of its own, with one
worker, with two, and with two on Dask (where it is installed), in turns; its rate is taken between the first and the
last finished shard, which leaves out what is paid once (imports, model, annotations), and the whole command's time is
printed beside it. Medians throughout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import dlib
import numpy as np
from modalkit_tools.execution.tasks import map_tasks
from modalkit_tools.faces.celeba import CelebaOptions, plan, write_task
from safetensors.numpy import save_file
from skimage.feature import canny

ROWS = 50
PROGRAM = """
import sys
from pathlib import Path
from modalkit_tools.faces.celeba import BUILDER, CelebaOptions

if __name__ == "__main__":  # Dask's workers import this program
    source, out, photos, workers, engine, rows = sys.argv[1:]
    where = {"workers": int(workers), "engine": engine or None}
    options = CelebaOptions(source=source, limit=int(photos), shard_rows=int(rows), **where)
    BUILDER.build(options, Path(out))
"""
WAYS = {"1 worker": (1, ""), "2 workers": (2, ""), "2 workers on Dask": (2, "dask")}
"""Number of workers, and engine."""


def photo_reader(source: Path) -> Callable[[str], bytes]:
    """Return what reads one photo of a zip or a folder by its name."""
    return zipfile.ZipFile(source).read if source.is_file() else lambda name: (source / name).read_bytes()


def primitives(names: list[str], read: Callable[[str], bytes], predictor: Any, out: Path) -> dict[str, float]:
    """Return the seconds that each primitive takes for all these photos."""
    detector = dlib.get_frontal_face_detector()
    seconds: dict[str, float] = defaultdict(float)
    last = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[what] += now - last
        last = now

    def small(picture: Any) -> Any:
        height, width = picture.shape[:2]
        scale = 64 / min(height, width)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=how)

    kept: dict[str, Any] = {}
    lap("(setup)")
    for number, name in enumerate(names):
        data = read(name)
        lap("read")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        lap("decode")
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        lap("luminance")
        edges = canny(gray / 255.0, 1.0).astype(np.uint8) * 255
        lap("Canny")
        faces = detector(gray, 0) or detector(gray, 1) or detector(gray, 2)
        lap("detection")
        mask = np.zeros(gray.shape, np.uint8)
        if faces:
            points = np.array([(p.x, p.y) for p in predictor(gray, faces[0]).parts()], np.int32)
            lap("prediction")
            cv2.polylines(mask, [points[:17]], False, 255, 2)
            for a, b in ((48, 68), (17, 22), (22, 27), (36, 42), (42, 48), (27, 35)):
                cv2.fillConvexPoly(mask, cv2.convexHull(points[a:b]), 255)
            lap("drawing")
        half = image.copy()
        half[:, half.shape[1] // 2 :] = 0
        marked = cv2.addWeighted(image, 0.5, half, 0.5, 0)
        lap("obscured, watermark")
        pictures = [small(picture) for picture in (image, gray, edges, mask, half, marked)]
        lap("6 x resize")
        for which, picture in enumerate(pictures):
            kept[f"{number}.{which}"] = picture
    save_file(kept, out / "kept.safetensors")
    lap("shard write")
    del seconds["(setup)"]
    return dict(seconds)


def in_turns(source: Path, photos: int, out: Path) -> None:
    """Compare the builder's tasks with the primitives, shard by shard, and print."""
    _, tasks = plan(CelebaOptions(source=source, limit=photos, shard_rows=ROWS), out)
    predictor = dlib.shape_predictor(str(tasks[0].model))
    predictor(np.zeros((16, 16), np.uint8), dlib.rectangle(0, 0, 15, 15))
    read = photo_reader(tasks[0].container)
    built = map_tasks(write_task, [tasks[0], *tasks], workers=1)
    next(built)  # loads the builder's own predictor
    parts: dict[str, list[float]] = defaultdict(list)
    fractions, totals = [], []
    for number, task in enumerate(tasks):
        for turn in ("bare", "built") if number % 2 else ("built", "bare"):
            start = time.perf_counter()
            if turn == "bare":
                bare = primitives([photo.member for photo in task.photos], read, predictor, out)
            else:
                next(built)
                took = time.perf_counter() - start
        fractions.append(sum(bare.values()) / took)
        totals.append(sum(bare.values()) / len(task.photos) * 1e3)
        for what, seconds in bare.items():
            parts[what].append(seconds / len(task.photos) * 1e3)
    print(f"primitives, ms a photo ({len(tasks)} shards of {ROWS} photos, load {os.getloadavg()[0]:.1f}):")
    for what, values in parts.items():
        print(f"  {what:20} {median(values):6.3f}")
    print(f"  {'together':20} {median(totals):6.3f}, {1e3 / median(totals):.0f} photos/s")
    print(f"builder with one worker: {median(fractions):.1%} of what they allow (target 90 %)")


def whole(source: Path, out: Path, photos: int, workers: int, engine: str) -> tuple[float, float]:
    """Run the builder and return its photos a second, once it has started, and the seconds of the whole command."""
    one_core = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    start = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, *map(str, (source, out, photos, workers, engine, ROWS))]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | one_core)
    seconds = time.perf_counter() - start
    finished = sorted(path.stat().st_mtime for path in (out / "shards").iterdir())
    return (len(finished) - workers) * ROWS / (finished[-1] - finished[workers - 1]), seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="as the builder takes it")
    parser.add_argument("--photos", type=int, default=600, help=f"how many; a multiple of {ROWS}")
    parser.add_argument("--rounds", type=int, default=3, help="of the whole builder in each way")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    ways = {name: way for name, way in WAYS.items() if way[1] != "dask" or find_spec("distributed")}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        in_turns(options.source, options.photos, Path(folder, "turns"))
        for number in range(options.rounds):
            for name, way in ways.items():
                rate, took = whole(options.source, Path(folder, f"{number}.{name}"), options.photos, *way)
                rates[name].append(rate)
                seconds[name].append(took)
    for name in ways:
        print(
            f"whole builder, {name}: {median(rates[name]):.1f} photos/s once started; "
            f"{median(seconds[name]):.1f} s for the command"
        )
    ratio = median(b / a for a, b in zip(rates["1 worker"], rates["2 workers"], strict=True))
    print(f"two workers: {ratio:.2f} times one, start-up left out (target about 2); load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
