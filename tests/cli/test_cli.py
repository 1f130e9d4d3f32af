"""The command line as a user types it: what it lists and shows, and what it says of bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import install, modalkit, refused
from support.documents import shown_file
from support.toys import RECIPE, here, write_circle, write_recipe

from modalkit import __version__, registry
from modalkit.errors import InputError
from modalkit.recipe import load_recipe


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_recipe(folder, write_circle(folder))
    return folder


def test_help_teaches_without_loading_anything_heavy(work: Path) -> None:
    done = modalkit("--help", cwd=work)
    assert done.returncode == 0 and "Exit codes" in done.stdout
    for command in ("train", "build-dataset", "inspect", "validate", "schema", "list"):
        assert command in done.stdout
    loaded = "import sys, modalkit.cli; print([m for m in ('torch', 'numpy', 'pydantic', 'cv2') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "[]"
    for name in ("celeba-transforms", "sample-faces", "mnist"):
        one = here("build-dataset", name, "--help", cwd=work)
        assert one.returncode == 0 and "--out" in one.stdout, one.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "run", "--given", "grey=a.png", "-o", "out"],
        ["translate", "run", "--given", "gray=a.png", "--want", "grey", "-o", "out"],
        ["sample", "run", "--want", "grey", "-o", "out"],
        ["embed", "run", "--given", "grey", "-o", "z.csv"],
    ],
)
def test_a_misspelt_modality_is_refused_without_torch(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("modalities: {image: {kind: image}, gray: {kind: image}}\n")
    code = "import sys; from modalkit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: no modality 'grey' (did you mean 'gray'?); this model has image, gray\n"


WRONG = """\
extends: quickstart
modalities:
  image: {chanels: 3}
  smell: {kind: vector}
  taste: {kind: vectr}
  part{}: {each: 0..3, kind: image, sise: 3}
