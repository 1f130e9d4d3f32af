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
import math
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from modalkit.checkpoint import load_state, load_weights, save_state, save_weights
from modalkit.data import Batch, Dataset, draw, draws, evenly, weaken
from modalkit.diagnosis import unsound, where_not_finite
from modalkit.engine import evaluate_plan, means
from modalkit.errors import InputError, RunError
from modalkit.fabric import Loss, Step, make_fabric
from modalkit.files import locked, write_atomic, write_json
from modalkit.interrupts import Interrupts
from modalkit.metrics_log import MetricsLog
from modalkit.model import assemble
from modalkit.pictures import translation_sheet
from modalkit.planning import Planner
from modalkit.progress import bar, say
from modalkit.randomness import derived_seed, generator
from modalkit.recipe import Recipe
from modalkit.run_folder import check_claim, claim
from modalkit.translation import Translation, translations

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
        self.fabric = make_fabric(recipe.train)
        self.fabric.launch()
        self.dataset = Dataset(recipe.data.path, list(recipe.modalities), in_memory=recipe.data.in_memory)
        self.dataset.require(recipe.modalities)
        rows = self.dataset.rows("train")
        weaken(self.dataset, rows, recipe.data.weak, recipe.seed)
        self.rows = rows[self.dataset.present[rows].any(1)]
        valid = self.dataset.rows("valid")
        self.valid = valid[self.dataset.present[valid].any(1)]
        if recipe.train.patience is not None and not len(self.valid):
            raise InputError(f"train.patience: {recipe.data.path} has no validation rows to wait for")
        self.data_digest = hashlib.sha256((recipe.data.path / "manifest.json").read_bytes()).hexdigest()
        self.steps_per_epoch = math.ceil(len(self.rows) / recipe.train.batch_size)
        self.planner, self.model = Planner(recipe), assemble(recipe)
        # A network of a person's own may bring parameters that are not to be trained.
        self.trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
        self.planner.require(self.dataset, training=self.rows, validation=self.valid)
        # Fused: one pass over each parameter in place of a dozen.
        optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.train.learning_rate, fused=True)
        self.loss, self.optimizer = self.fabric.setup(Loss(self.model), optimizer)
        self.state_path = run / "checkpoints" / "state.pt"
        if self.state_path.exists():
            self._restore()

    def fit(self) -> Result:
        """Train until the recipe is fulfilled or a signal comes; then translate and draw, and return how it ended."""
        train, progress = self.recipe.train, self.progress
        first = self.fabric.is_global_zero
        if first:
            say(self._opening())
        total = min(train.epochs * self.steps_per_epoch, train.max_steps or sys.maxsize)
        shown = bar(total, self.run.name, unit="step", initial=progress.step, disable=not first)
        log = MetricsLog(self.run, progress.step, train.loggers, enabled=first)
        with Interrupts() as interrupts, log, shown:
            started, seen = time.monotonic(), 0
            while not self.ended() and not interrupts.signal:
                self._freeze()
                for rows in self.epoch_batches():
                    step = self.step(rows)
                    progress.step += 1
                    seen += len(rows)
                    shown.update()
                    if progress.step % train.log_every == 0:
                        self.check(step)
                        rate, seen = seen / (time.monotonic() - started), 0
                        started = time.monotonic()
                        metrics = means([step.elbo.sums()]) | {"beta": step.beta, "rows_per_second": rate}
                        shown.set_postfix_str(f"ELBO {metrics.get('elbo', 0):.1f}, {rate:.0f} rows/s")
                        log("train", progress.step, progress.epoch, metrics)
                    due = train.checkpoint_every and progress.step % train.checkpoint_every == 0
                    last = self._agreed(interrupts) or progress.step in (train.max_steps, self._epoch_ends())
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
        if not self.ended():
            return Result(progress, "", signal=interrupts.signal)
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

    def epoch_batches(self) -> list[Tensor]:
        """Return what is left of this epoch: int64 row indices, a tensor for each step."""
        order = torch.randperm(len(self.rows), generator=generator(self.recipe.seed, "order", self.progress.epoch))
        batches = torch.split(self.rows[order], self.recipe.train.batch_size)
        return list(batches[self.progress.step - self.progress.epoch * self.steps_per_epoch :])

    def step(self, rows: Tensor) -> Step:
        """Do one gradient step on the dataset's `rows`; each process takes its share of them."""
        seed, number = self.recipe.seed, self.progress.step
        rank, world = self.fabric.global_rank, self.fabric.world_size
        step = self.prepare(rows, "train", number, self.beta(), rank, world)
        torch.manual_seed(derived_seed(seed, "dropout", number, rank))
        try:
            loss = self.loss(step)
        except InputError as error:  # a likelihood that checks its parameters trips over NaN before the loss does
            if (name := unsound(self.model)) is None:
                raise
            raise RunError(self._stopped(f"the weights {name}, since an earlier step")) from error
        step.loss = loss.detach()
        if self.fabric.device.type == "cpu":  # elsewhere looking at it would wait for the device
            self.check(step)
        self.fabric.backward(loss)
        if self.recipe.train.clip_norm is not None:
            self.fabric.clip_gradients(
                self.loss, self.optimizer, max_norm=self.recipe.train.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return step

    def check(self, step: Step) -> None:
        """Raise `RunError`, naming the modality, if a step's loss is NaN or infinite."""
        if not step.loss.isfinite():
            raise RunError(self._stopped(where_not_finite(self.model, step.elbo)))

    def prepare(self, rows: Tensor, purpose: str, number: int, beta: float, rank: int = 0, world: int = 1) -> Step:
        """Plan a step over `rows`, draw its noise, and fetch the values of one process's share of them.

        Plan and noise are those of the whole batch, so that many processes do what one would.

        Args:
            rows: int64 indices of the whole batch, `(batch,)`.
            purpose: what the randomness is for; the draws of different purposes are independent.
            number: which draw of that purpose.
            beta: weight of the KL.
            rank: this process takes every `world`-th row, beginning with this one.
            world: number of processes that share the batch.
        """
        epoch = self.progress.epoch if self.model.training else None
        plan = self.planner.plan(self.dataset.present[rows], purpose, number, epoch)
        shape = (self.model.components * len(plan.terms), len(rows), self.model.latent_dim)
        device = self.fabric.device
        noise = torch.randn(
            shape, generator=generator(self.recipe.seed, f"{purpose} noise", number, device=device), device=device
        )
        mine = slice(rank, None, world)
        batch = self._fetch(rows, mine, purpose, number).to(device)
        # Processes average their gradients, so each divides by its share of the whole batch.
        return Step(batch, plan.rows(mine), noise[:, mine].to(self.model.dtype), beta, rows=len(rows) / world)

    def _fetch(self, rows: Tensor, mine: slice, purpose: str, number: int) -> Batch:
        """Fetch one process's share of some rows; what is drawn is drawn for all of them, as one process would."""
        if not draws(self.recipe.modalities):
            return self.dataset[rows[mine]]
        draw_from = generator(self.recipe.seed, f"{purpose} data", number)
        return draw(self.dataset[rows], self.recipe.modalities, draw_from).part(mine)

    def beta(self) -> float:
        """Return this step's weight of the KL: linear from 0 over the warm-up, step by step."""
        warmup = self.recipe.objective.warmup_epochs * self.steps_per_epoch
        return self.recipe.objective.beta * min(1.0, (self.progress.step + 1) / warmup if warmup else 1.0)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the validation rows' mean ELBO and its parts at beta 1, the same draws every time."""
        self.model.eval()
        parts = []
        for number, rows in enumerate(torch.split(self.valid, self.recipe.train.batch_size)):
            step = self.prepare(rows, "valid", number, beta=1.0)
            parts.append(evaluate_plan(self.model, step.batch, step.plan, step.noise).sums())
        self._freeze()
        return means(parts)

    def save(self) -> None:
        """Write everything that resuming needs, unless it is unsound.

        Raises:
            RunError: a weight is NaN or infinite; what was saved before is kept.
        """
        if not self.fabric.is_global_zero:
            return
        if (name := unsound(self.model)) is not None:
            raise RunError(self._stopped(f"the weights {name}, after this step"))
        state = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "data": self.data_digest,
        }
        save_state(self.state_path, state)

    def conclude(self) -> Result:
        """Take the best weights, translate held-out rows, draw the last sheet, and return how it ended."""
        if not self.fabric.is_global_zero:
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

    def _restore(self) -> None:
        state = load_state(self.state_path, self.fabric.device)
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
        """Validate and keep the best weights; only one process does, and the others wait for its verdict."""
        progress = self.progress
        if self.fabric.is_global_zero and unsound(self.model) is None:  # `save` says what is wrong with unsound weights
            metrics = self.validate()
            if metrics:
                log("valid", progress.step, progress.epoch, metrics)
                say(f"epoch {progress.epoch}: validation ELBO {metrics['elbo']:.2f} nats a row (all terms, beta 1)")
            # Without validation rows the last weights are the best there are.
            if not metrics or metrics["elbo"] > progress.best:
                progress.best, progress.best_epoch = metrics.get("elbo", progress.best), progress.epoch
                save_weights(self.run / "checkpoints" / "best.safetensors", self.model)
        progress.best, progress.best_epoch = self.fabric.broadcast((progress.best, progress.best_epoch))

    def _draw_epoch(self) -> None:
        """Draw the sheet of an epoch that has just ended, if one is due."""
        every, progress = self.recipe.train.pictures_every, self.progress
        ended = progress.step == progress.epoch * self.steps_per_epoch
        if every and ended and progress.epoch % every == 0 and self.fabric.is_global_zero:
            self._draw("valid" if len(self.valid) else "train", f"epoch-{progress.epoch:04d}.png")

    def _draw(self, split: str, name: str) -> None:
        rows = self.dataset.rows(split)
        complete = rows[self.dataset.present[rows].all(1)]
        chosen = (complete if len(complete) else rows)[:3]
        try:
            sheet = translation_sheet(self.model, self.dataset, chosen, self.recipe.seed)
            write_atomic(self.run / "pictures" / name, lambda path: sheet.save(path, format="png"))
        except InputError as error:  # a picture that cannot be drawn is no reason to lose a run
            say(f"no {name}: {error}")
        self._freeze()

    def _agreed(self, interrupts: Interrupts) -> bool:
        """Tell whether any process was asked to stop, so that all of them stop after the same step."""
        if self.fabric.world_size > 1:
            asked = torch.tensor(float(interrupts.signal), device=self.fabric.device)
            interrupts.signal = int(self.fabric.all_reduce(asked, reduce_op="max"))
        return bool(interrupts.signal)

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
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0
    with locked(run, "training") if first else nullcontext():
        if first:
            check_claim(recipe, run)
        trainer = Trainer(recipe, run)
        if first:  # only now that everything fits
            claim(recipe, run)
        return trainer.fit()
