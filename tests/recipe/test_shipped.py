"""Every recipe that ships: what it states, and two steps of it through the command line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from modalkit_tools.faces.annotations import ATTRIBUTES
from safetensors.torch import load_file
from support.made import ROWS, write_made
from typer.testing import CliRunner

from modalkit import registry
from modalkit.cli import app
from modalkit.recipe import load_recipe, shipped

SYSTEMS = ("vae", "cvae", "bivcca", "jmvae", "mvae")
SETTINGS = {  # the paper's: latent dimensions, batch, learning rate, epochs, warm-up
    "mnist": (64, 100, 1e-3, 500, 200),
    "binary_mnist": (64, 100, 1e-3, 500, 200),
    "fashion_mnist": (64, 100, 1e-3, 500, 200),
    "multimnist": (100, 100, 1e-3, 500, 200),
    "celeba": (100, 100, 1e-4, 100, 20),
}
OF_THE_TABLES = [(d, s) for d in SETTINGS for s in SYSTEMS if (d, s) != ("multimnist", "cvae")]
OTHERS = [
    *("binary_mnist_dynamic_mvae", "bits1000_mvae", "celeba19_mvae", "celeba19_small_mvae", "mnist_weak_mvae"),
    *("celeba_transforms", "celeba_transforms_small", "poly_mnist", "quickstart"),
]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of random values in the place of each that the recipes name."""
    return write_made(tmp_path_factory.mktemp("made"))


def test_every_system_of_the_tables_has_its_recipe() -> None:
    assert set(shipped()) == {f"{dataset}_{system}" for dataset, system in OF_THE_TABLES} | set(OTHERS)


BITS = pytest.param("bits1000_mvae", marks=pytest.mark.slow)  # as tests/tools/test_sample_bits.py, which trains it too


@pytest.mark.parametrize("name", [BITS if name == "bits1000_mvae" else name for name in shipped()])
def test_two_steps(name: str, made: Path, tmp_path: Path) -> None:
    path, _ = shipped()[name]
    recipe = load_recipe(path)
    run = tmp_path / "run"
    overrides = [
        f"data.path={made / recipe.data.path.name}",
        *(["data.build=null"] if recipe.data.build else []),
        *(["model.start=random"] if recipe.model.start != "random" else []),  # another start needs 10 rows
        f"train.batch_size={ROWS['train'] // 2}",
        "train.max_steps=2",
        "train.log_every=1",
        "train.pictures_every=0",
    ]
    settings = [word for override in overrides for word in ("--set", override)]
    done = CliRunner().invoke(app, ["train", name, "--out", str(run), "--device", "cpu", *settings])
    try:
        assert done.exit_code == 0, done.output
        assert "2 steps done" in done.output
        assert load_recipe(run / "recipe.yaml").modalities == recipe.modalities
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [(line["split"], line["step"]) for line in lines] == [("train", 1), ("train", 2), ("valid", 2)]
        assert all(torch.tensor(line["elbo"]).isfinite() for line in lines)
        weights = load_file(run / "checkpoints" / "last.safetensors")
        assert weights and (run / "checkpoints" / "best.safetensors").is_file()
        assert (run / "checkpoints" / "state.pt").is_file() and (run / "environment.json").is_file()
        assert (run / "pictures" / "final.png").read_bytes()[:4] == b"\x89PNG"
        assert {t["want"] for t in json.loads((run / "translations.json").read_text())} <= set(recipe.modalities)
    finally:
        shutil.rmtree(run, ignore_errors=True)  # networks of the paper's size


@pytest.mark.parametrize("name", shipped())
def test_opens_with_commands_that_fit(name: str) -> None:
    """Their builder is installed and knows the options, and what is built is what is trained on."""
    path, description = shipped()[name]
    recipe = load_recipe(path)
    lines = path.read_text().splitlines()
    commands = [shlex.split(line.removeprefix("# ")) for line in lines if line.startswith("# modalkit ")]
    assert lines[: len(commands)] == [f"# {shlex.join(command)}" for command in commands] and description
    *builds, train = commands
    assert train == ["modalkit", "train", f"recipes/{path.name}"]
    assert len(builds) == 1 or (not builds and recipe.data.build)
    for _, command, builder, *options in builds:
        given = dict(zip(options[::2], options[1::2], strict=True))
        assert command == "build-dataset" and given.pop("--out") == str(recipe.data.path)
        known = registry.get(registry.BUILDERS, builder).options.model_fields
        assert {key.removeprefix("--") for key in given} <= set(known)


@pytest.mark.parametrize(("dataset", "system"), OF_THE_TABLES)
def test_systems_differ_in_their_objective_alone(dataset: str, system: str) -> None:
    recipe, mvae = (load_recipe(Path(f"{dataset}_{s}")) for s in (system, "mvae"))
    assert recipe.objective.name == system
    assert (recipe.train, recipe.model, recipe.data) == (mvae.train, mvae.model, mvae.data)
    given = ["image"] if system == "vae" else list(mvae.modalities)
    assert recipe.modalities == {name: mvae.modalities[name] for name in given}
    train, objective = recipe.train, recipe.objective
    found = (recipe.model.latent_dim, train.batch_size, train.learning_rate, train.epochs, objective.warmup_epochs)
    assert found == SETTINGS[dataset] and objective.beta == 1
    assert all(schema.weight == 1 for schema in recipe.modalities.values())


def test_celeba19_is_celeba_with_every_attribute_a_modality() -> None:
    recipe, celeba = load_recipe(Path("celeba19_mvae")), load_recipe(Path("celeba_mvae"))
    assert list(recipe.modalities) == ["image", *ATTRIBUTES]
    assert {schema.kind for name, schema in recipe.modalities.items() if name != "image"} == {"bit"}
    assert celeba.modalities["attributes"].model_dump()["names"] == ATTRIBUTES
    assert recipe.objective == celeba.objective and recipe.objective.model_dump()["k"] == 1
    assert (recipe.train, recipe.model, recipe.data) == (celeba.train, celeba.model, celeba.data)


def test_dynamic_binarisation_is_mnist_drawn_anew() -> None:
    recipe, mnist = load_recipe(Path("binary_mnist_dynamic_mvae")), load_recipe(Path("mnist_mvae"))
    assert recipe.modalities["image"].drawn and not mnist.modalities["image"].drawn
    drawn = mnist.modalities["image"].model_copy(update={"binarize": True})
    assert recipe.modalities == mnist.modalities | {"image": drawn}
    assert (recipe.train, recipe.model, recipe.data) == (mnist.train, mnist.model, mnist.data)


def test_the_networks_that_comments_offer_can_be_had() -> None:
    offered = [
        (name, network.replace(": ", "=", 1))
        for name, (path, _) in shipped().items()
        for network in re.findall(r"^#.*(network: \{.*?\})", path.read_text(), re.M)
    ]
    assert len(offered) >= 4
    for name, network in offered:
        load_recipe(Path(name), [f"modalities.{modality}.{network}" for modality in load_recipe(Path(name)).modalities])