modle: {latent_dim: 3}
data: {build: [{builder: sample-faces, cuont: 3}]}
train: {epochs: ten, schedule: {name: cosine, wrmup: 3}}
objective: {name: mvae, kk: 3}
"""


@pytest.mark.parametrize("command", [["validate"], ["train"]])
def test_names_and_sections_of_a_wrong_recipe_are_checked_without_torch(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    code = "import sys; from modalkit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "wrong.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    with pytest.raises(InputError) as slow:  # torch is imported here
        load_recipe(tmp_path / "wrong.yaml")
    quick, note = done.stderr.removeprefix("error: ").replace("wrong.yaml:", f"{tmp_path}/wrong.yaml:").rsplit("\n(", 1)
    assert done.returncode == 2 and sorted(quick.splitlines()) == sorted(str(slow.value).splitlines())
    assert len(quick.splitlines()) == 10
    assert note == "Values of modalities and of the objective are checked once this is right.)\n"


def test_values_of_modalities_are_checked_once_the_rest_is_right(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("extends: quickstart\nmodalities: {image: {channels: many}}\n")
    done = modalkit("validate", "wrong.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: wrong.yaml:2: modalities.image.channels: should be a whole number, got 'many'\n"


@pytest.mark.parametrize(("group", "field"), [(registry.KINDS, "schema"), (registry.OBJECTIVES, "options")])
def test_the_sources_of_plugins_state_their_settings(group: str, field: str) -> None:
    for found in registry.provided(group):
        if found.provider.startswith("modalkit-vae "):
            settings = getattr(found.plugin, field).model_fields
            assert registry.stated(group, found.name) == {name: one.is_required() for name, one in settings.items()}


def test_list_shows_what_the_plugins_say_of_themselves_without_torch(tmp_path: Path) -> None:
    code = "import sys; from modalkit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "list"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for group in registry.groups().values():
        for found in registry.provided(group):
            assert f"  {found.name} " in done.stdout and found.plugin.summary in done.stdout


def test_list_says_who_provides_what_also_of_third_parties(work: Path, tmp_path: Path) -> None:
    everything = here("list", cwd=work)
    assert everything.returncode == 0, everything.stderr
    for word in ("image", "mvae", "sample-faces", "quickstart", "modalkit-vae 0.1.0"):
        assert word in everything.stdout
    install(
        tmp_path,
        "angle-kind",
        {"angle": "angle_kind:ANGLE"},
        {"angle_kind": shown_file("tutorials/modality.md", "angle.py")},
    )
    install(tmp_path, "bad-kind", {"bad": "bad_kind:X"}, {"bad_kind": "raise RuntimeError('no licence today')"})
    install(tmp_path, "odd-kind", {"odd": "odd_kind:X"}, {"odd_kind": "X = 3"})
    kinds = here("list", "kinds", cwd=work, path=tmp_path).stdout
    assert re.search(r"angle .*\[angle-kind 1.0\]", kinds), kinds
    assert "RuntimeError: no licence today  [bad-kind 1.0]" in kinds
    assert "not a modalkit.plugin.Modality  [odd-kind 1.0]" in kinds
    # A plugin that fails is in the way of those who use it, and of nobody else.
    assert here("validate", "circle.yaml", cwd=work, path=tmp_path).returncode == 0


def test_clashing_and_broken_plugins_are_named(work: Path, tmp_path: Path) -> None:
    install(tmp_path, "my-vectors", {"vector": "v:X", "broken": "broken:X"}, {"v": "X = 1", "broken": "1/0"})
    refused(
        here("validate", "circle.yaml", cwd=work, path=tmp_path),
        "circle.yaml:7:", "'vector' is provided twice", "my-vectors", "modalkit-vae",
    )  # fmt: skip
    (work / "broken.yaml").write_text("data: {path: circle}\nmodalities:\n  x: {kind: broken}\n")
    refused(
        here("validate", "broken.yaml", cwd=work, path=tmp_path),
        "broken.yaml:3:", "my-vectors 1.0", "ZeroDivisionError",
    )  # fmt: skip
    (work / "plug.py").write_text("import math\nmath.nothing\n")
    (work / "plug.yaml").write_text("plugins: [plug.py]\ndata: {path: circle}\nmodalities:\n  x: {kind: plug}\n")
    refused(here("validate", "plug.yaml", "--trust", cwd=work), "plug.yaml:1:", "plug.py:2: raised AttributeError")


SHAPES = {
    "encoder": ("encoder=lambda s: torch.nn.Flatten(0)", "its encoder failed", "must return (rows, features)"),
    "raises": ("encoder=lambda s: 1 / 0", "its encoder failed", "ZeroDivisionError"),
    "decoder": ("decoder=lambda s, d: torch.nn.Linear(d + 1, 2)", "its decoder failed", "shapes cannot be multiplied"),
    "likelihood": (
        "likelihood=lambda s, raw: torch.distributions.Normal(raw[:, :2], 1.0)", "its likelihood failed",
        "batch_shape (2, 2, 2) and event_shape ()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_a_plugin_with_wrong_shapes_is_told_before_training(work: Path, case: str) -> None:
    change, *words = SHAPES[case]
    (work / f"{case}.py").write_text(
        "import dataclasses, torch, modalkit.registry\n"
        f"X = dataclasses.replace(modalkit.registry.modality('vector'), kind='{case}', {change})\n"
    )
    text = RECIPE.replace("DATA", "circle").replace("position: {kind: vector", f"position: {{kind: {case}")
    (work / f"{case}.yaml").write_text(f"plugins: [{case}.py]\n{text}")
    refused(here("train", f"{case}.yaml", cwd=work), f"modality 'position' (kind '{case}')", *words)


def test_wrong_recipes_are_refused_whole(work: Path) -> None:
    (work / "wrong.yaml").write_text(
        "data: {path: circle}\n"
        "modalities:\n"
        "  position: {kind: vectr, size: 2}\n"
        "train:\n"
        "  learning_rte: 0.1\n"
        "  epochs: none\n"
    )
    done = here("train", "wrong.yaml", "--set", "train.batch_size=-3", cwd=work)
    refused(
        done, "wrong.yaml:3:", "did you mean 'vector'", "wrong.yaml:5:", "did you mean 'learning_rate'",
        "wrong.yaml:6:", "--set train.batch_size=-3",
    )  # fmt: skip
    refused(here("train", "nowhere.yaml", cwd=work), "nowhere.yaml", "no such recipe")


def test_datasets_that_cannot_be_used(work: Path) -> None:
    refused(here("train", "circle.yaml", "--set", "data.path=nowhere", cwd=work), "nowhere", "build-dataset")
    refused(here("inspect", "nowhere", cwd=work), "there is no such dataset")
    refused(
        here("train", "circle.yaml", "--set", "modalities.position.size=3", cwd=work),
        "modalities.position.size: 2 in the dataset, 3 here",
    )
    refused(here("train", "circle.yaml", "--set", "train.accelerator=gpu", cwd=work), "train.accelerator gpu")


def test_what_is_no_recipe_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "wine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "runs" / "wine").mkdir(parents=True)
    (tmp_path / "runs" / "wine" / "recipe.yaml").touch()
    for given, said in {
        "wine.csv": "`modalkit build-dataset table wine.csv --out data/wine`",
        "runs/wines": "nor a run's folder (did you mean 'wine'?); `modalkit list recipes`",
    }.items():
        done = here("train", given, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr) < 250, done.stderr


def test_arguments_are_named_alike_and_listings_stand_in_columns(work: Path) -> None:
    for command, usage in {"compare": "{RUN}...", "validate": "{RECIPE}...", "inspect": "{DATASET}"}.items():
        assert usage in here(command, "--help", cwd=work).stdout
    lines = here("list", "recipes", cwd=work).stdout.splitlines()[1:]
    summaries = [re.match(r"  \w+  +", line) for line in lines]
    assert len({found and found.end() for found in summaries}) == 1 and None not in summaries


def test_a_dataset_that_lacks_much_says_so_once(work: Path) -> None:
    changes = ("modalities.one={kind: bit}", "modalities.two={kind: bit}")
    done = here("train", "circle.yaml", *(word for text in changes for word in ("--set", text)), cwd=work)
    assert "the dataset lacks one, two; it has image, position, class, counts" in done.stderr
    assert done.stderr.count("it has") == 1


def test_out_of_memory_is_said(work: Path) -> None:
    done = here("train", "circle.yaml", "--out", "huge", "--set", "model.latent_dim=20000000000", cwd=work)
    refused(done, "out of memory", code=1)


def test_inspect_shows_counts_presence_and_pictures(work: Path) -> None:
    done = here("inspect", "circle", "--verify", "--rows", "3", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "120 rows in 1 shard," in done.stdout and "all match, in 1 shard" in done.stdout
    assert re.search(r"image +image +1x12x12 +uint8 +\d+ \(\d+\.\d %: train \d+, valid \d+, test \d+\)", done.stdout)
    assert (work / "circle" / "sheet.png").stat().st_size > 1000
    shard = work / "circle" / "shards" / "00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-4000] ^= 1  # a pixel
    shard.write_bytes(data)
    refused(here("inspect", "circle", "--verify", cwd=work), "does not match its checksum")
    data[-1] ^= 1
    shard.write_bytes(data)


def test_schema_is_json_and_validate_says_ok(work: Path) -> None:
    schema = json.loads(here("schema", cwd=work).stdout)
    assert {"data", "modalities", "objective", "train"} <= set(schema["properties"])
    done = here("validate", "circle.yaml", "quickstart", "recipes/mnist_mvae.yaml", "celeba_transforms", cwd=work)
    assert done.returncode == 0 and done.stdout.count(": ok: ") == 4, done.stderr


def test_validate_builds_the_networks_of_plugins(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import dataclasses, torch, modalkit.registry as r\n"
        "base = r.modality('vector')\n"
        "def likelihood(schema, raw): return torch.distributions.Normal(base.likelihood(schema, raw).mean, 1.0)\n"
        "ODD = dataclasses.replace(base, kind='odd', likelihood=likelihood)\n"
    )
    (tmp_path / "odd.yaml").write_text(
        "plugins: [odd.py]\ndata: {path: x}\nmodalities: {at: {kind: odd, size: 3}}\nmodel: {latent_dim: 2}\n"
    )
    done = here("validate", "odd.yaml", "--trust", cwd=tmp_path)
    refused(done, "odd.yaml: modality 'at' (kind 'odd'): its likelihood", "has batch_shape (2, 3)", "must be (2,)")


def test_a_dataset_that_other_steps_built_is_not_used_silently(work: Path) -> None:
    text = (
        "data:\n  path: six\n  build:\n    - {builder: sample-faces, out: faces, count: 40}\n"
        "    - {builder: celeba-transforms, source: faces, size: 16, workers: 1}\n"
        "modalities:\n  gray: {kind: image, size: 16, channels: 1, network: mlp}\n"
        "  mask: {kind: landmarks, size: 16, network: mlp}\n"
        "model: {latent_dim: 2}\ntrain: {max_steps: 1}\n"
    )
    (work / "six.yaml").write_text(text)
    first = here("train", "six.yaml", cwd=work)
    assert first.returncode == 0 and "runs/six: new" in first.stderr, first.stderr
    again = here("train", "six.yaml", "--set", "data.build.1.workers=2", "--out", "again", cwd=work)
    assert again.returncode == 0, again.stderr  # what changes no byte is no difference
    other = here("train", "six.yaml", "--set", "data.build.0.count=50", "--out", "other", cwd=work)
    refused(other, "six: was built by other steps", "0.count: 40 there, 50 now", "delete faces and six")


def test_validate_compares_with_the_dataset_where_there_is_one(work: Path) -> None:
    changes = [
        "--set",
        "modalities.position.size=5",
        "--set",
        "modalities.image.size=64",
        "--set",
        "modalities.pos.kind=bit",
    ]
    refused(
        here("validate", "circle.yaml", *changes, cwd=work),
        "modalities.position.size: 2 in the dataset, 5 here",
        "modalities.image.size: [12, 12] in the dataset, [64, 64] here",
        "modalities.pos: the dataset has no such modality",
    )  # fmt: skip
    absent = here("validate", "circle.yaml", "--set", "data.path=nowhere", cwd=work)
    assert absent.returncode == 0 and "not compared with its dataset, since nowhere does not exist" in absent.stdout


def test_the_keys_of_one_plugin(work: Path) -> None:
    image = here("list", "kinds", "image", cwd=work)
    assert "size: integer or list of 2; required" in image.stdout and "channels: integer; default 3" in image.stdout
    refused(here("list", "kinds", "imgae", cwd=work), "did you mean 'image'")


def test_the_version_is_told(tmp_path: Path) -> None:
    done = here("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == f"modalkit {__version__}\n"
