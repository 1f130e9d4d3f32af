"""Runs a builder's tasks on Dask: on a new cluster on this machine, or on an existing cluster."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from modalkit.errors import InputError, RunError

from .processes import compute_on_one_core, interrupt_held

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 20
"""Seconds to wait for a scheduler's answer, and for its first worker."""
DECIDING = ("modalkit-vae", "numpy", "opencv-python-headless", "scikit-image", "dlib-bin", "safetensors")
"""Distributions whose versions decide which bytes the tasks write."""
_turn = threading.Lock()


def map_on_dask(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int, address: str | None, out: Path | None
) -> Iterator[R]:
    """Do what `map_tasks` does, on Dask; if a worker dies, another one repeats its task.

    Args:
        function: as for `map_tasks`.
        tasks: as for `map_tasks`.
        workers: number of processes of the cluster that is started if there is no `address`.
        address: HOST:PORT of a scheduler.
        out: the folder that the tasks write to.

    Raises:
        InputError: Dask is not installed, or no scheduler or no worker answers.
        RunError: the cluster stopped, the workers of one task died repeatedly, or a worker does not see `out` or has
            other versions installed.
    """
    try:
        from distributed import KilledWorker, as_completed
    except ImportError:
        raise InputError("--engine dask: Dask is not installed; `pip install distributed`") from None
    again = "run the same command again (finished tasks are kept)"
    with _cluster(workers, address) as client, _witness(out) as witness:
        try:
            client.run(exec, f"import {__name__}")  # else a worker that cannot load a task exits without a message here
            do = partial(do_on_worker, function, witness, installed_versions())
            futures = client.map(do, tasks, pure=False, batch_size=100)
            for future in as_completed(futures, loop=client.loop):
                result = future.result()
                future.release()  # else it is computed again if the worker that holds it dies
                yield result
        except KilledWorker as error:
            raise RunError(
                f"the workers of one task died repeatedly, or ran out of memory ({error}); {again}"
            ) from None
        except CancelledError:
            raise RunError(f"the Dask cluster at {address} stopped; start it and {again}") from None
        except (ImportError, AttributeError, RuntimeError) as error:
            if "deserializ" not in str(error) and not isinstance(error, ImportError):
                raise
            raise RunError(
                f"the Dask cluster at {address} cannot load the tasks ({error.__cause__ or error}); its scheduler and "
                f"workers need modalkit, in the same version as here"
            ) from error


@contextmanager
def _cluster(workers: int, address: str | None) -> Iterator[Any]:
    """Yield a client of a cluster that has workers."""
    from distributed import Client, LocalCluster
    from distributed.comm import connect

    with ExitStack() as stack:
        where: Any = address
        if address is not None:
            try:  # before there is a client, which does not close after a failure
                asyncio.run(connect(address, timeout=PATIENCE)).abort()
            except Exception as error:  # another program may listen there and answer anything
                said = f"{type(error).__name__}: {error}"
                raise InputError(f"--address {address}: no Dask scheduler answers there ({said[:200]})") from None
        else:
            with interrupt_held():
                where = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            stack.enter_context(where)
        client = stack.enter_context(Client(where, timeout=PATIENCE, set_as_default=False))
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise InputError(
                f"--address {address}: this Dask scheduler has no workers; start some with `dask worker {address}`"
            ) from None
        _log.info(f"Dask: {len(client.ncores())} workers, scheduler at {client.scheduler.address}")
        yield client


@contextmanager
def _witness(folder: Path | None) -> Iterator[Path | None]:
    """Yield a file that a worker sees if it shares `folder`; by its name, the next build removes it after a kill."""
    if folder is None:
        yield None
        return
    path = folder / f".{uuid4().hex}.tmp"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@cache
def installed_versions() -> dict[str, str]:
    """Return the installed version of each distribution in `DECIDING`, or ``none``."""
    found = {}
    for name in DECIDING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def do_on_worker(function: Callable[[T], R], witness: Path | None, versions: dict[str, str], task: T) -> R:
    """Do one task on a worker, after checking that it writes to the same folder and has the same versions."""
    host = socket.gethostname()
    if witness is not None and not witness.exists():
        raise RunError(
            f"the worker on {host} does not see {witness.parent}; --out must lie on a file system that all workers "
            f"share, under the same path"
        )
    if wrong := [
        f"{n} {installed_versions()[n]} (here {v})" for n, v in versions.items() if installed_versions()[n] != v
    ]:
        raise RunError(
            f"the worker on {host} would write other bytes: it has {', '.join(wrong)}; install the same there"
        )
    with _turn:  # a worker may have several threads, and dlib's detector is not thread-safe
        compute_on_one_core()
        return function(task)
