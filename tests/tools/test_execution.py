"""Builders' tasks on an engine: the same bytes, whoever dies on the way."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modalkit_tools.execution import dask_engine
from modalkit_tools.execution.tasks import map_tasks
from support.toys import here

from modalkit.errors import InputError, RunError

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # which distributed needs

FACES = ["build-dataset", "sample-faces", "--count", "90", "--seed", "5"]


def content(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


def drawn(out: Path) -> int:
    return len(list(out.glob("img_align_celeba/0*.jpg")))


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[Any]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if any("spawn_main" in word for word in child.cmdline())]


@pytest.mark.slow
def test_workers_and_builder_may_be_killed_and_the_bytes_are_those_of_a_local_build(tmp_path: Path) -> None:
    out = tmp_path / "faces"
    program = [sys.executable, "-c", "from modalkit.cli import main; main()"]
    command = [*program, *FACES, "--out", str(out), "--engine", "dask", "--workers", "2"]
    builder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: drawn(out) >= 2)
    workers = workers_of(builder)
    assert len(workers) == 2
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    wait_for(lambda: not any(worker.is_running() for worker in workers))
    first = drawn(out)
    assert first < 90

    builder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: drawn(out) >= first + 5)
    workers_of(builder)[0].send_signal(signal.SIGKILL)
    errors = builder.communicate()[1]
    assert builder.returncode == 0, errors
    assert "Dask: 2 workers" in errors and "90/90" in errors
    local = here(*FACES, "--out", tmp_path / "local", "--workers", 1, cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    assert content(out) == content(tmp_path / "local")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A scheduler of this process without workers."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def test_a_cluster_that_is_there_is_used(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = cluster.scheduler_address.removeprefix("tcp://")
    monkeypatch.setattr(dask_engine, "PATIENCE", 1)
    with pytest.raises(InputError, match=rf"{address}: this Dask scheduler has no workers; start some"):
        list(map_tasks(abs, [1], engine="dask", address=address))
    monkeypatch.setattr(dask_engine, "PATIENCE", 20)
    cluster.scale(2)
    assert sorted(map_tasks(abs, [-3, 1, -2], engine="dask", address=address, out=tmp_path)) == [1, 2, 3]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="non-negative"):
        list(map_tasks(time.sleep, [-1, 0], engine="dask", address=address))
    started = here(*FACES[:3], 2, "--out", "few", "--engine", "dask", "--address", address, cwd=tmp_path)
    assert started.returncode == 0 and drawn(tmp_path / "few") == 2, started.stderr


def test_a_worker_that_would_write_elsewhere_or_otherwise_is_refused(tmp_path: Path) -> None:
    here = dask_engine.installed_versions()
    with pytest.raises(RunError, match=rf"does not see {tmp_path / 'gone'}; --out must lie on a file system"):
        dask_engine.do_on_worker(abs, tmp_path / "gone" / "x", here, 1)
    with pytest.raises(RunError, match=r"would write other bytes: it has numpy .* \(here 0\.1\); install the same"):
        dask_engine.do_on_worker(abs, None, here | {"numpy": "0.1"}, 1)


def test_what_keeps_an_engine_from_running_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "PATIENCE", 1)
    for address in ("127.0.0.1:1", "hello:there", "nonsense"):
        with pytest.raises(InputError, match=f"--address {address}: no Dask scheduler answers there"):
            list(map_tasks(abs, [1], engine="dask", address=address))
    assert list(map_tasks(abs, [], engine="dask", address="nonsense")) == []
    out = ("--out", tmp_path / "x")
    for options, words in (
        (("--address", "a:1"), "--address: belongs to an engine; give the engine too"),
        (("--engine", "dask", "--address", "a:1", "--workers", 2), "leave out the number of workers"),
        (("--engine", "ray"), "--engine: Input should be 'dask'"),
    ):
        refused = here(*FACES, *out, *options, cwd=tmp_path)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused = here(*FACES, *out, "--engine", "dask", cwd=tmp_path)
    assert refused.returncode == 2 and "Dask is not installed; `pip install distributed`" in refused.stderr
