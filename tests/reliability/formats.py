"""The formats that are fuzzed: for each an undamaged example, ways to damage it, and everything that reads it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from modalkit_tools.faces.annotations import ATTRIBUTES, read_annotations
from modalkit_tools.mnist.idx import FILES, Family, read_idx
from modalkit_tools.own_data.arrays import ArraysOptions
from modalkit_tools.own_data.arrays import build as build_arrays
from modalkit_tools.own_data.table import TableOptions
from modalkit_tools.own_data.table import build as build_table
from reliability import mutations
from safetensors import safe_open
from safetensors.torch import save

import modalkit
from modalkit.data import Dataset
from modalkit.data.inspection import describe, schemas
from modalkit.evaluation.evaluate import evaluate, find_metrics
from modalkit.evaluation.questions import Asking, parse
from modalkit.pictures import dataset_sheet
from modalkit.publishing.card import card
from modalkit.recipe import load_recipe
from modalkit.recipe.draft import draft
from modalkit.report.compare import compare
from modalkit.report.facts import curves
from modalkit.report.measured import measured
from modalkit.report.sources import open_source
from modalkit.runs.metrics import read_history
from modalkit.runs.opened import load_run, load_saved
from modalkit.runs.saved_state import saved_progress
from modalkit.training import train
from modalkit.training.data import TrainingData
from modalkit.training.prepare import prepare

ROWS = 24
RECIPE = """\
data: {path: DATA}
modalities:
  position: {kind: vector, size: 2, network: {type: mlp, hidden: [4], decoder_hidden: [4]}}
  class: {kind: label, classes: 3, network: {type: mlp, hidden: [4], decoder_hidden: [4]}}
model: {latent_dim: 2}
objective: {name: mvae, k: 1, warmup_epochs: 1}
train: {epochs: 2, batch_size: 16, accelerator: cpu, average: 0.9, pictures_every: 0}
"""
LONG_RECIPE = """\
description: text
data: {path: DATA, in_memory: true, weak: {paired: 0.5, groups: [[position, class]], keep: 0.9}, augment: {shift: 0.1}}
modalities:
  image: {kind: image, size: 8, channels: 1, likelihood: gaussian, scale: 0.1, network: {type: dcgan, widths: [4, 8]}}
  position: {kind: vector, size: 2, weight: 2.5, names: [x, y], standardize: {loc: [0, 1], scale: [1.0, 2.0]}}
  class: {kind: label, names: [a, b, c]}
  "bit{}": {each: 0..3, kind: bit}
  text: {kind: tokens, alphabet: abc, max_length: 3}
model: {latent_dim: 4, experts: low_rank, start: factor_analysis}
objective: {name: mvae, targets: subset, k: 1, beta: 1.5, warmup_epochs: 1}
train:
  epochs: 3
  max_steps: 5
  batch_size: 16
  learning_rate: 3e-3
  schedule: {name: cosine, warmup: 0.05}
  clip_norm: 10
  patience: 2
  loggers: [csv]
