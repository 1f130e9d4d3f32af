"""Training: one loop that reads top to bottom, over a dataset, a model and an objective's plans.

A run folder holds::

    recipe.yaml                the resolved recipe; `modalkit train RUN` goes on from here
    environment.json           what it ran on
    metrics.jsonl              a line each log step and each validation; metrics.csv and events.out.tfevents… the same
    checkpoints/state.pt       everything that resuming needs, replaced whole
    checkpoints/best.safetensors, last.safetensors
    pictures/                  reconstructions and every single modality translated into every other
    translations.json          how well, in nats, on held-out rows
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch, Dataset, check_manifest
from modalkit.data.augment import draw_maps, warp
from modalkit.data.batches import Batches
from modalkit.data.reading import draw, draws, evenly
from modalkit.data.weak import weaken
from modalkit.errors import InputError, RunError
from modalkit.evaluation.pictures import translation_sheet
from modalkit.evaluation.translation import Translation, translations
from modalkit.model.diagnosis import unsound, where_not_finite
from modalkit.model.engine import evaluate_plan, means
from modalkit.model.marginals import center
from modalkit.model.vae import assemble
from modalkit.nn import share_statistics
from modalkit.recipe.loading import Recipe
from modalkit.runs.checkpoint import load_state, load_weights, save_state, save_weights
from modalkit.runs.folder import check_claim, claim
from modalkit.runs.metrics import MetricsLog
from modalkit.training.devices import Loss, Step, ahead, make_fabric
from modalkit.training.planning import Planner
from modalkit.training.self_training import check_guesses, guess
from modalkit.util.files import locked, write_atomic, write_json
from modalkit.util.interrupts import Interrupts
from modalkit.util.processes import Processes
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed, generator

_log = logging.getLogger(__name__)

_EPOCHS_APART = 5.0
"""Seconds between two lines that say how an epoch ended; of short ones the log has all."""
EVALUATED_ROWS = 500
"""At most this many held-out rows are translated at the end of a run."""


@dataclass
class Progress:
    """How far a run is; with the weights and the optimiser's state, all that resuming needs.

    Attributes:
        step: gradient steps done.
        epoch: whole epochs done.
        best: highest validation ELBO so far, nats a row, all terms summed, beta 1.
        best_epoch: the epoch that it came after; 0 while there is none.
    """

    step: int = 0
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        progress: how far it is.
        ended: why it ended, in words; empty if a signal interrupted it.
        signal: the signal's number, or 0.
        held_out: the split that was translated.
        translations: how well each modality is predicted from each other, unless interrupted.
    """

    progress: Progress
    ended: str
    signal: int = 0
    held_out: str = ""
    translations: tuple[Translation, ...] = ()


