"""Data that do not suit a recipe: what training says of them before it begins, and what it makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import refused
from support.toys import here

import modalkit
from modalkit.errors import InputError

ROWS = 60
SPLIT = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
NETWORK = "network: {type: mlp, hidden: [8], decoder_hidden: [8]}"
RECIPE = """\
data: {{path: data}}
modalities:
  a: {{kind: {a}, {network}}}
  b: {{kind: vector, size: 2, scale: {scale}, {network}}}
model: {{latent_dim: 3, centered: {centered}}}
train: {{epochs: 20, batch_size: 20, accelerator: cpu, pictures_every: 0}}
"""


def write(folder: Path, a: torch.Tensor, kind: str = "vector", *, own: str = "", **options: Any) -> None:
    """Write a dataset of `a` and two random numbers `b`, and its recipe, in which `a` may be of another kind."""
    g = torch.Generator().manual_seed(0)
    schemas = {"a": modalkit.schema(kind, size=a.shape[1]), "b": modalkit.schema("vector", size=2)}
    present = options.pop("present", {})
    modalkit.write_dataset(
        folder / "data",
        schemas,
        {"a": a, "b": torch.randn(ROWS, 2, generator=g)},
        present=present,
        split=SPLIT,
        standardize=False,
    )
    settings = {
        "a": own or f"{kind}, size: {a.shape[1]}",
        "network": NETWORK,
        "scale": "predicted",
        "centered": "false",
    }
    (folder / "recipe.yaml").write_text(RECIPE.format(**settings | options))


def positive() -> torch.Tensor:
    return torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(1)) + 0.5


def test_a_kind_that_cannot_hold_the_values(tmp_path: Path) -> None:
    values = positive()
    values[5] = torch.tensor([1.0, 0.0, 2.0])
    values[50, 2] = -1
    write(tmp_path, values, own="positive, size: 3")
    done = here("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
    refused(done, "modality 'a': kind 'positive' cannot hold the values of 2 rows", "row '5' has 1 0 2", "'vector'")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_values_of_absent_entries_do_not_matter(tmp_path: Path) -> None:
    values, there = positive(), torch.ones(ROWS, dtype=torch.bool)
    values[5], there[5] = 0, False
    write(tmp_path, values, own="positive, size: 3", present={"a": there})
    done = here("train", "recipe.yaml", "--out", "run", "--set", "train.epochs=1", cwd=tmp_path)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


@pytest.mark.parametrize(("worst", "said"), [(1.5, "not 0 to 1.5"), (-0.25, "not -0.25 to 0.5")])
def test_intensities_outside_their_range(tmp_path: Path, worst: float, said: str) -> None:
    pixels = torch.full((ROWS, 1, 4, 4), 0.5)
    pixels[0, 0, 0, 0], pixels[3, 0, 2, 2] = 0, worst
    with pytest.raises(InputError, match=f"modality 'a': intensities must lie in .0, 1., {said}"):
        modalkit.write_dataset(tmp_path / "data", {"a": modalkit.schema("image", size=4, channels=1)}, {"a": pixels})


def test_a_modality_that_no_training_row_has(tmp_path: Path) -> None:
    write(tmp_path, positive(), present={"a": torch.arange(ROWS) >= 40})
    done = here("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
    refused(done, "absent from every training row: a; remove them from the recipe")


def test_matrices_that_are_too_large(tmp_path: Path) -> None:
    write(tmp_path, positive())
    sets = "--set", "model.experts=full", "--set", "model.latent_dim=5000"
    done = here("train", "recipe.yaml", "--out", "run", *sets, cwd=tmp_path)
    refused(done, "model.experts: full needs several matrices", "100 MB each", "at most 2,048 latent dimensions")


def last_elbo(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([line["elbo"] for line in lines if line["split"] == "valid"][-1])


@pytest.mark.parametrize("centered", ["false", "true"])
@pytest.mark.parametrize("scale", ["shared", "per_dimension"])
def test_a_learned_scale_of_a_constant_modality_does_not_start_near_zero(
    tmp_path: Path, scale: str, centered: str
) -> None:
    own = f"vector, size: 3, scale: {scale}"
    write(tmp_path, torch.full((ROWS, 3), 2.5), own=own, scale=scale, centered=centered)
    done = here("train", "recipe.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: a: all training rows have the same value, so that nothing can be learned from it" in done.stderr
    assert last_elbo(tmp_path / "run") > -100  # it was -1e7
    again = here("train", "run", cwd=tmp_path)
    assert "warning" not in again.stderr


def test_only_constant_columns_keep_their_first_scale(tmp_path: Path) -> None:
    values = 3 * torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    values[:, 1] = 0.5
    write(tmp_path, values, own="vector, size: 3, scale: per_dimension")
    still = "--set", "train.learning_rate=1e-12"
    done = here("train", "recipe.yaml", "--out", "run", "--set", "train.max_steps=1", *still, cwd=tmp_path)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    decoder = modalkit.load(tmp_path / "run", weights="last").model.decoders["a"]
    found = decoder.raw_scale.detach().exp()[0]  # type: ignore[operator, union-attr]
    expected = values[:40].std(0, correction=0)
    expected[1] = 1
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_a_draft_for_a_constant_column_trains(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    lines = ["u,v,same"] + [f"{u:.4f},{v:.4f},7.25" for u, v in torch.randn(ROWS, 2, generator=g).tolist()]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    kinds = "".join(f"  {name}: {{kind: vector, columns: {name}}}\n" for name in ("u", "v", "same"))
    (tmp_path / "columns.yaml").write_text(f"modalities:\n{kinds}")
    built = here("build-dataset", "table", "t.csv", "--out", "data", "--columns", "columns.yaml", cwd=tmp_path)
    assert built.returncode == 0 and "same: constant in the training rows" in built.stderr, built.stderr
    (tmp_path / "recipe.yaml").write_text(here("init", "data", cwd=tmp_path).stdout)
    few = "--set", "train.epochs=2", "--set", "train.accelerator=cpu"
    done = here("train", "recipe.yaml", "--out", "run", *few, cwd=tmp_path)
    assert done.returncode == 0 and "warning: same: all training rows have the same value" in done.stderr, done.stderr
