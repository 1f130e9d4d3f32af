"""What the trainer's loop costs beside the steps in it: planning, noise, data, checks, log, progress.

    python tests/benchmarks/loop.py RECIPE [--steps 40] [--set KEY=VALUE ...]

Two trainings of the recipe take turns step by step in one process, on the same batches: the trainer's own loop, as
`modalkit train` runs it, and a bare one whose batches are ready beforehand: forward, backward, Adam. The median of what
is between them is printed, in all and as a share of the bare step. On a shared machine only pairs mean something.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does beside other work

import torch

from modalkit.recipe.loading import load_recipe
from modalkit.training.trainer import Trainer


class Turns(Trainer):
    """A trainer that lets a bare loop have a turn at the beginning of each of its own steps."""

    def take(self, step):  # type: ignore[no-untyped-def]
        self.spans.append(time.perf_counter() - self.left)
        super().take(step)
        self.inside.append(time.perf_counter() - self.left - self.spans[-1])
        bare(self.other, step, self.bare)
        self.left = time.perf_counter()


def bare(trainer: Trainer, step, times: list[float]) -> None:  # type: ignore[no-untyped-def]
    """Do one step as the shortest loop would."""
    start = time.perf_counter()
    loss = trainer.learner.loss(step)
    loss.backward()
    trainer.learner.optimizer.step()
    trainer.learner.optimizer.zero_grad()
    times.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = [*arguments.overrides, f"train.max_steps={arguments.steps}", "train.accelerator=cpu"]
    recipe = load_recipe(arguments.recipe, settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Turns(recipe, Path(folder) / "one")
        trainer.other = Trainer(recipe, Path(folder) / "other")
        trainer.other.learner.freeze(())
        trainer.spans, trainer.inside, trainer.bare = [], [], []
        trainer.conclude = lambda: None  # type: ignore[method-assign]
        trainer.save = lambda: None  # type: ignore[method-assign]  # seconds an epoch, not microseconds a step
        trainer.left = time.perf_counter()
        trainer.fit()
    warm = recipe.train.log_every + 1  # the first line of the log opens its files
    between, inside, plain = trainer.spans[warm:], trainer.inside[warm:], trainer.bare[warm:]
    step = statistics.median(plain)
    outside = statistics.fmean(between)  # a mean, because a line is logged at every tenth step only
    more = statistics.median(a - b for a, b in zip(inside, plain, strict=True))
    print(
        f"{len(plain)} steps of {step * 1e3:.1f} ms; between them {statistics.median(between) * 1e6:.0f} us, with log "
        f"{outside * 1e6:.0f}; within them {more * 1e6:+.0f}: {100 * (outside + more) / step:.2f} % of a step"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
