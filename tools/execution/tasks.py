"""Runs a builder's tasks: in processes of this machine, or on Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from modalkit.errors import InputError, RunError

from .dask_engine import map_on_dask
from .processes import available_cores, map_in_processes

T = TypeVar("T")
R = TypeVar("R")


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

    If the iteration ends early (an exception, Ctrl-C, closing the generator, even a kill of this process), the workers
    end too, so a task must write files atomically. An engine that loses a worker may run a task twice, even at the
    same time, so a task must give the same bytes each time.

    Args:
        function: does one task; defined at the top level of a module that can be imported, since other processes get
            it by name. (From ``__main__``, an engine would send the code, and load its models again for each task.)
        tasks: small picklable descriptions of the work.
        workers: number of processes; by default one for each available core. With 1, or a single task, this process
            does the work.
        engine: where the tasks run in place of processes of this machine: ``dask``.
        address: of the engine's cluster; by default a cluster is started on this machine.
        out: the folder that the tasks write to, which an engine's workers must see.

    Raises:
        InputError: `workers` is below 1, or the engine is not installed or cannot be reached.
        RunError: a worker died or ran out of memory (on an engine: several times with the same task), or does not
            see `out`.

    >>> sorted(map_tasks(abs, [-3, 1, -2], workers=1))
    [1, 2, 3]
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers} is too few; use 1 or more")
    workers = min(workers or available_cores(), len(tasks))
    if engine == "dask" and tasks:
        yield from map_on_dask(function, tasks, workers=workers, address=address, out=out)
        return
    try:
        yield from map_in_processes(function, tasks, workers) if workers > 1 else map(function, tasks)
    except (BrokenProcessPool, MemoryError) as error:
        raise RunError(
            f"a worker died or ran out of memory ({workers} at once); run the same command again with fewer "
            f"--workers (finished tasks are kept)"
        ) from error
