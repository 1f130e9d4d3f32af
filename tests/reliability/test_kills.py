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
from support.toys import overrides, write_circle, write_recipe

pytestmark = pytest.mark.reliability

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHANGES = ("train.refit=true", "train.average=0.8", "train.choose=imputation", "train.loggers=[csv]")
TRAIN = ("train", "circle.yaml", *overrides(*CHANGES))
BUILDS = {
    "sample-faces": ("build-dataset", "sample-faces", "--count", 24, "--workers", 2),
    "sample-bits": ("build-dataset", "sample-bits", "--rows", 30_000, "--modalities", 40),
}


@pytest.fixture(scope="module")
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


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
        command: without its ``--out``.
        kills: how often to stop it; whenever a result is complete, another is begun.
        same: asserts that a result equals the unbroken one.
        capsys: to report.
    """
    chance = random.Random(0)
    Child("--version", cwd=work).wait()  # from now on, starting takes no time
    begin = time.monotonic()
    assert Child(*command, "--out", "unbroken", cwd=work).wait(600) == 0
    seconds = time.monotonic() - begin
    sent, finished, out = Counter[str](), 0, work / "broken"
    while sum(sent.values()) < kills or out.exists():
        child, number = Child(*command, "--out", out.name, cwd=work), SIGNALS[sum(sent.values()) % len(SIGNALS)]
        until = time.monotonic() + chance.uniform(0, seconds)
        while sum(sent.values()) < kills and child.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        if sum(sent.values()) < kills and child.poll() is None:
            child.send_signal(number)
        code = child.wait(600)
        assert "Traceback" not in child.stderr, child.stderr
        if code == 0:  # it was complete before the signal came, or nothing was to be sent any more
            same(work / "unbroken", out)
            litter = {path.name for path in out.rglob("*")} - {path.name for path in (work / "unbroken").rglob("*")}
            assert not litter, litter
            shutil.rmtree(out)
            finished += 1
        else:
            assert code in (-number, 128 + number), (code, child.stderr)
            sent[signal.Signals(number).name] += 1
    of = ", ".join(f"{count} {name}" for name, count in sorted(sent.items()))
    with capsys.disabled():
        print(f"\n{command[0]} {command[1]}: stopped {kills} times ({of}), {finished} results, all equal, no litter")


def test_training_stopped_at_random_points_ends_with_the_same_bits(
    tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path, write_circle(tmp_path))
    stopped_at_random(tmp_path, TRAIN, kills, same_run, capsys)


@pytest.mark.parametrize("name", BUILDS)
def test_builds_stopped_at_random_points_end_with_the_same_bytes(
    tmp_path: Path, name: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def same(one: Path, other: Path) -> None:
        assert content(one) == content(other)

    stopped_at_random(tmp_path, BUILDS[name], kills, same, capsys)
