"""The training loop, over a dataset's batches, an objective's plans and a model.

A run folder holds::

    recipe.yaml                the resolved recipe; `modalkit train RUN` resumes from here
    environment.json           versions and machine
    metrics.jsonl              a line for each log step and each validation
    metrics.csv, events.out.tfevents…  the same for other programs
    checkpoints/state.pt       everything that resuming needs, replaced as a whole
    checkpoints/refit.pt       the same for the second fit, if the recipe asks for one
    checkpoints/best.safetensors, last.safetensors
    pictures/                  reconstructions, and every single modality translated into every other
    translations.json          quality of the translations on held-out rows: errors, references, nats
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalkit.errors import InputError
from modalkit.evaluation.translation import Translation
from modalkit.model.diagnosis import unsound
from modalkit.model.engine import evaluate_plan, means
from modalkit.model.sampling import plan_noise
from modalkit.nn import evaluating
from modalkit.recipe.loading import Recipe
from modalkit.runs.folder import RunFolder
from modalkit.runs.metrics_log import MetricsLog
from modalkit.runs.opened import held_out_split
from modalkit.runs.progress import Progress
from modalkit.training import courses
from modalkit.training.choosing import Choice
from modalkit.training.data import TrainingData
from modalkit.training.devices import Host, ahead
from modalkit.training.explaining import explained
from modalkit.training.linear_start import StartChoices
from modalkit.training.planning import Planner
from modalkit.training.results import EpochLines, Pace, Results
from modalkit.training.stages import Stages
from modalkit.training.state import TrainingState
from modalkit.training.step import Learner, NotFiniteError, Step
from modalkit.util.interrupts import Interrupts
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed, generator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        progress: how far it is.
        ended: why it ended, in words; empty if a signal interrupted it.
        signal: the signal's number, or 0.
        held_out: the split that was translated; empty in all processes but the first.
        translations: how well each modality is predicted from each other, unless interrupted.
        refit: whether the best weights are those of a second fit, or an interrupted one was the second.
    """

    progress: Progress
    ended: str
    signal: int = 0
    held_out: str = ""
    translations: tuple[Translation, ...] = ()
    refit: bool = False


