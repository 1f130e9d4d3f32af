"""What z keeps of the site of a measurement, with and without the site as a covariate, and what another site would say.

    python tests/benchmarks/covariates.py                # half a minute on an idle core
    python tests/benchmarks/covariates.py --raw --latent-dim 4 --epochs 20    # harder: offsets as they are measured
    python tests/benchmarks/covariates.py --raw --latent-dim 4 --epochs 20 --start    # from a factor analysis

Two assays of ten numbers each depend on a state of two numbers, which lies around one of three centres: the biology.
At each of two sites every number has a gain and an offset of its own; the offsets are three times as large as what the
biology changes. Prints how well neighbours and a logistic regression tell the site and the biology from the posterior's
mean, on held-out rows, and the error of the second assay predicted from the first, as if at either site. Needs
scikit-learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import modalkit
from modalkit.inference import TrainedModel

ROWS, HELD_OUT, NUMBERS, NOISE = 1000, 1000, 10, 0.3
SITES = ("north", "south")


@dataclass(frozen=True)
class World:
    """How states become measurements: at site s, number j is `gain[s, j] * (state @ loadings)[j] + offset[s, j]`."""

    loadings: Tensor
    gain: Tensor
    offset: Tensor
    noise: Tensor
    centres: Tensor

    @classmethod
    def random(cls, seed: int) -> World:
        """Return a world of two assays, whose numbers stand side by side."""
        g = torch.Generator().manual_seed(seed)
        return cls(
            torch.randn(2, 2 * NUMBERS, generator=g),
            1 + 0.5 * torch.rand(2, 2 * NUMBERS, generator=g),
            3 * torch.randn(2, 2 * NUMBERS, generator=g),
            torch.full((2 * NUMBERS,), NOISE),
            torch.tensor([[1.2, 0.0], [-0.6, 1.0], [-0.6, -1.0]]),
        )

    def at(self, state: Tensor, site: Tensor) -> Tensor:
        """Return what measurements would be without noise, `(rows, 2 * NUMBERS)`."""
        return (state @ self.loadings) * self.gain[site] + self.offset[site]


@dataclass(frozen=True)
class Rows:
    """Some rows of a world: states, what they belong to, and measurements."""

    state: Tensor
    biology: Tensor
    site: Tensor
    first: Tensor
    second: Tensor


def sample(world: World, rows: int, seed: int) -> Rows:
    """Sample rows."""
    g = torch.Generator().manual_seed(seed)
    biology, site = torch.randint(3, (rows,), generator=g), torch.randint(2, (rows,), generator=g)
    state = world.centres[biology] + 0.4 * torch.randn(rows, 2, generator=g)
    x = world.at(state, site) + world.noise * torch.randn(rows, 2 * NUMBERS, generator=g)
    return Rows(state, biology, site, x[:, :NUMBERS], x[:, NUMBERS:])


def standardised(world: World, seed: int) -> World:
    """Return the same world in units in which all measurements have the mean 0 and the standard deviation 1."""
    rows = sample(world, 20_000, seed)
    x = torch.cat([rows.first, rows.second], 1)
    mean, sd = x.mean(0), x.std(0)
    return replace(world, gain=world.gain / sd, offset=(world.offset - mean) / sd, noise=world.noise / sd)


def trained(rows: Rows, epochs: int, latent_dim: int = 2, *, covariate: bool, start: bool = False) -> TrainedModel:
    """Train on rows, with the site as a covariate or without the site, from random weights or a factor analysis."""
    network: dict[str, Any] = {"type": "mlp", "hidden": [32], "decoder_hidden": [32]}
    own: dict[str, Any] = {"latent_dim": latent_dim}
    if start:
        network, own = network | {"linear": NUMBERS}, own | {"experts": "low_rank", "start": "factor_analysis"}
    modalities = {n: modalkit.schema("vector", size=NUMBERS, network=network) for n in ("first", "second")}
    data = {"first": rows.first, "second": rows.second}
    if covariate:
        modalities["site"] = modalkit.schema("label", names=list(SITES), role="covariate")
        data["site"] = rows.site
    train = {"epochs": epochs, "batch_size": 50, "learning_rate": 0.01, "accelerator": "cpu"}
    recipe = modalkit.Recipe(modalities=modalities, model=own, train=train)
    return modalkit.train(recipe, data, progress=False)


def given(rows: Rows, names: Sequence[str]) -> dict[str, Tensor]:
    """Return what a model is asked with."""
    return {name: getattr(rows, name) for name in names}


def decoded(model: TrainedModel, fit: Rows, test: Rows, names: Sequence[str]) -> dict[str, float]:
    """Return how often the site and the biology are told from z on held-out rows."""
    before, after = (model.embed(given(rows, names)).loc.numpy() for rows in (fit, test))
    found = {}
    for what in ("site", "biology"):
        for how, classifier in (("near", KNeighborsClassifier(15)), ("linear", LogisticRegression())):
            fitted = classifier.fit(before, getattr(fit, what))
            found[f"{what}, {how}"] = float(fitted.score(after, getattr(test, what)))
    return found


def moved(model: TrainedModel, world: World, rows: Rows, site: int) -> float:
    """Return the root mean squared error of the second assay as if at a site, given the first at its own."""
    found = model.infer(given(rows, ["first", "site"]), ["second"], as_if={"site": SITES[site]})["second"].value
    truth = world.at(rows.state, torch.full((len(rows.site),), site))[:, NUMBERS:]
    return float((found - truth).square().mean().sqrt())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--raw", action="store_true", help="do not standardise the measurements")
    parser.add_argument("--start", action="store_true", help="begin at a factor analysis")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    world = World.random(asked.seed)
    world = world if asked.raw else standardised(world, 1)
    fit, test = sample(world, ROWS, 2), sample(world, HELD_OUT, 3)
    for covariate in (False, True):
        model = trained(fit, asked.epochs, asked.latent_dim, covariate=covariate, start=asked.start)
        names = ["first", "second", *(["site"] if covariate else [])]
        print("with the site as a covariate" if covariate else "without the site")
        for known in (names, [name for name in names if name != "second"]):
            said = ", ".join(f"{n} {100 * share:.1f} %" for n, share in decoded(model, fit, test, known).items())
            print(f"  z given {', '.join(known)}: {said}")
    for site, name in enumerate(SITES):
        own = torch.full((len(test.site),), site)
        apart = (world.at(test.state, own) - world.at(test.state, 1 - own))[:, NUMBERS:].square().mean().sqrt()
        print(f"  second as if at {name}: error {moved(model, world, test, site):.3f}; the sites are {apart:.3f} apart")


if __name__ == "__main__":
    main()
