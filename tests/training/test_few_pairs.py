"""Learning from few pairs: which rows a batch is made of, what the model may guess, and how the learning rate falls."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.command_line import refused
from support.toys import here, write_circle, write_recipe

from modalkit.data import Batch, write_dataset
from modalkit.data.batches import Batches
from modalkit.model.vae import MultimodalVAE
from modalkit.recipe.loading import load_recipe
from modalkit.registry import schema
from modalkit.training.self_training import guess
from modalkit.training.trainer import Trainer

GUESSING = "train.self_training={modalities: [class], confidence: 0.34, after_epochs: 1}"
FEW = ["data.weak.paired=0.2", "train.paired_share=0.4", GUESSING, "train.schedule=cosine"]


SIGNS = """\
data: {path: signs, weak: {paired: 0.5}}
modalities:
  x: {kind: vector, size: 1, scale: 0.1, network: &small {type: mlp, hidden: [32], decoder_hidden: [32]}}
  bit: {kind: bit, weight: 10, network: *small}
  pair: {kind: attributes, names: [one, other], weight: 10, network: *small}
model: {latent_dim: 4}
objective: {targets: present}
train:
  {epochs: 15, batch_size: 20, learning_rate: 0.01, pictures_every: 0, accelerator: cpu,
   self_training: {modalities: [bit, pair], confidence: 0.9, after_epochs: 3}}
"""


BIVCCA = """\
data: {path: whole}
modalities: {x: {kind: vector, size: 1, scale: 0.1}, bit: {kind: bit}}
objective: {name: bivcca}
train: {epochs: 2, pictures_every: 0, accelerator: cpu, self_training: {modalities: [bit]}}
"""


@settings(deadline=None, max_examples=60)
@given(
    lone=st.integers(0, 60),
    paired=st.integers(0, 30),
    size=st.integers(2, 20),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_an_epoch_passes_once_over_lone_rows_and_evenly_over_paired_ones(
    lone: int, paired: int, size: int, share: float, seed: int
) -> None:
    assume(lone + paired)
    present = torch.zeros(lone + paired, 3, dtype=torch.bool)
    present[:, 1] = True
    present[lone:, 2] = True
    rows = torch.arange(lone + paired) + 100
    batches = Batches(rows, present, size, share)
    drawn = batches.shuffle(torch.Generator().manual_seed(seed))
    assert len(drawn) == len(batches) and all(1 <= len(batch) <= size for batch in drawn)
    seen = Counter(torch.cat(drawn).tolist() if drawn else [])
    if not 0 < paired < share * (lone + paired):
        assert seen == Counter(rows.tolist())
        return
    assert all(seen[row] == 1 for row in rows[:lone].tolist())
    again = min(max(1, round(share * size)), size - 1)
    assert all(int((batch >= 100 + lone).sum()) == again for batch in drawn)
    times = [seen[row] for row in rows[lone:].tolist()]
    assert max(times) - min(times) <= 1


def test_without_a_share_rows_come_as_they_are() -> None:
    present = torch.tensor([[True, False], [True, True], [False, True]])
    batches = Batches(torch.tensor([4, 5, 6]), present, 2)
    assert len(batches) == 2 and sorted(torch.cat(batches.shuffle(torch.Generator())).tolist()) == [4, 5, 6]


def sure_model() -> tuple[MultimodalVAE, dict[str, torch.Tensor]]:
    """Return a model that reads a class off a position's sign, surely where that is far from 0; and what rows hold."""
    network = {"type": "mlp", "hidden": [1], "decoder_hidden": []}
    schemas = {"x": schema("vector", size=1, scale=1.0, network=network), "class": schema("label", classes=2)}
    model = MultimodalVAE(schemas, 1).eval()

    class Twice(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.cat([-z, z], 1)

    class Narrow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, torch.full_like(x, -30.0)], 1)  # log variance

    model.encoders["x"], model.heads["x"], model.decoders["class"] = torch.nn.Identity(), Narrow(), Twice()
    return model, {"x": torch.tensor([[9.0], [-9.0], [0.1], [9.0], [0.0]]), "class": torch.tensor([0, 0, 0, 0, 1])}


def test_what_is_guessed_is_what_is_absent_and_sure() -> None:
    model, values = sure_model()
    present = torch.tensor([[True, False], [True, False], [True, False], [True, True], [False, False]])
    batch = Batch(values, present)
    after = guess(model, batch, ["class"], 0.95, seed=0)
    assert after.present.tolist() == [[True, True], [True, True], [True, False], [True, True], [False, False]]
    assert after.values["class"].tolist() == [1, 0, 0, 0, 1], "the fourth row's own class stays, though x says 1"
    assert torch.equal(batch.values["class"], values["class"]) and not batch.present[0, 1]
    assert guess(model, batch, ["class"], 0.5, seed=0).present[:, 1].tolist() == [True, True, True, True, False]


def test_guesses_begin_after_their_epochs_and_are_only_for_training(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, write_circle(tmp_path)), FEW)
    trainer = Trainer(recipe, tmp_path / "run")
    rows = trainer.data.train

    def known(purpose: str) -> int:
        return int(trainer.prepare(rows, purpose, 0, 1.0).batch.present[:, 2].sum())

    before = int(trainer.data.dataset.present[rows, 2].sum())
    assert known("train") == before
    trainer.progress.epoch = 1
    step = trainer.prepare(rows, "train", 0, 1.0)
    assert known("train") > before and known("valid") == before
    assert bool((step.plan.given <= step.batch.present).all())
    assert trainer.model.training, "guessing leaves the networks as training has them"
    assert int(trainer.data.dataset.present[rows, 2].sum()) == before


