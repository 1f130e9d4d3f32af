"""A pool of processes on this machine, whose workers end with their parent and compute on one core each."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """Call `function` on every task in new processes, and yield the results as they finish, in any order."""
    context = get_context("spawn")
    # Nothing is written to this pipe. Only this process has its writing end, so workers read the end of file when this
    # process closes it or is killed.
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
    """Block Ctrl-C while workers are started: they inherit the blocking, and so do not print tracebacks on Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(end: Connection) -> None:
    """Prepare a worker: it ignores Ctrl-C, exits when the parent exits, and computes on one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_at, args=(end,), daemon=True).start()
    compute_on_one_core()


def compute_on_one_core() -> None:
    """Limit the libraries of this process to one thread."""
    # The environment is for libraries that are imported later, the calls for those that are imported already.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    for module, call in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        if module in sys.modules:
            getattr(sys.modules[module], call)(1)


def _exit_at(end: Connection) -> None:
    """Exit this process at once when the other end of the pipe is closed."""
    end.poll(None)  # returns at the end of file
    os._exit(1)
