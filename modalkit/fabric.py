"""Where a step runs: Lightning Fabric as the host of device, precision and processes."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from modalkit.data import Batch
from modalkit.engine import Elbo, evaluate_plan
from modalkit.errors import InputError
from modalkit.model import MultimodalVAE
from modalkit.plugin import Plan
from modalkit.recipe_model import TrainSettings


class Step:
    """What one step needs and what it gives; a plain object, so that no wrapper moves its masks to a device."""

    def __init__(self, batch: Batch, plan: Plan, noise: Tensor, beta: float, rows: float) -> None:
        self.batch, self.plan, self.noise, self.beta, self.rows = batch, plan, noise, beta, rows
        self.elbo: Elbo
        self.loss: Tensor


class Loss(nn.Module):
    """The model as Fabric wraps it: its forward is a step's loss."""

    def __init__(self, model: MultimodalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: Step) -> Tensor:
        """Return minus the ELBO, summed over terms and divided by `step.rows`."""
        if not len(step.batch):  # fewer rows than processes: this one only keeps the others company
            return self._nothing()
        step.elbo = evaluate_plan(self.model, step.batch, step.plan, step.noise, step.beta)
        loss = -step.elbo.elbo.sum() / step.rows
        return loss if loss.requires_grad else loss + self._nothing()  # no row takes part in any term

    def _nothing(self) -> Tensor:
        """Return 0, as a function of the parameters."""
        return 0.0 * torch.stack([p.sum() for p in self.parameters()]).sum()


def make_fabric(train: TrainSettings) -> Fabric:
    """Return the host of device, precision and processes that a recipe's ``train:`` section asks for."""
    devices, nodes = train.devices, 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun: its processes are one training, not many
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif devices == "auto" and train.accelerator != "cpu":
        devices = max(1, torch.cuda.device_count())
    many = nodes > 1 or devices not in (1, "auto")
    # A modality may be absent from a whole step, and then its networks have no gradient.
    strategy = DDPStrategy(find_unused_parameters=True) if many else "auto"
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
