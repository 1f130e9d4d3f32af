"""The stages through which a step's rows pass before they are planned: fetch, guess, warp, redraw, move to the device.

Every random choice is made for the step's whole batch, so that several processes together do what one would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from modalkit.data import Batch
from modalkit.data.augment import sample_maps, warp
from modalkit.data.reading import draw, redrawn
from modalkit.data.settings import AugmentSettings
from modalkit.model.engine import Sums
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.recipe.loading import Recipe
from modalkit.training.data import TrainingData
from modalkit.training.devices import Host
from modalkit.training.self_training import SelfTraining
from modalkit.util.randomness import generator


@dataclass(frozen=True)
class StagedBatch:
    """A batch between two stages.

    Attributes:
        batch: the values so far.
        rows: number of rows of the step's whole batch.
        part: which of these rows `batch` holds.
        mine: which rows of `batch` this process takes.
        purpose: ``"train"`` or ``"valid"``; random choices of different purposes are independent.
        number: the number of the step for that purpose.
        epoch: whole epochs done; None for validation.
        counted: sums by name, of this process's rows, that are added to the step's metrics.
    """

    batch: Batch
    rows: int
    part: slice
    mine: slice
    purpose: str
    number: int
    epoch: int | None
    counted: Sums = field(default_factory=dict)


class Stage(Protocol):
    """One stage, which changes the values or the presence of a batch."""

    @property
    def adds_presence(self) -> bool:
        """Whether entries may be present afterwards that the dataset lacks."""

    @property
    def needs_last_step(self) -> bool:
        """Whether it uses the model, so that batches cannot be made ahead of the step before them."""

    def __call__(self, staged: StagedBatch) -> StagedBatch:
        """Return the batch after this stage; the one that is given is not changed."""


@dataclass(frozen=True)
class Guess:
    """Self-training: fills absent entries of training rows that the model predicts with confidence."""

    self_training: SelfTraining
    adds_presence = needs_last_step = True

    def __call__(self, staged: StagedBatch) -> StagedBatch:
        """Return the batch with guesses, and count them."""
        if staged.epoch is None:
            return staged
        after = self.self_training.fill(staged.batch, staged.epoch, staged.number)
        guessed = int(after.present[staged.mine].sum() - staged.batch.present[staged.mine].sum())
        counted = staged.counted | {"guessed": (float(guessed), len(after.present[staged.mine]))}
        return replace(staged, batch=after, counted=counted)


@dataclass(frozen=True)
class Warp:
    """Augmentation: moves the pictures of training rows."""

    augment: AugmentSettings
    schemas: Mapping[str, Schema]
    seed: int
    adds_presence = needs_last_step = False

    def __call__(self, staged: StagedBatch) -> StagedBatch:
        """Return the batch with its pictures moved."""
        if staged.epoch is None:
            return staged
        maps = sample_maps(self.augment, staged.rows, generator(self.seed, "augmentation", staged.number))
        return replace(staged, batch=warp(staged.batch, self.schemas, maps[staged.part]))


@dataclass(frozen=True)
class Redraw:
    """Redraws the samples of modalities such as dynamically binarised pictures; needs the whole batch."""

    schemas: Mapping[str, Schema]
    seed: int
    adds_presence = needs_last_step = False

    def __call__(self, staged: StagedBatch) -> StagedBatch:
        """Return the batch with its samples redrawn."""
        source = generator(self.seed, f"{staged.purpose} data", staged.number)
        return replace(staged, batch=draw(staged.batch, self.schemas, source))


class Stages:
    """Makes the batches of a training: fetches rows and passes them through the recipe's stages.

    Args:
        recipe: says which stages there are.
        data: the rows.
        model: makes the guesses of self-training.
        host: where the batches go, and which rows this process takes.

    Attributes:
        adds_presence: whether training batches may have entries that the dataset lacks.
        made_ahead: whether a thread may make a batch while the step before it is computed.

    Raises:
        InputError: self-training names a modality of which the model's predictions have no probability.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, model: MultimodalVAE, host: Host) -> None:
        self.data, self.host = data, host
        changing = redrawn(recipe.explained)  # on the CPU
        self.whole = bool(changing)
        self.source = data.dataset.on(host.device, [name for name in recipe.explained if name not in changing])
        self.stages: list[Stage] = []
        if recipe.train.self_training is not None:
            self.stages.append(Guess(SelfTraining(recipe.train.self_training, model, data, recipe.seed)))
        if recipe.data.augment.moves:
            self.stages.append(Warp(recipe.data.augment, recipe.explained, recipe.seed))
        if changing:
            self.stages.append(Redraw(recipe.explained, recipe.seed))
        self.adds_presence = any(stage.adds_presence for stage in self.stages)
        waiting = any(stage.needs_last_step for stage in self.stages)
        self.made_ahead = host.device.type == "cuda" and self.source is data.dataset and not waiting

    def __call__(self, rows: Tensor, purpose: str, number: int, epoch: int | None) -> tuple[Batch, Tensor, Sums]:
        """Make the batch of a step.

        Args:
            rows: int64 indices of the whole batch, `(batch,)`.
            purpose: see `StagedBatch`.
            number: see `StagedBatch`.
            epoch: see `StagedBatch`.

        Returns:
            This process's share, on the device; the presence of the whole batch, bool `(batch, modalities)`; sums for
            the step's metrics.
        """
        share = self.host.share
        part, mine = (slice(None), share) if self.whole else (share, slice(None))
        staged = StagedBatch(self.source[rows[part]], len(rows), part, mine, purpose, number, epoch)
        for stage in self.stages:
            staged = stage(staged)
        batch = staged.batch.part(mine) if self.whole else staged.batch
        present = self.data.dataset.present[rows]
        if self.adds_presence and epoch is not None:
            for rank, known in enumerate(self.host.processes.gather(batch.present)):
                present[rank :: self.host.processes.size] = known
        return (batch.pin_memory() if self.made_ahead else batch).to(self.host.device), present, staged.counted
