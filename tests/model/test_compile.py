"""Compiled networks against plain ones; compiling takes most of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.toys import here, write_circle, write_recipe
from torch._dynamo.utils import counters

import modalkit
from modalkit.data import Batch
from modalkit.model.engine import evaluate_plan
from modalkit.model.vae import MultimodalVAE
from modalkit.objectives.mvae import MvaeOptions, plan_mvae
from modalkit.plugin import Draws

pytestmark = pytest.mark.slow


def test_loss_and_gradients_are_the_same_and_other_numbers_of_rows_compile_nothing_anew() -> None:
    network = {"type": "dcgan", "widths": [4, 8, 8], "hidden": 12, "dropout": 0.0, "batch_norm": True}
    schemas = {
        "image": modalkit.schema("image", size=32, network=network),
        "label": modalkit.schema("label", classes=3, network={"type": "mlp", "hidden": [8], "batch_norm": True}),
    }
    torch.manual_seed(0)
    plain = MultimodalVAE(schemas, 5).double()
    compiled = MultimodalVAE(schemas, 5).double()
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_networks("default")
    options, graphs = MvaeOptions(k=1), []
    for number, rows in enumerate([8, 11, 14, 9, 17, 12]):
        g = torch.Generator().manual_seed(number)
        present = torch.rand(rows, 2, generator=g) > 0.3
        present[:2] = True
        values = {
            "image": torch.randint(0, 256, (rows, 3, 32, 32), generator=g).to(torch.uint8),
            "label": torch.randint(0, 3, (rows,), generator=g),
        }
        batch = Batch(values, present)
        plan = plan_mvae(options, plain.names, present, Draws(g))
        noise = torch.randn(len(plan.terms), rows, 5, generator=g, dtype=torch.float64)
        losses = [-evaluate_plan(model, batch, plan, noise, 0.7).elbo.sum() for model in (plain, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
        for loss in losses:
            loss.backward()
        for one, other in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
            torch.testing.assert_close(other[1].grad, one[1].grad, rtol=1e-7, atol=1e-9, msg=one[0])
        torch.testing.assert_close(compiled.state_dict(), plain.state_dict())  # running statistics too
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[-1] == graphs[2], graphs


def test_a_recipe_asks_for_it_and_goes_on_without(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    before = counters["stats"]["unique_graphs"]
    first = here("train", recipe, "--set", "train.compile=default", "--set", "train.max_steps=8", cwd=tmp_path)
    assert first.returncode == 0 and counters["stats"]["unique_graphs"] > before, first.stderr
    more = here("train", recipe, "--set", "train.max_steps=12", cwd=tmp_path)
    assert more.returncode == 0 and "resuming after step 8" in more.stderr + more.stdout
