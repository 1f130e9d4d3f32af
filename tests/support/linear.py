"""A linear model of three views whose evidence and posteriors are known in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

import modalkit
from modalkit.data import Dataset
from modalkit.model import assemble
from modalkit.recipe import load_recipe
from modalkit.runs.opened import Run

# Three views x_m = s_m * z + noise of one z of two dimensions, so that every evidence and every posterior is known.
SLOPES = {"a": (0.9, 1.4), "b": (0.5, 1.1), "c": (1.2, 0.7)}
ROWS = 24
LINEAR = """\
data: {path: DATA}
modalities:
  a: &view {kind: vector, size: 2, scale: 1.0, network: {type: mlp, hidden: [2], decoder_hidden: []}}
  b: *view
  c: *view
model: {latent_dim: 2}
objective: OBJECTIVE
"""


def write_linear(folder: Path) -> Path:
    """Write rows of the three views, any of them absent."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, 2, generator=g)
    values = {n: z * torch.tensor(s) + torch.randn(ROWS, 2, generator=g) for n, s in SLOPES.items()}
    present = {n: torch.rand(ROWS, generator=g) < 0.7 for n in SLOPES}
    schemas = {n: modalkit.schema("vector", size=2) for n in SLOPES}
    modalkit.write_dataset(folder / "linear", schemas, values, present=present, split=["test"] * ROWS)
    return folder / "linear"


def linear_run(folder: Path, objective: str = "{name: mvae}", wider: float = 1.0, *, experts: bool = True) -> Run:
    """Return a run whose decoders are exact, and whose experts are, but for a variance so many times as large."""
    data = write_linear(folder)
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(LINEAR.replace("DATA", str(data)).replace("OBJECTIVE", objective))
    recipe = load_recipe(run / "recipe.yaml")
    model = assemble(recipe).double()
    for name, slope in SLOPES.items():
        s = torch.tensor(slope).double()
        (decode,) = (part for part in model.decoders[name].modules() if isinstance(part, nn.Linear))
        fill(decode, torch.diag(s), torch.zeros(2))
        if experts:
            parts = model.heads[name].out_features // 4  # type: ignore[operator]  # 1, or 2 with a logit each
            model.encoders[name], log_variance = nn.Identity(), math.log(wider) - torch.log(s**2)
            bias = [
                torch.cat([torch.full((2,), 0.4 * i), log_variance, torch.ones(parts - 1) * i]) for i in range(parts)
            ]
            weight = torch.cat([torch.diag(1 / s), torch.zeros(2 + parts - 1, 2)])
            model.heads[name] = nn.Linear(2, parts * len(weight)).double()
            fill(model.heads[name], weight.repeat(parts, 1), torch.cat(bias))
    return Run(run, recipe, model.eval(), "exact", Dataset(data, list(SLOPES)))


def fill(linear: nn.Module, weight: Tensor, bias: Tensor) -> None:
    assert isinstance(linear, nn.Linear) and linear.weight.shape == weight.shape
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def exact_posterior(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of z given some views of one row, in closed form."""
    precision, weighted = torch.ones(2).double(), torch.zeros(2).double()
    for name, x in given.items():
        s = torch.tensor(SLOPES[name]).double()
        precision, weighted = precision + s**2, weighted + s * x.double()
    return weighted / precision, precision.rsqrt()