seed: 1
"""


@dataclass(frozen=True)
class Format:
    """A format on disk.

    Attributes:
        make: writes an undamaged example into an empty folder.
        damage: changes files in a copy of that folder, and returns in words which.
        read: reads the folder by everything that reads such files; it may write into the folder.
    """

    make: Callable[[Path], None]
    damage: Callable[[Path, random.Random], str]
    read: Callable[[Path], object]


def damage(file: str, how: Callable[[bytes, random.Random], bytes]) -> Callable[[Path, random.Random], str]:
    """Return what replaces a file by a damaged one."""

    def change(folder: Path, chance: random.Random) -> str:
        (folder / file).write_bytes(how((folder / file).read_bytes(), chance))
        return file

    return change


def make_dataset(folder: Path, kinds: bool = True) -> None:
    """Write a dataset of a vector and a label, and of more kinds."""
    g = torch.Generator().manual_seed(0)
    made = {"position": modalkit.schema("vector", size=2), "class": modalkit.schema("label", classes=3)}
    values: dict[str, object] = {
        "position": torch.randn(ROWS, 2, generator=g) * 20,
        "class": torch.arange(ROWS) % 3,
    }
    if kinds:
        made |= {
            "image": modalkit.schema("image", size=8, channels=1),
            "counts": modalkit.schema("counts", size=2),
            "text": modalkit.schema("tokens", alphabet="abc", max_length=3),
            "sound": modalkit.schema("series", channels=1, length=16),
            "size": modalkit.schema("positive", size=1),
        }
        values |= {
            "image": torch.rand(ROWS, 1, 8, 8, generator=g),
            "counts": torch.randint(9, (ROWS, 2), generator=g),
            "text": ["abc"[: row % 4] for row in range(ROWS)],
            "sound": torch.randn(ROWS, 1, 16, generator=g),
            "size": torch.rand(ROWS, 1, generator=g) + 0.1,
        }
    present = {"class": torch.arange(ROWS) % 4 > 0, "position": torch.arange(ROWS) % 7 > 0}
    keys = [f"é{row}" for row in range(ROWS)]
    modalkit.write_dataset(folder / "data", made, values, present=present, keys=keys, shard_rows=ROWS, seed=1)
    folder.joinpath("recipe.yaml").write_text(RECIPE.replace("DATA", "data"))


def read_dataset(folder: Path) -> None:
    """Do what `inspect`, `init` and the beginning of `train` do."""
    dataset = Dataset(folder / "data", in_memory=False)
    describe(dataset)
    some = torch.arange(min(3, len(dataset)))
    dataset_sheet(dataset, schemas(dataset), some)
    for name in dataset.names:
        dataset.known(name, some)
    draft(folder / "data")
    recipe = load_recipe(folder / "recipe.yaml", [f"data.path={json.dumps(str(folder / 'data'))}"])
    TrainingData(prepare(recipe)).doubt()


def damage_shard(folder: Path, chance: random.Random) -> str:
    """Change a shard by bytes or tensor by tensor; mostly, the manifest states the size that results."""
    path = folder / "data" / "shards" / "00000.safetensors"
    if chance.random() < 0.35:
        path.write_bytes(mutations.of_bytes(path.read_bytes(), chance))
    else:
        with safe_open(path, "pt") as file:
            about, arrays = dict(file.metadata()), {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
        if chance.random() < 0.2:
            about["modalkit"] = mutations.of_json(about["modalkit"].encode(), chance).decode(errors="replace")
        else:
            arrays = mutations.of_arrays(arrays, chance)
        path.write_bytes(save({name: torch.from_numpy(array) for name, array in arrays.items()}, about))
    if chance.random() < 0.9:
        manifest = folder / "data" / "manifest.json"
        said = json.loads(manifest.read_text())
        said["shards"][0]["bytes"] = path.stat().st_size
        manifest.write_text(json.dumps(said))
    return "a shard"


def make_run(folder: Path) -> None:
    """Train a small run, evaluate it, and write its dataset."""
    make_dataset(folder, kinds=False)
    recipe = load_recipe(folder / "recipe.yaml", [f"data.path={json.dumps(str(folder / 'data'))}"])
    train(recipe, folder / "run")
    text = (folder / "run" / "recipe.yaml").read_text()
    (folder / "run" / "recipe.yaml").write_text(text.replace(str(folder / "data"), "data"))
    run = load_run(folder / "run", data=folder / "data")
    metrics = find_metrics(["accuracy"])
    evaluate(run, parse(run.model, "class", "position", None), Asking("train", particles=5), "position:class", metrics)
    shutil.copytree(folder / "run", folder / "other")


def read_run(folder: Path) -> None:
    """Show a run as `report`, `compare` and the model card do."""
    source = open_source(folder / "run", model=False)
    measured(source), curves(source), source.environment, read_history(folder / "run")
    compare([folder / "run", folder / "other"])
    card(modalkit.load(folder / "run"), [])


def of_tensor(leaf: object, chance: random.Random) -> object:
    """Return a tensor of another form, or anything in its place."""
    if not isinstance(leaf, torch.Tensor):
        return mutations.value(chance)
    return chance.choice((leaf.double(), leaf[None], leaf.flatten()[:1], leaf.to(torch.int8), leaf * float("nan")))


def damage_state(folder: Path, chance: random.Random) -> str:
    """Change a saved state by bytes or part by part."""
    path = folder / "run" / "checkpoints" / "state.pt"
    if chance.random() < 0.3:
        path.write_bytes(mutations.of_bytes(path.read_bytes(), chance))
    else:
        torch.save(mutations.of_tree(torch.load(path, weights_only=True), chance, of_tensor), path)
    return "state.pt"


def read_saved(folder: Path) -> None:
    """Open the model of a saved state, and resume from it."""
    saved_progress(load_saved(folder / "run").folder)
    train(load_recipe(folder / "run" / "recipe.yaml", ["train.max_steps=3"]), folder / "run")


def make_resumable(folder: Path) -> None:
    """Train two steps, and stop."""
    make_dataset(folder, kinds=False)
    data = f"data.path={json.dumps(str(folder / 'data'))}"
    train(load_recipe(folder / "recipe.yaml", [data, "train.max_steps=2"]), folder / "run")


def make_export(folder: Path) -> None:
    """Export a small run."""
    make_resumable(folder)
    (folder / "export").mkdir()
    shutil.copy(folder / "run" / "recipe.yaml", folder / "export")
    shutil.copy(folder / "run" / "checkpoints" / "best.safetensors", folder / "export" / "model.safetensors")


def damage_export(folder: Path, chance: random.Random) -> str:
    """Change the recipe or the weights of an export."""
    if chance.random() < 0.3:
        return damage("export/recipe.yaml", mutations.of_text)(folder, chance)
    path = folder / "export" / "model.safetensors"
    if chance.random() < 0.3:
        return damage("export/model.safetensors", mutations.of_bytes)(folder, chance)
    with safe_open(path, "pt") as file:  # weights without a digest, as earlier versions wrote them
        arrays = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
    made = mutations.of_arrays(arrays, chance)
    path.write_bytes(save({name: torch.from_numpy(array) for name, array in made.items()}))
    return "weights"


def read_export(folder: Path) -> None:
    """Open an export and ask it."""
    model = modalkit.load(folder / "export")
    model.infer({"class": torch.tensor([1])}, draws=2)


def make_text(name: str, content: str) -> Callable[[Path], None]:
    """Return what writes one text."""

    def make(folder: Path) -> None:
        (folder / name).write_text(content)

    return make


def make_set(folder: Path) -> None:
    """Write a recipe and no changes of it."""
    (folder / "r.yaml").write_text(LONG_RECIPE)
    (folder / "set.json").write_text("[]")


def damage_set(folder: Path, chance: random.Random) -> str:
    """Write one or two changes of a recipe, as ``--set`` takes them."""
    good = (
        "train.epochs=5",
        "model.latent_dim=8",
        "modalities.image.size=16",
        "objective.name=vae",
        "data.weak.keep=0.5",
    )
    good += ("modalities.class.names=[a, b]", "train.schedule={name: linear}", "modalities.bit{}.each=0..9", "seed=3")
    good += ("data.weak.keep=0.5", "data.path=other", "model.centered=true")
    changed = [mutations.of_text(chance.choice(good).encode(), chance).decode(errors="replace") for _ in range(2)]
    (folder / "set.json").write_text(json.dumps(changed[: chance.choice((1, 2))]))
    return "set.json"


def table_text() -> str:
    """Return a table with columns of many sorts."""
    chance, out = random.Random(0), io.StringIO()
    lines = csv.writer(out)
    lines.writerow(["id", "height", "sex", "price", "visits", "zip", "when", "split"])
    for row in range(60):
        lines.writerow(
            [
                f"p{row}",
                "" if row % 9 == 0 else f"{chance.gauss(170, 9):.1f}",
                chance.choice("mf"),
                f"{chance.uniform(1, 2000):,.2f} €",
                chance.choice((0, 1, 2, 3)),
                f"0{chance.randrange(1000, 9999)}",
                f"2024-01-{row % 28 + 1:02}",
                "train" if row < 40 else "test",
            ]
        )
    return out.getvalue()


def read_table(folder: Path) -> None:
    """Build a dataset from a table."""
    build_table(TableOptions(file=folder / "table.csv", yes=True), folder / "out")


def make_npz(folder: Path) -> None:
    """Write an archive of arrays."""
    g = np.random.default_rng(0)
    arrays = {
        "number": g.normal(size=(40, 3)),
        "class": g.integers(0, 3, 40),
        "flag": g.random(40) < 0.5,
        "word": np.array([f"w{k % 4}" for k in range(40)]),
        "picture": g.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8),
        "class_present": g.random(40) < 0.8,
        "ids": np.array([f"r{k}" for k in range(40)]),
        "split": np.array(["train"] * 30 + ["test"] * 10),
    }
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]


def damage_npz(folder: Path, chance: random.Random) -> str:
    """Change an archive by bytes, an array in it, or what an array's header claims."""
    path = folder / "a.npz"
    if chance.random() < 0.3:
        return damage("a.npz", mutations.of_bytes)(folder, chance)
    with np.load(path) as archive:
        arrays = dict(archive)
    if chance.random() < 0.7:
        np.savez_compressed(path, **mutations.of_arrays(arrays, chance))
        return "an array"
    import zipfile

    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = chance.choice(sorted(members))
    if chance.random() < 0.5:
        members[name] = mutations.of_bytes(members[name][:128], chance)[:128].ljust(128) + members[name][128:]
    else:
        huge = chance.choice((b"(40000000000,", b"(-4,", b"(99999999999999999999,", b"(" + b"1," * 40))
        members[name] = members[name].replace(b"(40,", huge, 1)
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return name


