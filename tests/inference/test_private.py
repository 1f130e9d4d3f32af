"""Private latents after training: style swaps in Python and on the command line, embeddings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.command_line import refused
from support.toys import here, train_circle, write_circle, write_recipe

import modalkit
from modalkit.errors import InputError
from modalkit.inference import TrainedModel

PRIVATE = ("modalities.image.private_dim=2", "modalities.position.private_dim=1", "train.epochs=1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three short runs: of both objectives with private latents, and of one without."""
    folder = tmp_path_factory.mktemp("private")
    write_recipe(folder, write_circle(folder))
    for name in ("dmvae", "mmvae-plus"):
        train_circle(folder, name, f"objective.name={name}", *PRIVATE)
    train_circle(folder, "mvae", "train.epochs=1", "modalities.image=null")
    return folder


@pytest.fixture(params=["dmvae", "mmvae-plus"])
def model(work: Path, request: pytest.FixtureRequest) -> TrainedModel:
    return modalkit.load(work / request.param)


def test_a_style_replaces_the_private_latent_and_nothing_else(model: TrainedModel) -> None:
    given, style = {"class": [0, 1, 2]}, {"position": torch.tensor([[0.5, -2.0]])}
    plain = model.infer(given, ["position", "image", "counts"], samples=4)
    styled = model.infer(given, ["position", "image", "counts"], samples=4, style=style)
    assert (styled["position"].samples != plain["position"].samples).all()
    for name in ("image", "counts"):
        assert torch.equal(styled[name].samples, plain[name].samples)
    assert torch.equal(styled.posterior.loc, plain.posterior.loc)
    again = model.infer(given, ["position"], samples=4, style={"position": style["position"].expand(3, -1)})
    torch.testing.assert_close(again["position"].value, styled["position"].value)


def test_an_embedding_is_the_shared_latent_unless_private_ones_are_asked_for(work: Path, model: TrainedModel) -> None:
    shared = model.embed({"position": [[0.0, 1.0]]})
    whole = model.embed({"position": [[0.0, 1.0]]}, private=True)
    assert shared.loc.shape == (1, 4) and whole.loc.shape == (1, 7) and torch.equal(whole.loc[:, :4], shared.loc)
    image, position = model.model.own["image"], model.model.own["position"]
    assert (image, position) == (slice(4, 6), slice(6, 7))
    # The image is not given, and its private latent is noise around 0; that of the position is inferred.
    assert not whole.loc[:, image].any() and whole.loc[:, position].all()