class Trainer:
    """Fits a recipe's model; most callers use `train`.

    Args:
        recipe: what to train, completed by its dataset.
        run: the run folder.
        host, data: where to train, and the rows; by default as the recipe says.
        state: the file of the saved state; by default that of the run.
        choices: those of a start at a factor analysis; by default it chooses by validation rows.

    Attributes:
        title: what the progress bar is called.
        split: what the metrics of its steps are called.
        steps_before: steps of an earlier fit, which the metrics add to the steps of this one.

    Raises:
        InputError: the dataset, a plugin or the saved state does not fit the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        *,
        host: Host | None = None,
        data: TrainingData | None = None,
        state: Path | None = None,
        choices: StartChoices | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, RunFolder(run)
        self.title, self.split, self.steps_before = run.name, "train", 0
        self.host = host or Host(recipe.train)
        self.data, self.planner = data or TrainingData(recipe), Planner(recipe)
        self.learner = Learner(recipe, self.host)
        self.model = self.learner.model
        self.planner.require(self.data)
        self.state = TrainingState(self.folder, self.learner, self.data, state, choices)
        self.state.start(recipe)
        self.learner.compile()
        self.choice = Choice(recipe, self.model, self.data, self.host.processes)
        self.stages = Stages(recipe, self.data, self.model, self.host)
        self.steps_per_epoch = len(self.data.batches)
        self.learning_rate = courses.learning_rate(recipe, self.steps_per_epoch)
        self.beta = courses.beta(recipe, self.steps_per_epoch)
        self.results = Results(self.folder, self.model, self.data.dataset, recipe.seed)
        self.lines, self.pace = EpochLines(), Pace()
        self.latest = torch.arange(0)  # the rows of the latest step

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.state.progress

    def fit(self) -> Result:
        """Train until the recipe is fulfilled or a signal arrives; then save the results, and return how it ended."""
        signal = self.go_on()
        return self.conclude() if self.ended() else Result(self.progress, "", signal=signal)

    def go_on(self) -> int:
        """Train until the recipe is fulfilled or a signal arrives; return the signal, or 0."""
        train, first, signal = self.recipe.train, self.host.first, 0
        if first:
            _log.info(self._opening())
            self._say_doubts()
        shown = bar(self.most_steps(), self.title, unit="step", initial=self.progress.step, disable=not first)
        done = self.steps_before + self.progress.step
        log = MetricsLog(self.folder, done, train.loggers, self.model.names, enabled=first)
        with Interrupts() as interrupts, log, shown, self._explained():
            if not self.progress.step and self.recipe.model.start != "random":
                with self.learner.averaged():
                    self._keep_best(self.validate(), log)  # the start may be better than every epoch
            self.pace = Pace()
            while not signal and not self.ended():
                signal = self._train_epoch(interrupts, log, shown)
        self.lines.close()
        return signal

    def most_steps(self) -> int:
        """Return how many steps the training has at most."""
        train = self.recipe.train
        return min(train.epochs * self.steps_per_epoch, train.max_steps or sys.maxsize)

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
            and last_stage  # patience does not end an earlier stage
            and progress.has_best
            and progress.epoch - progress.best_epoch >= train.patience
        ):
            return f"epoch {progress.epoch}: no {self.choice.improvement} since epoch {progress.best_epoch}"
        return ""

    def epoch_steps(self) -> Iterator[Step]:
        """Yield the remaining steps of this epoch, prepared for `take`."""
        batches = self.data.batches.shuffle(generator(self.recipe.seed, "order", self.progress.epoch))
        first = self.progress.epoch * self.steps_per_epoch

        def ready(number: int) -> Step:
            return self.prepare(batches[number - first], "train", number, self.beta(number))

        numbers = range(self.progress.step, first + len(batches))
        return ahead(ready, numbers, self.host.device) if self.stages.made_ahead else map(ready, numbers)

    def prepare(self, rows: Tensor, purpose: str, number: int, beta: float) -> Step:
        """Fetch and plan a step over `rows`, and sample its noise.

        Plan and noise are those of the whole batch, so that several processes do what one would do.

        Args:
            rows: int64 indices of the whole batch, `(batch,)`.
            purpose: ``"train"`` or ``"valid"``; random choices of different purposes are independent.
            number: the number of the step for that purpose.
            beta: weight of the KL.
        """
        epoch = self.progress.epoch if purpose == "train" else None
        batch, present, counted = self.stages(rows, purpose, number, epoch)
        plan = self.planner.plan(present, purpose, number, epoch)
        share = self.host.share
        source = generator(self.recipe.seed, f"{purpose} noise", number, device=self.host.device)
        noise = plan_noise(self.model, plan, source)[:, share]
        return Step(batch, plan.rows(share), noise, beta, rows, counted)

    def take(self, step: Step) -> None:
        """Do one gradient step."""
        number, self.latest = self.progress.step, step.rows
        seed = derived_seed(self.recipe.seed, "dropout", number, self.host.processes.rank)
        self.learner.take(step, number, self.learning_rate(number), seed)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the mean ELBO of the validation rows and its parts, with beta 1 and the same noise every time.

        If the best epoch is chosen by the error of imputation, that is returned too. Each process takes its share of
        the rows, and all return the same.
        """
        parts = []
        with evaluating(self.model):
            for number, rows in enumerate(torch.split(self.data.valid, self.recipe.train.batch_size)):
                step = self.prepare(rows, "valid", number, beta=1.0)
                parts.append(evaluate_plan(self.model, step.batch, step.plan, step.noise).sums())
        found = means(part for shares in self.host.processes.gather(parts) for part in shares)
        return found | self.choice.measure()

    def save(self) -> None:
        """Save everything that resuming needs."""
        self.state.save()

    def conclude(self) -> Result:
        """Save last and best weights, translations and pictures of the best, and return how the run ended."""
        if not self.host.first:
            return Result(self.progress, self.ended())
        self.keep_last()
        held_out = held_out_split(self.data.dataset)
        with self.learner.averaged():
            if self.progress.has_best:
                self.results.load_best()
            else:
                self.results.save_best()
            table = self.results.save_translations(held_out)
            self.results.save_sheet(held_out, "final.png")
        return Result(self.progress, self.ended(), held_out=held_out, translations=table)

    def keep_last(self) -> None:
        """Save the present weights as the last."""
        if self.host.first:
            with self.learner.averaged():
                self.results.save_last()

    def _train_epoch(self, interrupts: Interrupts, log: MetricsLog, shown: Any) -> int:
        """Train to the end of this epoch, or to the last step or a signal before; return the signal, or 0."""
        train, progress = self.recipe.train, self.progress
        epoch_end = (progress.epoch + 1) * self.steps_per_epoch
        self.learner.freeze(self.planner.frozen(progress.epoch))
        for step in self.epoch_steps():
            self.take(step)
            progress.step += 1
            self.pace.rows += len(step.rows)
            shown.update()
            if progress.step % train.log_every == 0:
                self._log_step(step, log, shown)
            due = train.checkpoint_every and progress.step % train.checkpoint_every == 0
            last = self._agreed(interrupts) or progress.step in (train.max_steps, epoch_end)
            if due or last:
                self.learner.check(step)  # only a sound state is saved
            if last:
                break
            if due:
                self.save()
        if progress.step == epoch_end:
            self._end_epoch(log)
        self.save()
        return self._agreed(interrupts)

    def _log_step(self, step: Step, log: MetricsLog, shown: Any) -> None:
        self.learner.check(step)
        rate = self.pace.measure()
        parts = self.host.processes.gather(step.sums())
        learning_rate = self.learning_rate(self.progress.step - 1)  # of the step that was just done
        metrics = means(parts) | {"beta": step.beta, "learning_rate": learning_rate, "rows_per_second": rate}
        shown.set_postfix_str(f"ELBO {metrics.get('elbo', 0):.1f}, {rate:.0f} rows/s", refresh=False)
        log(self.split, self.steps_before + self.progress.step, self.progress.epoch, metrics)

    def _end_epoch(self, log: MetricsLog) -> None:
        """Validate, keep the best weights, and count the epoch."""
        progress = self.progress
        progress.epoch += 1
        if unsound(self.model) is None:  # otherwise `save` raises
            with self.learner.averaged():
                self._keep_best(self.validate(), log)
                self._picture_epoch()  # before the epoch is saved as done, so that a kill does not lose it
        if self.planner.frozen(progress.epoch) != self.planner.frozen(progress.epoch - 1):
            progress.best, progress.best_epoch = -math.inf, 0  # the next stage of the objective has a best of its own

    def _keep_best(self, metrics: dict[str, float], log: MetricsLog) -> None:
        progress = self.progress
        better = self.choice.better(metrics, progress)
        if metrics and self.host.first:
            log("valid", progress.step, progress.epoch, metrics)
            self.lines.add(self.choice.line(metrics, progress))
        if better and self.host.first:
            self.results.save_best()

    def _picture_epoch(self) -> None:
        every, epoch = self.recipe.train.pictures_every, self.progress.epoch
        if every and epoch % every == 0 and self.host.first:
            self.results.save_sheet("valid" if len(self.data.valid) else "train", f"epoch-{epoch:04d}.png")

    def _opening(self) -> str:
        """Return a line that reports what is trained, on which data, and where."""
        parameters = sum(p.numel() for p in self.model.parameters())
        begun = f"resuming after step {self.progress.step}" if self.progress.step else "new"
        begun = f"already complete ({ended})" if (ended := self.ended()) else begun
        return (
            f"{self.folder.path}: {begun}; {len(self.data.train)} training rows of {self.data.dataset.path}, "
            f"{len(self.model.names)} modalities, {parameters:,} parameters, on {self.host.device}"
        )

    def _say_doubts(self) -> None:
        """Report what makes the training or the choice of its best epoch unreliable."""
        if not self.progress.step and (doubt := self.data.doubt()):
            _log.warning(doubt)
        if doubt := self.choice.doubt():
            _log.info(doubt)

    def _agreed(self, interrupts: Interrupts) -> int:
        """Return the signal that any process has received, so that all of them stop after the same step."""
        return int(self.host.processes.most(torch.tensor(interrupts.signal)))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain a loss or weight that is NaN or infinite, or a likelihood that raises, and what was kept."""
        try:
            yield
        except (InputError, NotFiniteError) as error:
            raise explained(
                error, self.recipe, self.data, self.latest, self.progress.step + 1, self.state.path
            ) from error
