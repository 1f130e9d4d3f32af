"""Commands in processes of their own, forked from one that has imported all that they need.

A child is a real process, which can be killed, interrupted and counted. It starts in a hundredth of the time that a new
interpreter needs for its imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch._dynamo", "modalkit.training.trainer", "modalkit.cli.train", "modalkit.report"])


class Child:
    """A command of modalkit, or a program, that runs.

    Args:
        arguments: what a user types behind `modalkit`, or behind the program.
        cwd: the folder to run in.
        code: the program in Python; None: modalkit.
        path: a folder to import from.
        alone: whether it leads a process group of its own.
    """

    def __init__(
        self, *arguments: object, cwd: Path, code: str | None = None, path: Path | None = None, alone: bool = False
    ) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="child-")
        self._files = (Path(self._folder.name, "stdout"), Path(self._folder.name, "stderr"))
        given = (self.arguments, cwd, code, path, dict(os.environ), self._files, alone)
        self._process = _SERVER.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed until now."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    @property
    def stderr(self) -> str:
        return self._files[1].read_text() if self._files[1].exists() else ""

    def poll(self) -> int | None:
        """Return its exit status; below 0, the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end and return its exit status."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self.kill()
            raise TimeoutExpired(self.arguments, timeout, self.stdout, self.stderr)
        return code

    def line(self, timeout: float = 120) -> str:
        """Wait for its first whole line on standard error, and return that."""
        until = time.monotonic() + timeout
        while "\n" not in self.stderr and self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.stderr.partition("\n")[0]

    def done(self, timeout: float = 120) -> CompletedProcess[str]:
        """Wait for its end."""
        return CompletedProcess(self.arguments, self.wait(timeout), self.stdout, self.stderr)


def _run(
    arguments: list[str],
    cwd: Path,
    code: str | None,
    path: Path | None,
    environment: Mapping[str, str],
    files: tuple[Path, Path],
    alone: bool,
) -> None:
    if alone:
        os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from modalkit.cli import main

    torch.set_num_threads(1)
    sys.argv = ["modalkit" if code is None else "-c", *arguments]
    if path is not None:
        sys.path.insert(0, str(path))
    if code is None:
        main()
    else:
        exec(compile(code, "program", "exec"), {"__name__": "__main__"})
