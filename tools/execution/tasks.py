"""Runs a builder's tasks: in processes of this machine, or on an engine that reaches further."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from modalkit.errors import InputError, RunError
from modalkit.plugin import Settings

T = TypeVar("T")
R = TypeVar("R")


class Execution(Settings):
    """Where a builder's tasks run: options that all builders with tasks share. None of them changes a byte."""

    workers: int | None = Field(None, ge=1, description="processes; all available cores by default")
    engine: Literal["dask"] | None = Field(
        None, description="run the tasks on this engine, which gives those of a worker that dies to another"
    )
    address: str | None = Field(
        None,
        description="HOST:PORT of the engine's scheduler; without it a cluster is started on this machine. Its workers "
        "need the same versions installed, and a file system that holds --out and the source under the same paths",
    )

    @field_validator("address")
    @classmethod
    def _of_an_engine(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and info.data.get("engine") is None:
            raise PydanticCustomError("alone", "is an engine's; give the engine too, such as dask")
        if address is not None and info.data.get("workers") is not None:
            raise PydanticCustomError("workers", "has workers of its own; leave out the number of workers")
        return address

    def execution(self) -> dict[str, Any]:
        """Return these options as `map_tasks` takes them."""
        return {name: getattr(self, name) for name in Execution.model_fields}


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int | None = None,
    engine: str | None = None,
    address: str | None = None,
    out: Path | None = None,
) -> Iterator[R]:
    """Call `function` on every task and yield the results as they finish, in any order.

    Whatever ends the iteration early (an exception, Ctrl-C, closing the generator, even a kill of this process)
    ends the workers too, so a task must leave nothing half done behind: let it write files atomically. On an engine
    a task may be done twice, at once even, where a worker is lost: it must give the same bytes each time.

    Args:
        function: does one task; defined at the top level of a module that can be imported, since it travels to other
            processes by name. (Of ``__main__`` an engine would send the code, and load its models anew each task.)
        tasks: small picklable descriptions of the work.
        workers: number of processes; all available cores by default. With 1, or a single task, the work is done
            in this process.
        engine: runs them in place of processes of this one: ``dask``.
        address: of the engine's cluster; by default one is started here.
        out: the folder that the tasks write to, which an engine's workers must see.

    Raises:
        InputError: fewer than one worker, or an engine that is not installed or cannot be reached.
        RunError: a worker died or ran out of memory (on an engine: several times with the same task), or does not
            see `out`.

    >>> sorted(map_tasks(abs, [-3, 1, -2], workers=1))
    [1, 2, 3]
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers} is too few; use 1 or more")
    workers = min(workers or available_cores(), len(tasks))
    if engine == "dask" and tasks:
        from .dask_engine import map_on_dask

        yield from map_on_dask(function, tasks, workers=workers, address=address, out=out)
        return
    try:
        yield from _in_processes(function, tasks, workers) if workers > 1 else map(function, tasks)
    except (BrokenProcessPool, MemoryError) as error:
        raise RunError(
            f"a worker died or ran out of memory ({workers} at once); run the same command again with fewer "
            f"--workers (what was finished is kept)"
        ) from error


def _in_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    context = get_context("spawn")
    # Nobody writes to this pipe. Its writing end exists in this process alone, so workers read its end of file when
    # this process closes it or is killed.
    end, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (end,))
    try:
        with interrupt_held():
            futures = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    finally:
        alive.close()
        pool.shutdown(cancel_futures=True)
        end.close()


@contextmanager
def interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: they inherit that, and so never answer it with tracebacks."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(end: Connection) -> None:
    """Prepare a worker: it leaves Ctrl-C to the parent, ends with the parent, and computes on one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_at, args=(end,), daemon=True).start()
    compute_on_one_core()


def compute_on_one_core() -> None:
    """Let the libraries of this process compute without threads of their own."""
    # For libraries that are imported later, and for those that the main module has imported already.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    for module, call in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        if module in sys.modules:
            getattr(sys.modules[module], call)(1)


def _exit_at(end: Connection) -> None:
    """Exit, whatever else is going on in this process, when the other side of the pipe is closed."""
    end.poll(None)  # returns at the end of file, since nothing is ever sent
    os._exit(1)
