"""Runs a builder's tasks on Dask: on a cluster of its own on this machine, or on one that is there already."""

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

from .tasks import compute_on_one_core, interrupt_held

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 20
"""Seconds to wait for a scheduler's answer, and for its first worker."""
DECIDING = ("modalkit-vae", "numpy", "opencv-python-headless", "scikit-image", "dlib-bin", "safetensors")
"""Distributions that decide what the tasks write."""
_turn = threading.Lock()


def map_on_dask(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int, address: str | None, out: Path | None
) -> Iterator[R]:
    """Do what `map_tasks` does, on Dask; a task whose worker dies is given to another.

    Args:
        function: as for `map_tasks`.
        tasks: as for `map_tasks`.
        workers: processes of the cluster that is started where there is no `address`.
        address: HOST:PORT of a scheduler.
        out: the folder that the tasks write to.

    Raises:
        InputError: Dask is not installed, or no scheduler or no worker answers.
        RunError: the cluster went away, the same task's workers died again and again, or a worker does not see `out`
            or has other versions installed.
    """
    try:
        from distributed import KilledWorker, as_completed
    except ImportError:
        raise InputError("--engine dask: Dask is not installed; `pip install distributed`") from None
    again = "run the same command again (what was finished is kept)"
    with _cluster(workers, address) as client, _witness(out) as witness:
        try:
            client.run(exec, f"import {__name__}")  # a worker that cannot load a task would leave, and say nothing here
            do = partial(_on_worker, function, witness, _versions())
            futures = client.map(do, tasks, pure=False, batch_size=100)
            for future in as_completed(futures, loop=client.loop):
                result = future.result()
                future.release()  # or it would be made again if the worker that holds it dies
                yield result
        except KilledWorker as error:
            raise RunError(
                f"a task's workers died, one after the other, or ran out of memory ({error}); {again}"
            ) from None
        except CancelledError:
            raise RunError(f"the Dask cluster at {address} went away; start it and {again}") from None
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
            try:  # before there is a client, which would not close
                asyncio.run(connect(address, timeout=PATIENCE)).abort()
            except Exception as error:  # whatever else listens there may answer anything
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
    """Yield a file that a worker sees if `folder` is shared with it; named so that a killed build's is swept away."""
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
def _versions() -> dict[str, str]:
    found = {}
    for name in DECIDING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _on_worker(function: Callable[[T], R], witness: Path | None, versions: dict[str, str], task: T) -> R:
    """Do one task on a worker that can do it as it would be done here."""
    host = socket.gethostname()
    if witness is not None and not witness.exists():
        raise RunError(
            f"the worker on {host} does not see {witness.parent}; --out must lie on a file system that all workers "
            f"share, under the same path"
        )
    if wrong := [f"{n} {_versions()[n]} (here {v})" for n, v in versions.items() if _versions()[n] != v]:
        raise RunError(
            f"the worker on {host} would write other bytes: it has {', '.join(wrong)}; install the same there"
        )
    with _turn:  # a worker may have several threads, and dlib's detector is not made for that
        compute_on_one_core()
        return function(task)