def read_npz(folder: Path) -> None:
    """Build a dataset from an archive."""
    build_arrays(ArraysOptions(file=folder / "a.npz", yes=True), folder / "out")


IDX = b"\0\0\x08\x01" + (10_000).to_bytes(4, "big") + bytes(k % 10 for k in range(10_000))
FAMILY = Family("test", "test", "Test", dict.fromkeys(FILES, hashlib.md5(IDX).hexdigest()))


def make_idx(folder: Path) -> None:
    """Write a file of labels, plain and compressed."""
    (folder / "labels").write_bytes(IDX)
    (folder / "labels.gz").write_bytes(gzip.compress(IDX, mtime=0))


def damage_idx(folder: Path, chance: random.Random) -> str:
    """Change either, or put a compressed file of zeros there."""
    if chance.random() < 0.02:
        (folder / "labels.gz").write_bytes(gzip.compress(bytes(1 << 28), 1))
        return "256 MiB of zeros"
    return damage(chance.choice(("labels", "labels.gz")), mutations.of_bytes)(folder, chance)


def read_labels(folder: Path) -> None:
    """Read both."""
    read_idx(folder / "labels", FAMILY, "test_labels")
    read_idx(folder / "labels.gz", FAMILY, "test_labels")


def make_annotations(folder: Path) -> None:
    """Write CelebA's three files for five photos."""
    photos = [f"{k:06}.jpg" for k in range(5)]
    values = "\n".join(f"{photo} {'1 -1 ' * (len(ATTRIBUTES) // 2)}" for photo in photos)
    (folder / "list_attr_celeba.txt").write_text(f"5\n{' '.join(ATTRIBUTES)}\n{values}\n")
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        (folder / name).write_text("".join(f"{photo} {k % 3}\n" for k, photo in enumerate(photos)))


