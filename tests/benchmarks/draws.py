"""How much draws of a run's prior, or of its fitted sampler, look like data, for modalities that are pictures.

    python tests/benchmarks/draws.py runs/quickstart --prior
    python tests/benchmarks/draws.py runs/quickstart --prior --temperature 0.7
    modalkit fit-sampler runs/quickstart
    python tests/benchmarks/draws.py runs/quickstart

Of 1,000 draws, each the means of its likelihoods: how many correlate with the mean training picture (a negative does
not), and the distance to the nearest training row, root mean square over pixels, beside that of held-out rows. A draw
is near if that is within the 99th percentile of theirs. Variety is the mean distance between draws in proportion to
that between training rows. Without it, draws may be near because they are all alike or copies: copies have a smaller
distance than held-out rows have. The last line says the share of validation rows, and of what the model makes of them,
that are near in all modalities: what draws that look like new data would reach.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

import modalkit
from modalkit.data import Dataset

DRAWS = 1000


def correlation(pictures: Tensor, mean: Tensor) -> Tensor:
    centred, about = pictures - pictures.mean(1, keepdim=True), mean - mean.mean()
    return centred @ about / (centred.norm(dim=1) * about.norm()).clamp(min=1e-12)


def distance(pictures: Tensor, training: Tensor) -> Tensor:
    return torch.cdist(pictures, training).amin(1) / math.sqrt(training.shape[1])


def variety(pictures: Tensor, training: Tensor) -> float:
    return float(torch.pdist(pictures[:DRAWS]).mean() / torch.pdist(training[:DRAWS]).mean())


def share(which: Tensor) -> float:
    return float(which.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--temperature", type=float, default=1.0, help="factor of the prior's standard deviation")
    parser.add_argument("--prior", action="store_true", help="draw from the prior, even if the run has a sampler")
    given = parser.parse_args()
    model = modalkit.load(given.run)
    dataset = Dataset(model.recipe.data.path, list(model.modalities))
    answer = model.sample(DRAWS, temperature=given.temperature, sampler=not given.prior)
    alike, near = torch.ones(2, DRAWS, dtype=torch.bool)
    valid = dataset.rows("valid")
    valid = valid[dataset.present[valid].all(1)]
    real = dataset[valid].values
    made = model.infer(real, want=list(model.modalities))
    real_near, made_near = torch.ones(2, len(valid), dtype=torch.bool)
    print(f"{'':12}{'correlation > 0':>16}{'distance':>10}{'held out':>10}{'near':>8}{'variety':>9}")
    for name, schema in model.schemas.items():
        training, held_out = (
            schema.unpack(dataset.values(name, rows[dataset.present[rows, dataset.names.index(name)]])).flatten(1)
            for rows in (dataset.rows("train"), dataset.rows("test"))
        )  # (rows, *event_shape) -> (rows, pixels)
        drawn = answer[name].value.flatten(1)
        positive, apart = correlation(drawn, training.mean(0)) > 0, distance(drawn, training)
        usual = distance(held_out, training)
        close = apart <= usual.quantile(0.99)
        alike, near = alike & positive, near & close
        far = usual.quantile(0.99)
        real_near &= distance(schema.unpack(real[name]).flatten(1), training) <= far
        made_near &= distance(made[name].value.flatten(1), training) <= far
        print(
            f"{name:12}{share(positive):>16.1%}{apart.mean():>10.3f}{usual.mean():>10.3f}{share(close):>8.1%}"
            f"{variety(drawn, training):>9.2f}"
        )
    print(f"{'all of them':12}{share(alike):>16.1%}{'':20}{share(near):>8.1%}")
    print(f"all of them near: validation rows {share(real_near):.1%}, their reconstructions {share(made_near):.1%}")


if __name__ == "__main__":
    main()