class Trainer:
    """Fits a recipe's model; `train` is the way in.

    Args:
        recipe: what to train.
        run: the run folder.

    Raises:
        InputError: the dataset or a plugin does not fit the recipe, or `run` holds another recipe's run.
    """

    def __init__(self, recipe: Recipe, run: Path) -> None:
        self.recipe, self.run, self.progress = recipe, run, Progress()
        self.epoch_line, self.epoch_said = "", -math.inf
        self.fabric = make_fabric(recipe.train)
        self.fabric.launch()
        self.processes = Processes()
        self.dataset = Dataset(recipe.data.path, list(recipe.modalities), in_memory=recipe.data.in_memory)
        self.dataset.require(recipe.modalities)
        rows = self.dataset.rows("train")
        weaken(self.dataset, rows, recipe.data.weak, recipe.seed)
        self.rows = rows[self.dataset.present[rows].any(1)]
        valid = self.dataset.rows("valid")
        self.valid = valid[self.dataset.present[valid].any(1)]
        if recipe.train.patience is not None and not len(self.valid):
            raise InputError(f"train.patience: {recipe.data.path} has no validation rows to wait for")
        self.data_digest = hashlib.sha256((self.dataset.folder / "manifest.json").read_bytes()).hexdigest()
        present = self.dataset.present[self.rows]
        self.batches = Batches(self.rows, present, recipe.train.batch_size, recipe.train.paired_share)
        self.steps_per_epoch = len(self.batches)
        self.planner, self.model = Planner(recipe), assemble(recipe)
        if self.processes.size > 1 and share_statistics(self.model):
            self.model.processes = self.processes
        # A network of a person's own may bring parameters that are not to be trained.
        self.trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
        self.planner.require(self.dataset, training=self.rows, validation=self.valid)
        # Fused: one pass over each parameter in place of a dozen.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.train.learning_rate, fused=True)
        self.state_path = run / "checkpoints" / "state.pt"
        self.first = self.processes.rank == 0  # the one that reads and writes the run folder
        begun = self.first and self.state_path.exists()
        if recipe.model.centered and not begun:
            center(self.model, self.dataset)
        state = load_state(self.state_path, torch.device("cpu")) if begun else self._state()
        self.loss, self.optimizer = self.fabric.setup(Loss(self.model), self.optimizer)
        self._restore(self.processes.of_first(state))
        if recipe.train.compile:
            self.model.compile_networks(recipe.train.compile)
        # What is drawn anew is drawn on the CPU.
        still = [name for name in recipe.modalities if name not in draws(recipe.modalities)]
        self.source = self.dataset.on(self.fabric.device, still)
        own = recipe.train.self_training
        # A batch with guesses must wait for the step before it.
        self.fetched_ahead = self.fabric.device.type == "cuda" and self.source is self.dataset and own is None
        if own is not None and len(rows := self.rows[self.model.allows(present)]):
            check_guesses(self.model, self.dataset[rows[:1]], own.modalities)

    def fit(self) -> Result:
        """Train until the recipe is fulfilled or a signal comes; then translate and draw, and return how it ended."""
        train, progress, first = self.recipe.train, self.progress, self.first
        if first:
            _log.info(self._opening())
        total = min(train.epochs * self.steps_per_epoch, train.max_steps or sys.maxsize)
        shown = bar(total, self.run.name, unit="step", initial=progress.step, disable=not first)
        log = MetricsLog(self.run, progress.step, train.loggers, self.model.names, enabled=first)
        with Interrupts() as interrupts, log, shown:
            started, seen, signal = time.monotonic(), 0, 0
            while not signal and not self.ended():
                self._freeze()
                for step in self.epoch_steps():
                    self.step(step)
                    progress.step += 1
                    seen += step.rows
                    shown.update()
                    if progress.step % train.log_every == 0:
                        self.check(step)
                        rate, seen = seen / (time.monotonic() - started), 0
                        started = time.monotonic()
                        parts = self.processes.gather(step.sums())
                        metrics = means(parts) | {"beta": step.beta, "rows_per_second": rate}
                        shown.set_postfix_str(f"ELBO {metrics.get('elbo', 0):.1f}, {rate:.0f} rows/s", refresh=False)
                        log("train", progress.step, progress.epoch, metrics)
                    due = train.checkpoint_every and progress.step % train.checkpoint_every == 0
                    signal = self._agreed(interrupts)
                    last = signal or progress.step in (train.max_steps, self._epoch_ends())
                    if due or last:
                        self.check(step)  # what is saved must be sound
                    if last:
                        break
                    if due:
                        self.save()
                if progress.step == self._epoch_ends():
                    progress.epoch += 1
                    self._validate_and_keep(log)
                    if self.planner.frozen(progress.epoch) != self.planner.frozen(progress.epoch - 1):
                        progress.best, progress.best_epoch = -math.inf, 0  # another stage begins, and is judged afresh
                self.save()
                self._draw_epoch()
                signal = self._agreed(interrupts)
        self._say_epoch(0)
        if not self.ended():
            return Result(progress, "", signal=signal)
        return self.conclude()

    def _opening(self) -> str:
        """Say what is trained, on what, and where it goes."""
        parameters = sum(p.numel() for p in self.model.parameters())
        begun = f"going on after step {self.progress.step}" if self.progress.step else "new"
        begun = f"was complete already ({ended})" if (ended := self.ended()) else begun
        return (
            f"{self.run}: {begun}; {len(self.rows)} training rows of {self.dataset.path}, "
            f"{len(self.model.names)} modalities, {parameters:,} parameters, on {self.fabric.device}"
        )

    def _epoch_ends(self) -> int:
        return (self.progress.epoch + 1) * self.steps_per_epoch

    def ended(self) -> str:
        """Return why training is over, in words, or the empty string."""
        train, progress = self.recipe.train, self.progress
        if progress.epoch >= train.epochs:
            return f"{train.epochs} epochs done"
        if train.max_steps is not None and progress.step >= train.max_steps:
            return f"{train.max_steps} steps done"
        last_stage = self.planner.frozen(progress.epoch) == self.planner.frozen(train.epochs - 1)
        if (
            train.patience is not None
            and last_stage  # in an earlier one, the next has still to come
            and progress.best_epoch
            and progress.epoch - progress.best_epoch >= train.patience
        ):
            return f"epoch {progress.epoch}: no better validation ELBO since epoch {progress.best_epoch}"
        return ""

    def _freeze(self) -> None:
        """Leave as they are, in this epoch, the networks that the objective says; their running statistics too."""
        prefixes = self.planner.frozen(self.progress.epoch)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.trainable and not name.startswith(prefixes))
        for name, part in self.model.named_modules():
            part.training = not f"{name}.".startswith(prefixes)

    def epoch_steps(self) -> Iterator[Step]:
        """Yield what is left of this epoch, made ready to be taken by `step`."""
        seed, epoch, start = self.recipe.seed, self.progress.epoch, self.progress.step
        batches = self.batches.draw(generator(seed, "order", epoch))
        first = epoch * self.steps_per_epoch

        def ready(number: int) -> Step:
            return self.prepare(batches[number - first], "train", number, self.beta(number))

        numbers = range(start, first + len(batches))
        return ahead(ready, numbers, self.fabric.device) if self.fetched_ahead else map(ready, numbers)

    def step(self, step: Step) -> None:
        """Do one gradient step."""
        cpu = self.fabric.device.type == "cpu"
        if self.recipe.train.compile:
            # What the last step's graphs returned is used up.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # torch.manual_seed looks for every kind of device, which takes longer than all else here.
        seed = torch.default_generator.manual_seed if cpu else torch.manual_seed
        seed(derived_seed(self.recipe.seed, "dropout", self.progress.step, self.processes.rank))
        try:
            loss = self.loss(step)
        except InputError as error:  # a likelihood that checks its parameters trips over NaN before the loss does
            if (name := unsound(self.model)) is None:
                raise
            raise RunError(self._stopped(f"the weights {name}, since an earlier step")) from error
        step.loss = loss.detach()
        if cpu:  # elsewhere looking at it would wait for the device
            self.check(step)
        if loss.requires_grad:  # else no row takes part in any term
            self.fabric.backward(loss)
        self.processes.sum_gradients(self.model.parameters())
        if self.recipe.train.clip_norm is not None:
            self.fabric.clip_gradients(
                self.loss, self.optimizer, max_norm=self.recipe.train.clip_norm, error_if_nonfinite=False
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self, step: Step) -> None:
        """Raise `RunError`, naming the modality, if a step's loss is NaN or infinite."""
        if not step.loss.isfinite():
            raise RunError(self._stopped(where_not_finite(self.model, step.elbo)))

    def prepare(self, rows: Tensor, purpose: str, number: int, beta: float) -> Step:
        """Plan a step over `rows`, draw its noise, and fetch the values of this process's share of them.

        Plan and noise are those of the whole batch, so that many processes do what one would.

        Args:
            rows: int64 indices of the whole batch, `(batch,)`.
            purpose: what the randomness is for; the draws of different purposes are independent.
            number: which draw of that purpose.
            beta: weight of the KL.
        """
        epoch = self.progress.epoch if purpose == "train" else None
        mine = slice(self.processes.rank, None, self.processes.size)
        batch, present = self._fetch(rows, mine, purpose, number), self.dataset.present[rows]
        guessed = None
        if purpose == "train" and self.recipe.train.self_training:
            guessed = int(batch.present.sum() - present[mine].sum())
            for rank, share in enumerate(self.processes.gather(batch.present)):
                present[rank :: self.processes.size] = share
        plan = self.planner.plan(present, purpose, number, epoch)
        shape = (self.model.components * len(plan.terms), len(rows), self.model.latent_dim)
        device = self.fabric.device
        noise = torch.randn(
            shape, generator=generator(self.recipe.seed, f"{purpose} noise", number, device=device), device=device
        )
        batch = (batch.pin_memory() if self.fetched_ahead else batch).to(device)
        return Step(batch, plan.rows(mine), noise[:, mine].to(self.model.dtype), beta, len(rows), guessed)

    def _fetch(self, rows: Tensor, mine: slice, purpose: str, number: int) -> Batch:
        """Fetch one process's share of some rows, for training with guesses and moved, as the recipe says.

        What is drawn is drawn for all of them, as one process would.
        """
        recipe, drawn = self.recipe, bool(draws(self.recipe.modalities))
        part = slice(None) if drawn else mine
        batch = self.source[rows[part]]
        own = recipe.train.self_training
        if purpose == "train" and own is not None and self.progress.epoch >= own.after_epochs:
            drawn_from = derived_seed(recipe.seed, "self-training", number)
            batch = guess(self.model, batch, own.modalities, own.confidence, drawn_from)
        if purpose == "train" and recipe.data.augment.moves:
            maps = draw_maps(recipe.data.augment, len(rows), generator(recipe.seed, "augmentation", number))
            batch = warp(batch, recipe.modalities, maps[part])
        if drawn:
            draw_from = generator(recipe.seed, f"{purpose} data", number)
            batch = draw(batch, recipe.modalities, draw_from).part(mine)
        return batch

    def learning_rate(self, number: int) -> float:
        """Return a step's learning rate, counted from 0: constant, or falling to 0 along half a cosine."""
        train = self.recipe.train
        done = number / (train.epochs * self.steps_per_epoch) if train.schedule == "cosine" else 0.0
        return train.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def beta(self, number: int) -> float:
        """Return the weight of the KL in a step, counted from 0: linear from 0 over the warm-up, step by step."""
        warmup = self.recipe.objective.warmup_epochs * self.steps_per_epoch
        return self.recipe.objective.beta * min(1.0, (number + 1) / warmup if warmup else 1.0)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the validation rows' mean ELBO and its parts at beta 1, the same draws every time.

        Each process takes its share of the rows, and all return the same.
        """
        self.model.eval()
        parts = []
        for number, rows in enumerate(torch.split(self.valid, self.recipe.train.batch_size)):
            step = self.prepare(rows, "valid", number, beta=1.0)
            parts.append(evaluate_plan(self.model, step.batch, step.plan, step.noise).sums())
        self._freeze()
        return means(part for shares in self.processes.gather(parts) for part in shares)

    def save(self) -> None:
        """Write everything that resuming needs, unless it is unsound.

        Raises:
            RunError: a weight is NaN or infinite; what was saved before is kept.
        """
        if (name := unsound(self.model)) is not None:
            raise RunError(self._stopped(f"the weights {name}, after this step"))
        if self.first:
            save_state(self.state_path, self._state())

    def conclude(self) -> Result:
        """Take the best weights, translate held-out rows, draw the last sheet, and return how it ended."""
        if not self.first:
            return Result(self.progress, self.ended())
        checkpoints = self.run / "checkpoints"
        save_weights(checkpoints / "last.safetensors", self.model)
        if self.progress.best_epoch:
            load_weights(checkpoints / "best.safetensors", self.model)
        else:
            save_weights(checkpoints / "best.safetensors", self.model)
        held_out = next(s for s in ("test", "valid", "train") if len(self.dataset.rows(s)))
        rows = evenly(self.dataset.rows(held_out), EVALUATED_ROWS)
        table = tuple(translations(self.model, self.dataset, rows, seed=self.recipe.seed))
        write_json(self.run / "translations.json", [asdict(t) for t in table])
        self._draw(held_out, "final.png")
        return Result(self.progress, self.ended(), held_out=held_out, translations=table)

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "data": self.data_digest,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            digest = state["data"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.state_path}: does not fit this recipe ({reason}); choose another --out") from None
        if digest != self.data_digest:
            raise InputError(
                f"{self.run}: was trained on another content of {self.dataset.path} than is there now; bring that "
                f"back, or choose another --out"
            )

    def _validate_and_keep(self, log: MetricsLog) -> None:
        """Validate, each process its share of the rows, and keep the best weights."""
        progress = self.progress
        if unsound(self.model) is not None:  # `save` says what is wrong
            return
        metrics = self.validate()
        if metrics and self.first:
            log("valid", progress.step, progress.epoch, metrics)
            self.epoch_line = (
                f"epoch {progress.epoch}: validation ELBO {metrics['elbo']:.2f} nats a row (all terms, beta 1)"
            )
            self._say_epoch(_EPOCHS_APART)
        # Without validation rows the last weights are the best there are.
        if not metrics or metrics["elbo"] > progress.best:
            progress.best, progress.best_epoch = metrics.get("elbo", progress.best), progress.epoch
            if self.first:
                save_weights(self.run / "checkpoints" / "best.safetensors", self.model)

    def _say_epoch(self, apart: float) -> None:
        """Say how the last epoch ended, unless it has been said, or another was said less than some seconds ago."""
        if self.epoch_line and time.monotonic() - self.epoch_said >= apart:
            _log.info(self.epoch_line)
            self.epoch_line, self.epoch_said = "", time.monotonic()

    def _draw_epoch(self) -> None:
        """Draw the sheet of an epoch that has just ended, if one is due."""
        every, progress = self.recipe.train.pictures_every, self.progress
        ended = progress.step == progress.epoch * self.steps_per_epoch
        if every and ended and progress.epoch % every == 0 and self.first:
            self._draw("valid" if len(self.valid) else "train", f"epoch-{progress.epoch:04d}.png")

    def _draw(self, split: str, name: str) -> None:
        rows = self.dataset.rows(split)
        complete = rows[self.dataset.present[rows].all(1)]
        chosen = (complete if len(complete) else rows)[:3]
        try:
            sheet = translation_sheet(self.model, self.dataset, chosen, self.recipe.seed)
            write_atomic(self.run / "pictures" / name, lambda path: sheet.save(path, format="png"))
        except InputError as error:  # a picture that cannot be drawn is no reason to lose a run
            _log.warning(f"no {name}: {error}")
        self._freeze()

    def _agreed(self, interrupts: Interrupts) -> int:
        """Return the signal that any process has been sent, so that all of them stop after the same step."""
        return int(self.processes.most(torch.tensor(interrupts.signal)))

    def _stopped(self, where: str) -> str:
        kept = f"{self.state_path} is from before" if self.state_path.exists() else "nothing had been saved"
        return (
            f"step {self.progress.step + 1}: the loss is NaN or infinite; first in {where}; {kept}. Try a lower "
            f"train.learning_rate, train.clip_norm, or a longer objective.warmup_epochs, in a new --out"
        )


def train(recipe: Recipe, run: Path) -> Result:
    """Train a recipe into a run folder, going on from its last state if it has one.

    Args:
        recipe: what to train; its dataset must be there.
        run: made if needed. A folder that holds the same recipe's run is resumed, bit for bit as if it had never
            stopped; of the recipe only how long, where and how often to report may have changed.

    Raises:
        InputError: something given does not fit; the message says what.
        RunError: the loss became NaN, or the disk is full; the last saved state is kept.
    """
    manifest = check_manifest(recipe.data.path, recipe.modalities)
    recipe = recipe.model_copy(update={"modalities": manifest.complete(recipe.modalities)})
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0
    with locked(run, "training") if first else nullcontext():
        if first:
            check_claim(recipe, run)
        trainer = Trainer(recipe, run)
        if first:  # only now that everything fits
            claim(recipe, run)
        return trainer.fit()