def damage_annotations(folder: Path, chance: random.Random) -> str:
    """Change one of the three."""
    name = chance.choice(sorted(path.name for path in folder.glob("*.txt")))
    return damage(name, mutations.of_text)(folder, chance)


FORMATS = {
    "manifest": Format(make_dataset, damage("data/manifest.json", mutations.of_json), read_dataset),
    "shard": Format(make_dataset, damage_shard, read_dataset),
    "evaluation": Format(make_run, damage("run/evaluation.json", mutations.of_json), read_run),
    "translations": Format(make_run, damage("run/translations.json", mutations.of_json), read_run),
    "metrics": Format(make_run, damage("run/metrics.jsonl", mutations.of_lines), read_run),
    "state": Format(make_resumable, damage_state, read_saved),
    "export": Format(make_export, damage_export, read_export),
    "recipe": Format(
        make_text("r.yaml", LONG_RECIPE), damage("r.yaml", mutations.of_text), lambda f: load_recipe(f / "r.yaml")
    ),
    "set": Format(
        make_set,
        damage_set,
        lambda f: load_recipe(f / "r.yaml", json.loads((f / "set.json").read_text())),
    ),
    "table": Format(make_text("table.csv", table_text()), damage("table.csv", mutations.of_text), read_table),
    "npz": Format(make_npz, damage_npz, read_npz),
    "idx": Format(make_idx, damage_idx, read_labels),
    "annotations": Format(make_annotations, damage_annotations, lambda f: read_annotations([f], ["000001.jpg"])),
}