def test_embed_writes_private_latents_if_asked_for(work: Path) -> None:
    assert here("embed", "dmvae", "--private", "--split", "test", "-o", "all.csv", cwd=work).returncode == 0
    done = here("embed", "dmvae", "--private", "--given", "image", "--split", "test", "-o", "some.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    table, some = pd.read_csv(work / "all.csv", dtype={"key": str}), pd.read_csv(work / "some.csv")
    own = {"image": 2, "position": 1}
    moments = [f"{moment}_{i}" for moment in ("loc", "scale") for i in range(4)]
    moments += [f"{moment}_{name}_{i}" for moment in ("loc", "scale") for name in own for i in range(own[name])]
    assert set(table) == {"key", "split", *moments}
    model, dataset = modalkit.load(work / "dmvae"), modalkit.Dataset(work / "circle")
    rows = dataset.rows("test")
    whole, known = model.embed(dataset[rows], private=True), dataset.present[rows, dataset.names.index("position")]
    expected = whole.scale[:, 6].masked_fill(~known, torch.nan)
    np.testing.assert_allclose(table["scale_position_0"], expected, rtol=1e-4)
    np.testing.assert_allclose(table["loc_1"], whole.loc[:, 1], rtol=1e-4)
    assert some[["loc_position_0", "scale_position_0"]].isna().all(axis=None) and some["loc_image_0"].notna().all()
    refused(here("embed", "mvae", "--private", "-o", "none.csv", cwd=work), "--private", "no private latents")


def test_the_command_line_takes_a_style_from_a_value_or_a_row(work: Path) -> None:
    dataset = modalkit.Dataset(work / "circle")
    asked = ["--given", "class=1", "--want", "position,image"]
    value = " ".join(map(str, dataset.values("position", torch.tensor([7]))[0].tolist()))
    for out, style in (("row", "7"), ("value", f"position={value}")):
        done = here("translate", "dmvae", *asked, "--style", style, "-o", out, cwd=work)
        assert done.returncode == 0, done.stderr
    row, by_value = (json.loads((work / out / "answer.json").read_text()) for out in ("row", "value"))
    assert row["style"] == ["7"]
    np.testing.assert_allclose(
        row["predictions"]["position"]["value"], by_value["predictions"]["position"]["value"], rtol=1e-5
    )


REFUSED = {
    "mvae": ("position=0 1", "objective (mvae) has no private latents", "train with dmvae or mmvae-plus"),
    "counts": ("counts=0 1", "style: 'counts' has no private latent; those that have one are image, position"),
    "image": ("image=none.png", "style: modality 'image': none.png: there is no such file"),
    "stranger": ("nosuch", "--style nosuch: is no NAME=VALUE of a modality (image, position, class, counts)", "row"),
    "wrong size": ("position=0 1 2", "style: modality 'position':"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_style_is_refused(work: Path, case: str) -> None:
    style, *words = REFUSED[case]
    run = "mvae" if case == "mvae" else "dmvae"
    asked = ["--given", "class=1", "--want", "position", "--style", style, "-o", "refused"]
    refused(here("translate", run, *asked, cwd=work), *words)


def test_a_style_must_fit_what_is_asked(model: TrainedModel) -> None:
    style = {"position": [[0.0, 1.0]]}
    with pytest.raises(InputError, match="style: 'position' is not predicted; add it to want"):
        model.infer({"class": 1}, ["image"], style=style)
    with pytest.raises(InputError, match="style: the numbers of rows differ: 2 there, 3 given"):
        model.infer({"class": [0, 1, 2]}, ["position"], style={"position": [[0.0, 1.0]] * 2})
    with pytest.raises(InputError, match="style: nothing is given; give a value of image, position"):
        model.infer({"class": 1}, ["position"], style={})


def test_covariates_a_sampler_and_imputing_go_with_private_latents(work: Path) -> None:
    changes = ("objective.name=mmvae-plus", *PRIVATE, "modalities.class.role=covariate", "model.centered=true")
    train_circle(work, "site", *changes)
    done = here("fit-sampler", "site", "--steps", "3", cwd=work)
    assert done.returncode == 0, done.stderr
    model = modalkit.load(work / "site")
    found = model.infer({"counts": [1, 2], "class": 1}, ["position"], samples=2, style={"position": [0.0, 1.0]})
    assert found["position"].samples.isfinite().all()
    assert model.impute(modalkit.Dataset(work / "circle")).batch.present.all()


@pytest.mark.parametrize("objective", ["dmvae", "mmvae-plus"])
def test_content_and_style_come_apart(objective: str) -> None:
    """Of `both` = (u + v, u - v), another modality tells u alone, so that v is the style of `both`."""
    g = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 600, 1, generator=g)
    values = {"both": torch.cat([u + v, u - v], 1), "shared": u}
    network = {"type": "mlp", "hidden": [16], "decoder_hidden": [16]}
    both = {"kind": "vector", "size": 2, "private_dim": 1, "network": network, "scale": 0.2}
    recipe = {
        "modalities": {"both": both, "shared": {"kind": "vector", "size": 1, "network": network, "scale": 0.2}},
        "model": {"latent_dim": 1},
        "objective": {"name": objective},
        "train": {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "accelerator": "cpu"},
    }
    model = modalkit.train(recipe, values, progress=False)
    content = {"shared": torch.tensor([[-1.0], [0.0], [1.0]])}
    for style in (-1.0, 1.0):  # of a row whose u is 0
        found = model.infer(content, ["both"], style={"both": [style, -style]})["both"].value
        want = torch.tensor([[-1 + style, -1 - style], [style, -style], [1 + style, 1 - style]])
        assert (found - want).abs().max() < 0.35
    plain = model.infer(content, ["both"], draws=400)["both"]
    # v may be anything; its standard deviation is 1. Auxiliary priors would leave little of it.
    assert ((plain.scale > 0.4) & (plain.scale < 1.5)).all()
