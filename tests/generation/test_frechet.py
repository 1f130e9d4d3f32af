"""The Fréchet distance against closed forms, and as a metric of the command line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scipy.linalg
import torch
from support.documents import shown_file
from support.toys import here, write_circle, write_recipe
from torch import Tensor

from modalkit import registry
from modalkit.errors import InputError
from modalkit.evaluation.metrics import jackknife
from modalkit.generation import frechet_distance
from modalkit.generation.frechet import _figure as with_error
from modalkit.model import assemble
from modalkit.recipe.loading import load_recipe
from modalkit.runs.checkpoint import save_weights


def sample(mean: Tensor, covariance: Tensor, rows: int, seed: int) -> Tensor:
    """Return rows whose mean and covariance are exactly these."""
    raw = torch.randn(rows, len(mean), generator=torch.Generator().manual_seed(seed)).double()
    white = torch.linalg.qr(raw - raw.mean(0)).Q * (rows - 1) ** 0.5
    return mean + white @ torch.linalg.cholesky(covariance).mT


def test_of_gaussians_it_is_the_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 5, 5, generator=g).double()
    first, second = (root @ root.mT + 0.1 * torch.eye(5) for root in roots)
    means = torch.randn(2, 5, generator=g).double()
    root = torch.from_numpy(scipy.linalg.sqrtm((first @ second).numpy()).real)
    expected = (means[0] - means[1]).square().sum() + (first + second - 2 * root).trace()
    one, other = sample(means[0], first, 50, 1), sample(means[1], second, 80, 2)
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    turn = torch.linalg.qr(roots[0]).Q
    moved = frechet_distance(one @ turn + 1e5, other @ turn + 1e5)
    assert moved == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(3 * one, 3 * other) == pytest.approx(9 * float(expected), rel=1e-9)


def test_features_that_never_change_add_nothing() -> None:
    one, other = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0))
    dead = torch.ones(30, 2)
    both = frechet_distance(torch.cat([one, dead], 1), torch.cat([other, dead], 1))
    assert both == pytest.approx(frechet_distance(one, other), rel=1e-6)
    for wrong in (other[:1], other[:, :2], other[0]):
        with pytest.raises(InputError, match="with the same features and two rows or more"):
            frechet_distance(one, wrong)


def test_its_standard_error_is_its_spread_over_samples() -> None:
    g = torch.Generator().manual_seed(0)
    found = [with_error(1.2 * one + 0.5, other) for one, other in torch.randn(100, 2, 300, 2, generator=g).double()]
    values, errors = torch.tensor(found).unbind(1)
    assert 0.8 < errors.square().mean().sqrt() / values.std() < 1.25
    assert jackknife(lambda counts: 1.0, 1)[0] == 1.0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of an untrained model, and a file with a metric."""
    folder = tmp_path_factory.mktemp("frechet")
    recipe = write_recipe(folder, write_circle(folder, 400))
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(recipe.read_text())
    save_weights(folder / "run" / "checkpoints" / "best.safetensors", assemble(load_recipe(recipe)))
    (folder / "colours.py").write_text(shown_file("evaluation.md", "colours.py"))
    return folder


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Unregister the metrics of files after each test."""
    yield
    registry.forget_files()


def measured(work: Path, *arguments: object, metric: str = "frechet") -> tuple[dict[str, dict[str, Any]], str]:
    """Evaluate a copy of the run, and return a metric's figures by question, and what was printed."""
    run = shutil.copytree(work / "run", work / "copy", dirs_exist_ok=True)
    (run / "evaluation.json").unlink(missing_ok=True)
    done = here("evaluate", "copy", "--particles", 1, "--metrics", metric, *arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    kept = json.loads((run / "evaluation.json").read_text()).get("metrics", {}).get(metric, {"measured": {}})
    return {question: one["figures"] for question, one in kept["measured"].items()}, done.stdout


def test_it_is_measured_of_samples_of_the_prior_and_the_posterior(work: Path) -> None:
    free, text = measured(work, "--targets", "position,class")
    assert "Fréchet distance of samples, in a classifier's features, p(position, class):" in text
    (parts,) = free.values()
    assert parts.keys() == {"position: prior", "position: real"}  # classes have no features
    assert parts["position: prior"][0] > 5 * parts["position: real"][0] > 0 and parts["position: prior"][1] > 0
    given, _ = measured(work, "--targets", "position", "--given", "counts,class")
    assert given.keys() == {"log p(position | class, counts)"}
    (parts,) = given.values()
    both = {"position: posterior", "position: real"}
    assert parts.keys() == both | {f"position from {name}: posterior" for name in ("class", "counts")}


def test_a_sampler_is_measured_beside_the_prior(work: Path) -> None:
    shutil.copytree(work / "run", work / "own" / "run")
    assert here("fit-sampler", "run", "--steps", 2, cwd=work / "own").returncode == 0
    ((_, parts),) = measured(work / "own", "--targets", "position")[0].items()
    assert parts.keys() == {"position: prior", "position: sampler", "position: real"}
    assert parts["position: sampler"] != parts["position: prior"]


def test_too_few_rows_are_refused(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found, _ = measured(work, "--targets", "position", "--rows", 16)
    assert found == {}
    assert "position: no Fréchet distance, because 16 rows are too few for the covariance of 16 features" in caplog.text


def test_features_of_ones_own(work: Path) -> None:
    found, text = measured(work, "--targets", "image,position", "--plugin", "colours.py", metric="frechet-colours")
    assert "Fréchet distance of samples, in mean colours" in text
    ((_, parts),) = found.items()
    assert parts.keys() == {"image: prior", "image: real"}
    (work / "wrong.py").write_text((work / "colours.py").read_text().replace("mean((2, 3))", "mean()"))
    done = here("evaluate", "copy", "--targets", "image", "--particles", 1, "--plugin", "wrong.py", cwd=work)
    assert done.returncode == 2
    assert "modality 'image' (kind 'image'): its features: returned the shape ()" in done.stderr
