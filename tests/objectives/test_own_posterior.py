"""An objective in a file of its own, with a posterior network of its own, needs public names only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from support.command_line import refused
from support.documents import shown_file
from support.toys import here

from modalkit import registry, schema
from modalkit.data import Batch, write_dataset
from modalkit.model import MultimodalVAE
from modalkit.nn import BatchNorm1d

JOINT = shown_file("extending.md", "joint.py")
FAILING = """\
import torch


class Encoder(torch.nn.Linear):
    def __init__(self, schema):
        super().__init__(2, 3)

    def forward(self, value):
        if self.training:
            raise RuntimeError("out of ink")
        return super().forward(value)


def decoder(schema, latent_dim):
    return torch.nn.Sequential(torch.nn.Linear(latent_dim, 4), torch.nn.Unflatten(1, (2, 2)))
"""
NORMED = {"type": "mlp", "hidden": [6], "decoder_hidden": [6], "batch_norm": True}
PARTS = ("heart", "blood")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the objective, networks that fail, and a dataset in which some rows lack a modality."""
    folder = tmp_path_factory.mktemp("own-posterior")
    (folder / "joint.py").write_text(JOINT)
    (folder / "failing.py").write_text(FAILING)
    g = torch.Generator().manual_seed(0)
    base = torch.randn(60, 1, generator=g)
    values = {name: base + 0.1 * torch.randn(60, 2, generator=g) for name in PARTS}
    made = {name: schema("vector", size=2) for name in PARTS}
    write_dataset(folder / "data", made, values, present={"blood": torch.rand(60, generator=g) < 0.7})
    return folder


def recipe(network: str) -> str:
    entries = "".join(f"  {name}: {{kind: vector, size: 2, network: {network}}}\n" for name in PARTS)
    train = "{epochs: 2, batch_size: 16, accelerator: cpu, pictures_every: 0}"
    return f"""\
plugins: [joint.py]
data: {{path: data}}
modalities:
{entries}objective: {{name: joint}}
train: {train}
"""


def test_the_objective_names_nothing_private() -> None:
    assert not re.findall(r"\b_(?!_init__)\w+", JOINT)


def test_it_trains_and_answers_from_all_modalities_or_none(work: Path) -> None:
    (work / "own.yaml").write_text(recipe(json.dumps(NORMED)))
    done = here("train", "own.yaml", "--out", "run", cwd=work)
    assert done.returncode == 0 and "2 epochs done" in done.stdout, done.stderr
    given = {entry["given"] for entry in json.loads((work / "run" / "translations.json").read_text())}
    assert given == {"all"}
    state = torch.load(work / "run" / "checkpoints" / "state.pt", weights_only=True)
    moved = {index for index, one in state["optimizer"]["state"].items() if one["exp_avg"].abs().sum() > 0}
    assert len(moved) == len(state["optimizer"]["state"]), "every network takes part"
    assert "joint.0.weight" in state["model"] and not any(name.startswith("heads.") for name in state["model"])


def test_its_encoders_run_once_a_step_on_complete_rows_alone(work: Path) -> None:
    own = registry.import_file(work / "joint.py").JOINT
    model: MultimodalVAE = own.model(None, {name: schema("vector", size=2, network=NORMED) for name in PARTS}, 3)
    assert any(isinstance(part, BatchNorm1d) for part in model.encoders.modules())
    rows: list[int] = []
    for name in PARTS:
        model.encoders[name].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    present = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    batch = Batch({name: torch.randn(4, 2) for name in PARTS}, present)
    given = (present & present.all(1, keepdim=True))[None]
    q = model.posterior(model.observed(batch), present, given)
    assert rows == [2, 2]
    assert not q.loc[0, 1:3].any() and (q.precision[0, 1:3] == 1).all() and q.loc[0, [0, 3]].all()


def test_an_encoder_that_fails_in_it_is_named(work: Path) -> None:
    (work / "failing.yaml").write_text(
        recipe("{type: custom, encoder: 'failing.py:Encoder', decoder: 'failing.py:decoder'}")
    )
    done = here("train", "failing.yaml", "--out", "failing", cwd=work)
    refused(done, "modality 'heart' (kind 'vector'): its encoder failed", "out of ink")
