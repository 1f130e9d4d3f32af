"""Work that is stopped at random points and continued ends as if it had never stopped, and leaves no litter.

Run it with ``pytest -m reliability --kills 10``; docs/reliability.md has the figures.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import Child
from support.same import content, same_run
from support.toys import overrides, train_circle, write_circle, write_recipe

pytestmark = pytest.mark.reliability

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHANGES = ("train.refit=true", "train.average=0.8", "train.choose=imputation", "train.loggers=[csv]")
TRAIN = ("train", "circle.yaml", *overrides(*CHANGES), "--out", "OUT")
BUILDS = {
    "sample-faces": ("build-dataset", "sample-faces", "--count", 24, "--workers", 2, "--out", "OUT"),
    "sample-bits": ("build-dataset", "sample-bits", "--rows", 30_000, "--modalities", 40, "--out", "OUT"),
}


@pytest.fixture(scope="module")
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


RUN = "run"
"""The trained run that commands after training are asked about."""
ASKING: dict[str, tuple[object, ...]] = {
    "translate": ("translate", RUN, "--given", "class=1", "--samples", 3, "-o", "OUT"),
    "sample": ("sample", RUN, "-n", 5, "-o", "OUT"),
    "impute": ("impute", RUN, "-o", "OUT"),
    "embed": ("embed", RUN, "-o", "OUT.parquet"),
    "report": ("report", RUN, "--rows", 20, "-o", "OUT.html"),
    "export": ("export", RUN, "OUT"),
    "evaluate": ("evaluate", "OUT", "--targets", "class", "--given", "position", "--particles", 20),
    "fit-sampler": ("fit-sampler", "OUT", "--steps", 150),
}
"""Commands that answer; OUT is what they make. The last two write into the run itself, so OUT is a copy of it."""


def stopped_at_random(
    work: Path,
    command: tuple[object, ...],
    kills: int,
    same: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stop a command `kills` times, continue it, and compare what it makes with what an unbroken one makes.

    Args:
        work: the folder to work in.
        command: where ``OUT`` stands for what it makes.
        kills: how often to stop it; whenever a result is complete, another is begun.
        same: asserts that a folder with a result equals the one with the unbroken one.
        capsys: to report.
    """
    chance = random.Random(0)
    Child("--version", cwd=work).wait()  # from now on, starting takes no time
    begin = time.monotonic()
    assert started(work, "unbroken", command).wait(600) == 0
    seconds = time.monotonic() - begin
    sent, finished, begun = Counter[str](), 0, False
    while sum(sent.values()) < kills or begun:
        child, number = started(work, "broken", command), SIGNALS[sum(sent.values()) % len(SIGNALS)]
        begun, until = True, time.monotonic() + chance.uniform(0, seconds)
        while sum(sent.values()) < kills and child.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        if sum(sent.values()) < kills and child.poll() is None:
            child.send_signal(number)
        code = child.wait(600)
        assert "Traceback" not in child.stderr, child.stderr
        if code == 0:  # it was complete before the signal came, or nothing was to be sent any more
            same(work / "unbroken", work / "broken")
            litter, usual = ({path.name for path in (work / out).rglob("*")} for out in ("broken", "unbroken"))
            assert not litter - usual, litter - usual
            shutil.rmtree(work / "broken")
            finished, begun = finished + 1, False
        else:
            assert code in (-number, 128 + number), (code, child.stderr)
            sent[signal.Signals(number).name] += 1
    of = ", ".join(f"{count} {name}" for name, count in sorted(sent.items()))
    with capsys.disabled():
        print(f"\n{command[0]} {command[1]}: stopped {kills} times ({of}), {finished} results, all equal, no litter")


def started(work: Path, folder: str, command: tuple[object, ...]) -> Child:
    """Start a command that makes what it makes in a folder of its own."""
    if not (work / folder).exists():
        (work / folder).mkdir()
        if command[1] == "OUT":
            shutil.copytree(work / RUN, work / folder / "OUT")
    return Child(*(str(part).replace("OUT", f"{folder}/OUT") for part in command), cwd=work)


def same_bytes(one: Path, other: Path) -> None:
    assert content(one) == content(other)


def test_training_stopped_at_random_points_ends_with_the_same_bits(
    tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def same(one: Path, other: Path) -> None:
        same_run(one / "OUT", other / "OUT")

    write_recipe(tmp_path, write_circle(tmp_path))
    stopped_at_random(tmp_path, TRAIN, kills, same, capsys)


@pytest.mark.parametrize("name", BUILDS)
def test_builds_stopped_at_random_points_end_with_the_same_bytes(
    tmp_path: Path, name: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_at_random(tmp_path, BUILDS[name], kills, same_bytes, capsys)


@pytest.mark.parametrize("name", ASKING)
def test_answers_stopped_at_random_points_end_with_the_same_bytes(
    tmp_path: Path, name: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path, write_circle(tmp_path))
    train_circle(tmp_path, RUN, "train.epochs=1")
    stopped_at_random(tmp_path, ASKING[name], kills, same_bytes, capsys)
