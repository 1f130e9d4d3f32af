"""The cost of a training step against the number of modalities: bits, as in recipes/bits1000_mvae.yaml.

    python tests/benchmarks/modalities.py [--most 1000] [--missing 0.2]

For each number of modalities, the median milliseconds of forward, backward and Adam over 100 rows, with the recipe's
networks and sampled single terms; and what one modality more costs, the slope between one number and the next.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "active")  # as the command line does on a machine that is its own

import torch

from modalkit.data import Batch
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.recipe.loading import load_recipe
from modalkit.training.planning import Planner

ROWS = 100


def stepper(number: int, missing: float) -> Callable[[int], float]:
    """Return what makes a step of a model of so many bits and returns its seconds."""
    overrides = [f"modalities.bit{{}}.each=0..{number - 1}", f"objective.singles={min(4, number)}"]
    recipe = load_recipe(Path("recipes/bits1000_mvae.yaml"), overrides)
    torch.manual_seed(0)
    present = torch.rand(ROWS, number) >= missing
    batch = Batch({n: torch.randint(0, 2, (ROWS,), dtype=torch.uint8) for n in recipe.modalities}, present)
    model, planner = MultimodalVAE(recipe.modalities, recipe.model.latent_dim), Planner(recipe)
    optimizer = torch.optim.Adam(model.parameters(), recipe.train.learning_rate, fused=True)

    def step(count: int) -> float:
        start = time.perf_counter()
        plan = planner.plan(present, "benchmark", count, 0)
        noise = torch.randn(len(plan.terms), ROWS, recipe.model.latent_dim)
        (-evaluate_plan(model, batch, plan, noise).elbo.sum() / ROWS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--missing", type=float, default=0.2, help="share of absent entries")
    arguments = parser.parse_args()
    numbers = [n for n in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if n <= arguments.most]
    steps = {number: stepper(number, arguments.missing) for number in numbers}
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    for round_ in range(10):  # in turns, so that a slow moment meets all
        for number in numbers:
            taken = steps[number](round_)
            if round_:  # the first warms up
                seconds[number].append(taken)
    print("| modalities | ms a step | ms a modality | ms for one more |\n|---|---|---|---|")
    before = (0, 0.0)
    for number in numbers:
        median = 1e3 * statistics.median(seconds[number])
        slope = (median - before[1]) / (number - before[0])
        print(f"| {number} | {median:.1f} | {median / number:.3f} | {slope:.3f} |")
        before = (number, median)


if __name__ == "__main__":
    main()
