"""One gradient step: what it is computed from, and how it changes a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.model import MultimodalVAE, assemble
from modalkit.model.diagnosis import unsound, where_not_finite
from modalkit.model.engine import Elbo, Sums, evaluate_plan
from modalkit.nn.batch_norm import share_statistics
from modalkit.plugin import Plan
from modalkit.recipe.loading import Recipe
from modalkit.training.average import WeightAverage
from modalkit.training.devices import Host


class NotFiniteError(Exception):
    """A loss or a weight is NaN or infinite; the message says where it was first found."""


class Step:
    """The inputs of one step and, once it is computed, its ELBO and loss.

    It is a plain object, not a dataclass, so that Fabric does not move its masks to the device.

    Args:
        batch: this process's share of the step's rows, on the device.
        plan: the ELBO terms of these rows.
        noise: for the posteriors' samples, `(components * terms, batch, latent_dim)`.
        beta: weight of the KL.
        rows: the step's rows over all processes, int64 indices, `(rows,)`.
        counted: sums that the batch stages add to the step's metrics.
    """

    def __init__(self, batch: Batch, plan: Plan, noise: Tensor, beta: float, rows: Tensor, counted: Sums) -> None:
        self.batch, self.plan, self.noise, self.beta, self.rows = batch, plan, noise, beta, rows
        self.counted = counted
        self.elbo: Elbo
        self.loss: Tensor

    def sums(self) -> Sums:
        """Return the sums of `Elbo.sums` and those of the batch stages."""
        return self.elbo.sums() | self.counted


class Loss(nn.Module):
    """The model as Fabric wraps it: its forward returns a step's loss."""

    def __init__(self, model: MultimodalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: Step) -> Tensor:
        """Return minus the ELBO, summed over terms and divided by the step's rows; processes add up their shares."""
        step.elbo = evaluate_plan(self.model, step.batch, step.plan, step.noise, step.beta)
        return -step.elbo.elbo.sum() / len(step.rows)


class Learner:
    """A recipe's model, its loss and its optimiser, which change by gradient steps.

    Args:
        recipe: what to train.
        host: where.

    Attributes:
        trainable: names of the parameters to train; a user's own network may have others.
        loss: once `move_to_device` was called, the loss as the host computes it.
        average: of the weights over the steps; None unless the recipe asks for it.
    """

    def __init__(self, recipe: Recipe, host: Host) -> None:
        self.train, self.host, self.model = recipe.train, host, assemble(recipe)
        if host.processes.size > 1 and share_statistics(self.model):
            self.model.processes = host.processes
        self.trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
        # Fused: one pass over each parameter instead of a dozen.
        self.optimizer: Any = torch.optim.Adam(self.model.parameters(), lr=recipe.train.learning_rate, fused=True)
        self.loss: Any = Loss(self.model)
        decay = recipe.train.average
        self.average = None if decay is None else WeightAverage(self.model, decay)

    def move_to_device(self) -> None:
        """Move model, optimiser and average to the host's device and precision."""
        self.loss, self.optimizer = self.host.fabric.setup(self.loss, self.optimizer)
        if self.average is not None:
            self.average.follow()

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model the averaged weights inside a ``with`` block, if the recipe asks for an average."""
        return nullcontext() if self.average is None else self.average.applied()

    def compile(self) -> None:
        """Compile the networks if the recipe says so; after their weights were loaded."""
        if self.train.compile:
            self.model.compile_networks(self.train.compile)

    def freeze(self, prefixes: tuple[str, ...]) -> None:
        """Freeze the parameters whose names begin so, and their running statistics; train all others."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.trainable and not name.startswith(prefixes))
        for name, part in self.model.named_modules():
            part.training = not f"{name}.".startswith(prefixes)

    def take(self, step: Step, number: int, learning_rate: float, seed: int) -> None:
        """Do one gradient step.

        Args:
            step: computed here; gets its loss and ELBO.
            number: of the step, from 0.
            learning_rate: of this step.
            seed: of dropout.

        Raises:
            NotFiniteError: the loss, on the CPU, or an earlier weight is NaN or infinite.
        """
        on_cpu = self.host.device.type == "cpu"
        if self.train.compile:
            # The results of the last step's graphs are not used any more.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # torch.manual_seed checks every type of device, which is slower than everything else here.
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)
        loss = self._loss_of(step)
        if on_cpu:  # on other devices, reading the loss would wait for the device
            self.check(step)
        if loss.requires_grad:  # otherwise no row takes part in any term
            self.host.fabric.backward(loss)
        self.host.processes.sum_gradients(self.model.parameters())
        if self.train.clip_norm is not None:
            self.host.fabric.clip_gradients(
                self.loss, self.optimizer, max_norm=self.train.clip_norm, error_if_nonfinite=False
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(number)

    def _loss_of(self, step: Step) -> Tensor:
        try:
            loss: Tensor = self.loss(step)
        except InputError as error:  # a likelihood that checks its parameters finds NaN before the loss is known
            if (name := unsound(self.model)) is None:
                raise
            raise NotFiniteError(f"the weights {name}, since an earlier step") from error
        step.loss = loss.detach()
        return loss

    def check(self, step: Step) -> None:
        """Raise `NotFiniteError`, naming the modality, if a step's loss is NaN or infinite."""
        if not step.loss.isfinite():
            raise NotFiniteError(where_not_finite(self.model, step.elbo))

    def check_weights(self) -> None:
        """Raise `NotFiniteError` if a weight is NaN or infinite."""
        if (name := unsound(self.model)) is not None:
            raise NotFiniteError(f"the weights {name}, after this step")
