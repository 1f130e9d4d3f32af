"""Where a training runs: devices, precision and processes, hosted by Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from modalkit.errors import InputError
from modalkit.recipe.train_section import TrainSettings
from modalkit.util.processes import Processes

T = TypeVar("T")


class Host:
    """The device of this process, the precision, and the processes that train together.

    Args:
        train: the ``train:`` section of a recipe.

    Attributes:
        fabric: moves models and optimisers to the device, and computes gradients in the precision.
        processes: all processes of the training, connected.
        device: where this process computes.
        first: whether this process is the one that reads and writes the run folder.
        share: which rows of a whole batch this process takes.

    Raises:
        InputError: no such device, count or precision here.
    """

    def __init__(self, train: TrainSettings) -> None:
        self.fabric = make_fabric(train)
        self.fabric.launch()
        self.processes = Processes()
        self.device: torch.device = self.fabric.device
        self.first = self.processes.rank == 0
        self.share = slice(self.processes.rank, None, self.processes.size)


def is_first_process() -> bool:
    """Tell, before a `Host` is made, whether this process will be its first."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0


class _SideBySide(DDPStrategy):  # type: ignore[misc]  # mypy skips this package
    """Processes side by side; `modalkit.util.processes` adds up their gradients, and explains why."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        return module


def make_fabric(train: TrainSettings) -> Fabric:
    """Return the host of device, precision and processes that a recipe's ``train:`` section asks for."""
    devices, nodes = train.devices, 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun, all of whose processes are one training
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif devices == "auto" and train.accelerator != "cpu":
        devices = max(1, torch.cuda.device_count())
    many = nodes > 1 or devices not in (1, "auto")
    strategy = _SideBySide() if many else "auto"
    precision: Any = {"32": "32-true", "64": "64-true"}.get(train.precision, train.precision)
    try:
        return Fabric(
            accelerator=train.accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy
        )
    except Exception as error:  # Fabric raises various errors for a missing GPU, a wrong count, an unknown precision
        raise InputError(
            f"train.accelerator {train.accelerator}, devices {train.devices}, precision {train.precision}: "
            f"is not available here ({error}); use --device cpu"
        ) from error


def ahead(make: Callable[[int], T], numbers: Iterable[int], device: torch.device) -> Iterator[T]:
    """Yield `make` of each number, in order; while one result is used, a thread makes the next one for a device."""

    def begin() -> None:
        if device.type == "cuda":  # each thread has its own current device
            torch.cuda.set_device(device)

    with ThreadPoolExecutor(1, initializer=begin) as thread:
        coming: Future[T] | None = None
        for number in numbers:
            ready, coming = coming, thread.submit(make, number)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
