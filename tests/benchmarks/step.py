"""The cost of a paper-size six-way training step: modalkit's engine beside the plain loop over the same networks.

    python tests/benchmarks/step.py [--rounds 9]

Both take turns in one process, on the same batch, subset and noise: forward, backward, Adam. The loop runs the model
once per ELBO term and decodes everything, as the paper's equation 4 is written down. Ratios of pairs are printed
with their median; on a shared machine only they mean something.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does

import torch
from once_per_term import once_per_term_loss

from modalkit.data import Batch
from modalkit.engine import evaluate_plan
from modalkit.model import MultimodalVAE
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws
from modalkit.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs of steps that are counted")
    parser.add_argument("--recipe", default="celeba_transforms", help="a recipe whose modalities are all pictures")
    arguments = parser.parse_args()
    recipe = load_recipe(Path(arguments.recipe))
    rows, latent = recipe.train.batch_size, recipe.model.latent_dim
    torch.manual_seed(0)
    models = [MultimodalVAE(recipe.modalities, latent) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(memory_format=torch.contiguous_format)  # the loop as anyone would write it
    optimizers = [torch.optim.Adam(m.parameters(), recipe.train.learning_rate) for m in models]
    values = {n: torch.randint(0, 256, (rows, *s.event_shape), dtype=torch.uint8) for n, s in recipe.modalities.items()}
    batch = Batch(values, torch.ones(rows, len(values), dtype=torch.bool))

    def timed(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
        start = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    options = recipe.objective
    assert isinstance(options, MvaeOptions)
    times: list[tuple[float, float]] = []
    for round_ in range(arguments.rounds + 1):
        plan = plan_mvae(options, models[0].names, batch.present, Draws(torch.Generator().manual_seed(round_)))
        noise = torch.randn(len(plan.terms), rows, latent)

        def engine(plan=plan, noise=noise) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return -evaluate_plan(models[0], batch, plan, noise, 1.0).elbo.sum() / rows

        def loop(plan=plan, noise=noise) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return once_per_term_loss(models[1], batch, plan, noise, 1.0)

        pair = timed(engine, optimizers[0]), timed(loop, optimizers[1])
        if round_:  # the first warms up
            times.append(pair)
            print(
                f"round {round_}: engine {1e3 * pair[0]:.0f} ms, loop {1e3 * pair[1]:.0f} ms: {pair[0] / pair[1]:.3f}"
            )
    medians = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
    ratio = statistics.median(a / b for a, b in times)
    print(f"median: engine {medians[0]:.0f} ms, loop {medians[1]:.0f} ms; ratio of pairs {ratio:.3f}")


if __name__ == "__main__":
    main()
