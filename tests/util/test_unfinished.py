"""The next command deletes what a killed process left; errors name a full disk and missing rights."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.toys import here, write_circle, write_recipe
from torch import nn

from modalkit.data import Dataset
from modalkit.errors import InputError, RunError
from modalkit.runs.checkpoint import load_state, load_weights, save_state, save_weights
from modalkit.util.files import locked, remove_leftovers, write_text
from modalkit.util.temporary import is_given_up, remove_given_up, temporary_beside

WRITES = """
import os, sys
from pathlib import Path
from modalkit.util.files import write_atomic
def write(path):
    path.write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
    sys.stdin.read()
write_atomic(Path(sys.argv[1]), write)
"""


def writer(path: Path, how: str) -> subprocess.Popen[str]:
    """Start a process that writes a file, and is killed or waits before it is done."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    writer(tmp_path / "table.csv", "kill").wait()
    (dead,) = tmp_path.glob(".*.tmp")
    other, mine = tmp_path / ".notes.tmp", tmp_path / ".x.0123456789abcdef.tmp"  # of other programs
    other.write_text("mine")
    mine.write_text("mine")
    with writer(tmp_path / "page.html", "wait") as living:
        assert not dead.exists()  # the next process deleted it
        (unfinished,) = tmp_path.glob(".page.html.*.tmp")
        write_text(tmp_path / "a.txt", "whole")
        remove_given_up(tmp_path)
        remove_leftovers(tmp_path)
        assert unfinished.exists() and not other.exists()  # a locked folder has nothing of other programs
        living.communicate()
    assert (tmp_path / "page.html").read_text() == "half" and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system cannot wait for a process without collecting it")
def test_what_a_killed_process_left_is_deleted_although_its_parent_has_not_noticed(tmp_path: Path) -> None:
    process = writer(tmp_path / "table.csv", "kill")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number is still taken
    os.kill(process.pid, 0)
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    process.wait()


def test_another_machines_file_is_given_up_after_a_week(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "x") as here_and_now:
        assert not is_given_up(here_and_now)
        machine = here_and_now.name.split(".")[2].partition("-")[0]
        elsewhere = tmp_path / here_and_now.name.replace(machine, "00000000")
        before = tmp_path / here_and_now.name.replace(
            here_and_now.name[-20:-4], "0" * 16
        )  # same number, earlier process
    elsewhere.mkdir()
    before.write_text("")
    assert not is_given_up(elsewhere) and is_given_up(before)
    os.utime(elsewhere, (0, 0))
    remove_given_up(tmp_path)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def full_disk(most: int = 20_000) -> Iterator[None]:
    """Let no file grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_earlier_state_stays(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    save_state(state, {"a": torch.ones(3)})
    with full_disk(), pytest.raises(RunError, match=r"state\.pt: cannot write, the disk is full"):
        save_state(state, {"a": torch.zeros(100_000)})
    with full_disk(), pytest.raises(RunError, match=r"w\.safetensors: cannot write, the disk is full"):
        save_weights(tmp_path / "w.safetensors", nn.Linear(200, 200))
    assert torch.equal(load_state(state, torch.device("cpu"))["a"], torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.fixture
def other_user() -> Iterator[contextlib.AbstractContextManager[None]]:
    """A context in which this process has the rights of another user; only root can change to one."""
    if os.geteuid():
        pytest.skip("needs root")

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    yield changed()


def test_another_users_files_are_read_or_refused_in_words(
    tmp_path: Path, other_user: contextlib.AbstractContextManager[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in [tmp_path, *tmp_path.parents]:
        if not folder.stat().st_mode & 0o005 and folder.owner() == "root":
            monkeypatch.setattr(sys, "dont_write_bytecode", True)
            folder.chmod(0o755)
    data = write_circle(tmp_path, rows=12)
    write_recipe(tmp_path, data)
    save_weights(tmp_path / "public.safetensors", nn.Linear(2, 2))
    save_weights(tmp_path / "private.safetensors", nn.Linear(2, 2))
    (tmp_path / "private.safetensors").chmod(0o600)
    with locked(tmp_path / "run", "training"):
        pass
    assert here("inspect", "circle", cwd=tmp_path).returncode == 0  # loads what it needs
    shard = next((data / "shards").iterdir())
    with other_user:
        load_weights(tmp_path / "public.safetensors", nn.Linear(2, 2))
        with pytest.raises(InputError, match=r"private\.safetensors: cannot be read \(Permission denied\)"):
            load_weights(tmp_path / "private.safetensors", nn.Linear(2, 2))
        with pytest.raises(RunError, match=r"run: cannot write in this folder \(Permission denied\); choose another"):
            locked(tmp_path / "run", "training").__enter__()
        shown = here("inspect", "circle", cwd=tmp_path)
        assert shown.returncode == 0 and "no pictures" in shown.stdout and "--sheet" in shown.stdout
        os.seteuid(0)
        shard.chmod(0)
        os.seteuid(65534)
        with pytest.raises(InputError, match=r"00000\.safetensors: cannot be read \(Permission denied\)"):
            Dataset(data)


def test_ctrl_c_while_the_command_line_loads_shows_no_traceback() -> None:
    code = """
import sys
class Stops:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stops())
import modalkit.cli
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "stopped\n"
