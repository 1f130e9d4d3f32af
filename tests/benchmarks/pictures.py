"""The cost of a training step with each network of pictures, on the six modalities of the six-way experiment.

    python tests/benchmarks/pictures.py [--size 32] [--rows 50] [--rounds 9] [NETWORK ...]

A NETWORK is written as in a recipe; by default they are dcgan, resnet, {type: resnet, norm: batch} and mlp. All take
turns in one process with one thread, on the same rows, random subset and noise: forward, backward, Adam. Ratios are
medians over rounds of turns, to the first network.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from step import Contender, random_batch
from torch import Tensor

from modalkit.data import Batch
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan
from modalkit.recipe.loading import load_recipe
from modalkit.training.planning import Planner

NETWORKS = ("dcgan", "resnet", "{type: resnet, norm: batch}", "mlp")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = Path("recipes/celeba_transforms.yaml")
    recipe = load_recipe(path)
    ways: list[Contender] = []
    for text in arguments.networks:
        fields = (f"size={arguments.size}", f"network={text}")
        changed = load_recipe(path, [f"modalities.{name}.{field}" for name in recipe.modalities for field in fields])
        if not ways:
            batch = random_batch(changed, arguments.rows)
        ways.append(contender(text, MultimodalVAE(changed.modalities, changed.model.latent_dim), batch))
    planner = Planner(recipe)
    for number in range(arguments.rounds + 1):
        plan = planner.plan(batch.present, "benchmark", number, 0)
        noise = torch.randn(len(plan.terms), arguments.rows, recipe.model.latent_dim)
        for way in ways:
            seconds = way.step(plan, noise)
            if number:  # the first warms up
                way.seconds.append(seconds)
    print(f"six-way at {arguments.size} pixels, {arguments.rows} rows, 1 thread\n")
    print("| network | parameters, millions | ms per step | ratio |\n|---|---|---|---|")
    for way in ways:
        millions = sum(p.numel() for p in way.model.parameters()) / 1e6
        ratio = statistics.median(a / b for a, b in zip(way.seconds, ways[0].seconds, strict=True))
        print(f"| {way.name} | {millions:.1f} | {1e3 * statistics.median(way.seconds):.0f} | {ratio:.2f} |")


def contender(name: str, model: MultimodalVAE, batch: Batch) -> Contender:
    """Return a way to make a step of a model."""

    def loss(plan: Plan, noise: Tensor) -> Tensor:
        return -evaluate_plan(model, batch, plan, noise, 1.0).elbo.sum() / len(batch)

    return Contender(name, model, loss, 1e-4, fused=True)


if __name__ == "__main__":
    main()
