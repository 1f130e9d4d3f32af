"""Runs a builder's tasks on the cores of one machine; the seam at which a cluster's executor takes over."""

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
from typing import TypeVar

from modalkit.errors import InputError, RunError

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_tasks(function: Callable[[T], R], tasks: Sequence[T], *, workers: int | None = None) -> Iterator[R]:
    """Call `function` on every task and yield the results as they finish, in any order.

    Whatever ends the iteration early (an exception, Ctrl-C, closing the generator, even a kill of this process)
    ends the workers too, so a task must leave nothing half done behind: let it write files atomically.

    Args:
        function: does one task; defined at a module's top level, since it travels to other processes by name.
        tasks: small picklable descriptions of the work.
        workers: number of processes; all available cores by default. With 1, or a single task, the work is done
            in this process.

    Raises:
        InputError: fewer than one worker.
        RunError: a worker died or ran out of memory.

    >>> sorted(map_tasks(abs, [-3, 1, -2], workers=1))
    [1, 2, 3]
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers} is too few; use 1 or more")
    workers = min(workers or available_cores(), len(tasks))
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
        with _interrupt_held():
            futures = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    finally:
        alive.close()
        pool.shutdown(cancel_futures=True)
        end.close()


@contextmanager
def _interrupt_held() -> Iterator[None]:
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
    # For libraries that are imported later, and for those that the main module has imported already.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    for module, call in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        if module in sys.modules:
            getattr(sys.modules[module], call)(1)


def _exit_at(end: Connection) -> None:
    """Exit, whatever else is going on in this process, when the other side of the pipe is closed."""
    end.poll(None)  # returns at the end of file, since nothing is ever sent
    os._exit(1)
