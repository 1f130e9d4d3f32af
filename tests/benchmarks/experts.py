"""The cost of experts with a precision matrix: training steps of low_rank and full experts beside diagonal ones.

    python tests/benchmarks/experts.py                        # all cases, a few minutes
    python tests/benchmarks/experts.py table table-gaps --rounds 200

The cases are `table` (12 single columns, 8 latent dimensions, 100 rows, the objective that `modalkit init` drafts),
`small` (the same columns with one hidden layer of 16 and the default objective), `views` (four vectors, 16 latent
dimensions) and `six-way` (recipes/celeba_transforms.yaml: six pictures of 64 pixels, 250 latent dimensions, 50 rows).
`table-gaps` and `small-gaps` have a fifth of the cells missing, so that nearly every row has subsets of its own. For
each case all kinds of experts take turns in one process, on the same rows, plans and noise: forward, backward, Adam.
Ratios to diagonal experts are medians over rounds of turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from step import Contender, random_batch
from torch import Tensor

from modalkit.data import Batch
from modalkit.model import MultimodalVAE, assemble
from modalkit.model.engine import evaluate_plan
from modalkit.plugin import Plan
from modalkit.recipe.loading import Recipe, load_recipe
from modalkit.training.planning import Planner

NETWORK = "network: {type: mlp, hidden: [128, 128], decoder_hidden: [128, 128]}"
COLUMNS = "\n".join(f"  c{i}: {{kind: vector, size: 1, {NETWORK}}}" for i in range(12))
TABLE = f"""\
data: {{path: table}}
modalities:
{COLUMNS}
model: {{latent_dim: 8}}
objective: {{name: mvae, k: 12, singles: 4, beta: 0.3}}
train: {{batch_size: 100}}
"""
FOUR = "\n".join(f"  v{i}: {{kind: vector, size: {20 * i}, {NETWORK}}}" for i in range(1, 5))
VIEWS = f"""\
data: {{path: views}}
modalities:
{FOUR}
model: {{latent_dim: 16}}
train: {{batch_size: 100}}
"""
SMALL = TABLE.replace("[128, 128]", "[16]").replace("k: 12, singles: 4", "k: 1")
TEXTS = {"table": TABLE, "table-gaps": TABLE, "small": SMALL, "small-gaps": SMALL, "views": VIEWS}
ROUNDS = {"six-way": 9}
EXPERTS = ("diagonal", "low_rank", "full")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[*TEXTS, "six-way"])
    parser.add_argument("--rounds", type=int, help="turns that are counted; by default 100, and 9 of six-way")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for case in arguments.cases:
        measure(case, arguments.rounds or ROUNDS.get(case, 100))


def recipe_of(case: str, experts: str) -> Recipe:
    """Return a case's recipe with one kind of experts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path("recipes", "celeba_transforms.yaml")
        if case in TEXTS:
            path = Path(folder, f"{case}.yaml")
            path.write_text(TEXTS[case])
        return load_recipe(path, [f"model.experts={experts}"])


def measure(case: str, rounds: int) -> None:
    """Measure one case and print a table."""
    recipes = {experts: recipe_of(case, experts) for experts in EXPERTS}
    recipe, rows = recipes["diagonal"], recipes["diagonal"].train.batch_size
    batch, planner = random_batch(recipe, rows), Planner(recipe)
    if case.endswith("-gaps"):
        batch = Batch(batch.values, torch.rand(batch.present.shape, generator=torch.Generator().manual_seed(0)) >= 0.2)
    ways = [contender(recipes[experts], batch) for experts in EXPERTS]
    for number in range(-3, rounds):  # the first ones warm up
        plan = planner.plan(batch.present, "benchmark", number + 3, None)
        noise = torch.randn(len(plan.terms), rows, recipe.model.latent_dim)
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            seconds = way.step(plan, noise)
            if number >= 0:
                way.seconds.append(seconds)
    print(
        f"\n{case}: {len(recipe.modalities)} modalities, {rows} rows, {rounds} rounds, "
        f"threads: {torch.get_num_threads()}"
    )
    print("| experts | ms a step | ratio to diagonal |\n|---|---|---|")
    for way in ways:
        ratio = statistics.median(a / b for a, b in zip(way.seconds, ways[0].seconds, strict=True))
        print(f"| {way.name} | {1e3 * statistics.median(way.seconds):.1f} | {ratio:.2f} |", flush=True)


def contender(recipe: Recipe, batch: Batch) -> Contender:
    """Return training steps of a recipe's model on some rows."""
    model = assemble(recipe)
    return Contender(recipe.model.experts, model, loss_of(model, batch), recipe.train.learning_rate, fused=True)


def loss_of(model: MultimodalVAE, batch: Batch) -> Callable[[Plan, Tensor], Tensor]:
    """Return the loss of a model on some rows."""
    return lambda plan, noise: -evaluate_plan(model, batch, plan, noise, 1.0).elbo.sum() / len(batch)


if __name__ == "__main__":
    main()
