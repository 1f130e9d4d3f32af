"""Where a step runs: Lightning Fabric as the host of device, precision and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.model.engine import Elbo, Sums, evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan
from modalkit.recipe.sections import TrainSettings


class Step:
    """What one step needs and what it gives; a plain object, so that no wrapper moves its masks to a device.

    `batch`, `plan` and `noise` are one process's share of the step's `rows`, and `guessed` says how many entries of it
    are guesses, None where the recipe asks for none.
    """

    def __init__(
        self, batch: Batch, plan: Plan, noise: Tensor, beta: float, rows: int, guessed: int | None = None
    ) -> None:
        self.batch, self.plan, self.noise, self.beta, self.rows = batch, plan, noise, beta, rows
        self.guessed = guessed
        self.elbo: Elbo
        self.loss: Tensor

    def sums(self) -> Sums:
        """Return what `Elbo.sums` does, and of guesses how many there are, in ``guessed``."""
        guessed = {} if self.guessed is None else {"guessed": (float(self.guessed), len(self.batch))}
        return self.elbo.sums() | guessed


class Loss(nn.Module):
    """The model as Fabric wraps it: its forward is a step's loss."""

    def __init__(self, model: MultimodalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: Step) -> Tensor:
        """Return minus the ELBO, summed over terms and divided by the step's rows; processes add up their shares."""
        step.elbo = evaluate_plan(self.model, step.batch, step.plan, step.noise, step.beta)
        return -step.elbo.elbo.sum() / step.rows


class _Side(DDPStrategy):  # type: ignore[misc]  # which mypy does not follow
    """Processes side by side; their gradients are added up by `modalkit.processes`, which says why."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        return module


def ahead(make: Callable[[int], Step], numbers: Iterable[int], device: torch.device) -> Iterator[Step]:
    """Yield `make` of each number, in order; a thread makes the next, for a device, while one is used."""

    def begin() -> None:
        if device.type == "cuda":  # each thread has a current device of its own
            torch.cuda.set_device(device)

    with ThreadPoolExecutor(1, initializer=begin) as thread:
        coming: Future[Step] | None = None
        for number in numbers:
            ready, coming = coming, thread.submit(make, number)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def make_fabric(train: TrainSettings) -> Fabric:
    """Return the host of device, precision and processes that a recipe's ``train:`` section asks for."""
    devices, nodes = train.devices, 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun: its processes are one training, not many
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif devices == "auto" and train.accelerator != "cpu":
        devices = max(1, torch.cuda.device_count())
    many = nodes > 1 or devices not in (1, "auto")
    strategy = _Side() if many else "auto"
    precision: Any = {"32": "32-true", "64": "64-true"}.get(train.precision, train.precision)
    try:
        return Fabric(
            accelerator=train.accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy
        )
    except Exception as error:  # Fabric raises its own kinds for a missing GPU, a wrong count, an unknown precision
        raise InputError(
            f"train.accelerator {train.accelerator}, devices {train.devices}, precision {train.precision}: "
            f"cannot be had here ({error}); --device cpu always can"
        ) from error
