"""Predictions follow from what a kind declares, and sampling leaves a model as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.linear import linear_run

from modalkit import registry
from modalkit.evaluation.pictures import translation_sheet
from modalkit.evaluation.translation import translations
from modalkit.model.prediction import predict
from modalkit.model.sampling import plan_noise, sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Modality, Outcome, Plan


@pytest.fixture
def label(monkeypatch: pytest.MonkeyPatch) -> dict[str, Modality[Any]]:
    """The kind `label`, which a test may declare in another way."""
    kinds = {"label": registry.modality("label")}
    found = registry.modality
    monkeypatch.setattr(registry, "modality", lambda kind: kinds.get(kind) or found(kind))
    return kinds


def test_an_integer_kind_that_declares_nothing_is_predicted_by_its_modes(label: dict[str, Modality[Any]]) -> None:
    torch.manual_seed(0)
    model = MultimodalVAE({"die": registry.schema("label", classes=6)}, 2).eval()
    draws = torch.randn(9, 4, 2)
    declared = predict(model, "die", draws, 2, noise=False)
    assert declared.probabilities is not None and declared.probabilities.shape == (4, 6)
    label["label"] = replace(label["label"], outcome=Outcome.REAL)  # the default
    modes = model.predict("die", draws.flatten(0, 1)).reshape(9, 4)
    found = predict(model, "die", draws, 2, noise=True)
    assert torch.equal(found.value, modes.mode(0).values) and found.samples.shape == (2, 4)
    assert found.probabilities is None and found.scale is None
    assert found.probability is not None
    torch.testing.assert_close(found.probability, (modes == found.value).float().mean(0))


def test_pictures_of_a_gaussian_are_predicted_within_their_range() -> None:
    torch.manual_seed(0)
    schema = registry.schema("image", size=16, channels=1, likelihood="gaussian", network={"type": "mlp"})
    model = MultimodalVAE({"scan": schema}, 2).eval()
    draws = 100 * torch.randn(1, 4, 2)
    assert model.likelihood("scan", draws[0]).mean.abs().max() > 1
    value = predict(model, "scan", draws, 0, noise=False).value
    assert value.min() == 0 and value.max() == 1


def test_samples_of_a_row_with_the_same_noise_do_not_depend_on_its_place(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    batch = run.dataset[torch.arange(6)]
    whole = sample_posterior(run.model, batch, run.model.names, 5, 3, same_noise=True)
    part = sample_posterior(run.model, batch.part(slice(4, 6)), run.model.names, 5, 3, same_noise=True)
    torch.testing.assert_close(whole[:, 4:], part)
    apart = sample_posterior(run.model, batch, (), 5, 3)  # from the prior
    assert apart.shape == (5, 6, 2) and not torch.equal(apart[:, 0], apart[:, 1])


def test_a_plan_has_noise_for_every_component_and_term(tmp_path: Path) -> None:
    model = linear_run(tmp_path, "{name: mmvae}").model  # its posteriors have a component for each modality
    given = torch.ones(2, 5, 3, dtype=torch.bool)
    found = plan_noise(model, Plan(("one", "two"), given, given), torch.Generator().manual_seed(1))
    assert torch.equal(found, torch.randn(3 * 2, 5, 2, generator=torch.Generator().manual_seed(1)).double())


def test_scores_and_sheets_leave_every_part_in_its_mode(tmp_path: Path) -> None:
    run = linear_run(tmp_path)
    run.model.train()
    run.model.decoders["a"].eval()
    modes = [part.training for part in run.model.modules()]
    assert translations(run.model, run.dataset, torch.arange(8))
    assert translation_sheet(run.model, run.dataset, torch.arange(2)).width > 100
    assert [part.training for part in run.model.modules()] == modes