def test_bits_can_be_guessed_too(tmp_path: Path) -> None:
    schemas = {
        "x": schema("vector", size=1, scale=0.1),
        "bit": schema("bit"),
        "pair": schema("attributes", names=["one", "other"]),
    }
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).sign()
    bit = (x[:, 0] > 0).long()
    values = {"x": x, "bit": bit, "pair": bit[:, None].repeat(1, 2)}
    write_dataset(tmp_path / "signs", schemas, values)
    (tmp_path / "signs.yaml").write_text(SIGNS)
    recipe = load_recipe(tmp_path / "signs.yaml", [f"data.path={tmp_path / 'signs'}"])
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.fit()
    trainer.model.eval()
    rows = trainer.data.dataset.rows("test")
    lone = Batch(trainer.data.dataset[rows].values, torch.tensor([[True, False, False]]).expand(len(rows), 3))
    blank = Batch({n: v.clone() if n == "x" else torch.zeros_like(v) for n, v in lone.values.items()}, lone.present)
    after = guess(trainer.model, blank, ["bit", "pair"], 0.9, seed=0)
    assert after.present.all()
    assert all(torch.equal(after.values[name], lone.values[name]) for name in schemas)
    half = Batch(after.values, torch.tensor([[True, False, True]]).expand(len(rows), 3))
    assert guess(trainer.model, half, ["pair", "bit"], 0.9, seed=0).present.all(), "where none lacks one of them"


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_circle(tmp_path))
    change = [part for setting in FEW for part in ("--set", setting)]
    for out, stops in (("whole", [[]]), ("halves", [["--set", "train.max_steps=7"], []])):
        for stop in stops:
            done = here("train", "circle.yaml", "--out", out, *change, *stop, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    whole, halves = (load_file(tmp_path / out / "checkpoints" / "last.safetensors") for out in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    guessed = [(line["epoch"], line["guessed"]) for line in lines if line["split"] == "train"]
    assert all(count == 0 for epoch, count in guessed if epoch == 0) and any(count > 0 for _, count in guessed)
    longer = here("train", "circle.yaml", "--out", "whole", *change, "--set", "train.epochs=4", cwd=tmp_path)
    refused(longer, "train.epochs")  # over which the learning rate has fallen


def test_an_objective_that_infers_from_lone_modalities_has_nothing_to_guess_of_whole_rows(tmp_path: Path) -> None:
    schemas = {"x": schema("vector", size=1, scale=0.1), "bit": schema("bit")}
    write_dataset(tmp_path / "whole", schemas, {"x": torch.randn(30, 1), "bit": torch.arange(30) % 2})
    (tmp_path / "two.yaml").write_text(BIVCCA)
    done = here("train", "two.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_learning_rate_falls_along_half_a_cosine(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_circle(tmp_path))
    falling = Trainer(load_recipe(recipe, ["train.schedule=cosine", "train.max_steps=2"]), tmp_path / "a")
    steps = 3 * falling.steps_per_epoch  # of all epochs, wherever it stops
    assert falling.learning_rate(0) == 0.003
    assert math.isclose(falling.learning_rate(steps // 3), 0.003 * (1 + math.cos(math.pi / 3)) / 2)
    assert math.isclose(falling.learning_rate(steps), 0, abs_tol=1e-12)
    falling.fit()
    assert falling.learner.optimizer.param_groups[0]["lr"] == falling.learning_rate(1)
    constant = Trainer(load_recipe(recipe), tmp_path / "b")
    assert {constant.learning_rate(step) for step in range(steps)} == {0.003}


WRONG = {
    "train.paired_share=1.0": ("--set train.paired_share=1.0",),
    "train.self_training={modalities: [clas]}": (
        "train.self_training.modalities: there is no modality 'clas' (did you",
    ),
    "train.self_training={modalities: [class, class]}": ("train.self_training.modalities: 'class' is listed twice",),
    "train.self_training={modalities: [class], after_epochs: 3}": ("after_epochs: must be less than train.epochs (3)",),
    "train.self_training={modalities: [counts]}": (
        "train.self_training.modalities: 'counts' is of kind 'counts', whose",
    ),
    "train.self_training={modalities: []}": ("train.self_training.modalities",),
    "train.self_training={modalities: [image]}": ("train.self_training.modalities: 'image' is of kind 'image', whose",),
    "train.schedule=cosin": ("train.schedule: unknown schedule 'cosin' (did you mean 'cosine'?)",),
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_cannot_be_done_is_refused_before_training(tmp_path: Path, setting: str) -> None:
    write_recipe(tmp_path, write_circle(tmp_path, 20))
    refused(here("train", "circle.yaml", "--set", setting, cwd=tmp_path), *WRONG[setting])


def test_a_batch_of_one_row_has_no_room_for_a_share(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_circle(tmp_path, 20))
    change = ["--set", "train.batch_size=1", "--set", "train.paired_share=0.5"]
    refused(here("train", "circle.yaml", *change, cwd=tmp_path), "train.paired_share", "batch_size")
