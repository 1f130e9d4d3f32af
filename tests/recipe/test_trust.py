"""What a shared folder names is not run: each test is what somebody might try who shares a run or an export."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import refused
from support.strangers import data_of, recipe_text, shared
from support.toys import here

import modalkit
from modalkit import registry
from modalkit.errors import InputError
from modalkit.recipe import load_recipe

KIND = """
from dataclasses import replace
from modalkit.registry import modality
MINE = replace(modality("vector"), kind="mine")
"""
NETS = """
from torch import nn
def enc(schema, **_): return nn.Linear(2, 4)
def dec(schema, latent_dim, **_): return nn.Sequential(nn.Linear(latent_dim, 4), nn.Unflatten(1, (2, 2)))
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists once an attack has worked; the user's record is empty at first."""
    monkeypatch.setenv("MODALKIT_CONFIG", str(tmp_path / "config"))
    yield tmp_path / "attacked"
    registry.forget_files()


def touching(mark: Path, code: str = KIND) -> str:
    return f"open({str(mark)!r}, 'w').close()\n{code}"


def commands(run: Path, data: Path) -> list[tuple[object, ...]]:
    """Return every command that opens a run."""
    return [
        ("translate", run, "--given", "b=1,2", "-o", "out"),
        ("sample", run, "-o", "out"),
        ("impute", run, data, "-o", "filled"),
        ("embed", run, data, "-o", "out.csv"),
        ("serve", run, "--port", "0"),
        ("evaluate", run, "--data", data),
        ("report", run),
        ("compare", run, run.parent / "other"),
        ("export", run, "shared-again"),
        ("validate", run),
        ("validate", run / "recipe.yaml"),
        ("train", run),
        ("train", run / "recipe.yaml", "--out", "mine"),
    ]


def pager(mark: Path) -> str:
    return f"{{type: custom, encoder: 'pydoc:pipepager', decoder: 'pydoc:plain', options: {{cmd: 'touch {mark}'}}}}"


@pytest.mark.parametrize("attack", ["module", "plugin", "network", "template"])
def test_no_command_runs_what_a_run_names(tmp_path: Path, mark: Path, attack: str) -> None:
    network = "{type: custom, encoder: 'plugins/n.py:enc', decoder: 'plugins/n.py:dec'}"
    untyped = pager(mark).replace("type: custom, ", "")  # the type is the template's
    template = (
        f'  "b{{}}": {{each: [a, b], kind: vector, size: 2, network: {{type: custom}}}}\n  ba: {{network: {untyped}}}\n'
    )
    text, said = {
        "module": (recipe_text(network=pager(mark)), "recipe.yaml:3: modalities.a.network.encoder: pydoc:pipepager"),
        "plugin": (recipe_text(plugins="[plugins/k.py]"), "recipe.yaml:1: plugins.0: "),
        "network": (recipe_text(network=network), "recipe.yaml:3: modalities.a.network.encoder: "),
        "template": (f"data: {{path: x}}\nmodalities:\n{template}", "recipe.yaml:4: modalities.ba.network.encoder: "),
    }[attack]
    files = {"plugins/k.py": touching(mark), "plugins/n.py": touching(mark, NETS)}
    run = shared(tmp_path / "run", text, files)
    shared(tmp_path / "other", recipe_text())
    for command in commands(run, data_of(tmp_path / "data")):
        refused(here(*command, cwd=tmp_path), said, "was not run", "--trust")
        assert not mark.exists(), command
    with pytest.raises(InputError, match=r"trust=True in Python"):
        modalkit.load(run)
    with pytest.raises(InputError, match=r"trust=True in Python"):
        load_recipe(run / "recipe.yaml")
    assert not mark.exists() and not (tmp_path / "config").exists()


@pytest.mark.parametrize("way", ["parent", "absolute", "link", "network", "extends"])
def test_code_outside_of_the_folder_is_not_run_even_with_trust(tmp_path: Path, mark: Path, way: str) -> None:
    outside = tmp_path / "downloads"
    outside.mkdir()
    (outside / "k.py").write_text(touching(mark, KIND + NETS))
    (outside / "base.yaml").write_text(recipe_text(plugins="[k.py]"))
    text = {
        "parent": recipe_text(plugins="[../downloads/k.py]"),
        "absolute": recipe_text(plugins=f"[{outside / 'k.py'}]"),
        "link": recipe_text(plugins="[k.py]"),
        "network": recipe_text(network="{type: custom, encoder: '../downloads/k.py:enc', decoder: 'torch:zeros'}"),
        "extends": "extends: ../downloads/base.yaml\n" + recipe_text(),
    }[way]
    run = shared(tmp_path / "run", text)
    if way == "link":
        (run / "k.py").symlink_to(outside / "k.py")
    for trust in ((), ("--trust",)):
        done = here("sample", run, "-o", "out", *trust, cwd=tmp_path)
        refused(done, f"outside of the recipe's folder {run.resolve()}", "so it is not run")
    assert not mark.exists()


def test_compiled_code_beside_a_plugin_is_not_run(tmp_path: Path, mark: Path) -> None:
    source = KIND + NETS
    run = shared(tmp_path / "run", recipe_text(plugins="[k.py]"), {"k.py": source})
    cached = Path(importlib.util.cache_from_source(str(run / "k.py")))
    cached.parent.mkdir()
    from importlib._bootstrap_external import _code_to_hash_pyc  # type: ignore[attr-defined]

    evil = compile(touching(mark, source), str(run / "k.py"), "exec")
    cached.write_bytes(_code_to_hash_pyc(evil, b"\0" * 8, checked=False))  # Python would not compare it with the source
    assert here("sample", run, "-o", "out", "--trust", cwd=tmp_path).returncode == 0
    assert not mark.exists()


def test_trust_is_remembered_until_the_code_or_its_use_changes(tmp_path: Path, mark: Path) -> None:
    network = "{type: custom, encoder: 'n.py:enc', decoder: 'n.py:dec', options: {n: 1}}"
    run = shared(tmp_path / "run", recipe_text(network=network, plugins="[k.py]"), {"k.py": KIND, "n.py": NETS})
    ask = ("validate", run)
    refused(here(*ask, cwd=tmp_path), "the same for", "--trust")
    assert here(*ask, "--trust", cwd=tmp_path).returncode == 0
    assert here(*ask, cwd=tmp_path).returncode == 0
    assert here(*ask, "--set", "train.epochs=9", cwd=tmp_path).returncode == 0
    record = json.loads((tmp_path / "config/trusted.json").read_text())
    (entry,) = record.values()
    assert entry["recipe"] == str(run / "recipe.yaml") and len(entry["code"]) == 3
    recipe, code = (run / "recipe.yaml").read_text(), (run / "n.py").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("n: 1", "n: 2"))
    refused(here(*ask, cwd=tmp_path), "has changed since you allowed it")
    (run / "recipe.yaml").write_text(recipe)
    (run / "n.py").write_text(touching(mark, code))
    refused(here(*ask, cwd=tmp_path), "has changed since you allowed it")
    (run / "n.py").write_text(code)
    assert here(*ask, cwd=tmp_path).returncode == 0
    assert not mark.exists()


def test_a_folder_cannot_bring_a_record(tmp_path: Path, mark: Path) -> None:
    run = shared(tmp_path / "run", recipe_text(plugins="[k.py]"), {"k.py": touching(mark)})
    assert here("validate", run, "--trust", cwd=tmp_path).returncode == 0
    mark.unlink()
    record = tmp_path / "config/trusted.json"
    for name in ("trusted.json", ".config/modalkit/trusted.json", "modalkit/trusted.json", "config/trusted.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(record.read_text())
    record.unlink()
    sys.modules.pop(registry.import_file(run / "k.py").__name__)
    mark.unlink(missing_ok=True)
    refused(here("validate", ".", cwd=run), "--trust")
    assert not mark.exists()
    record.write_text("{")
    refused(here("validate", run, cwd=tmp_path), "trusted.json: cannot be read", "delete it")


def test_a_recipe_of_one_s_own_trains_without_the_flag_and_its_run_opens(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/k.py").write_text(KIND)
    text = recipe_text(plugins="[k.py]", data=str(data_of(tmp_path / "data")))
    (tmp_path / "mine/own.yaml").write_text(text)
    refused(here("validate", "mine/own.yaml", cwd=tmp_path), "mine/own.yaml:1: plugins.0", "--trust")
    train = ("train", "mine/own.yaml", "--out", "run", "--set", "train.max_steps=1")
    done = here(*train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in (("validate", "mine/own.yaml"), ("sample", "run", "-o", "s"), ("validate", "run"), ("train", "run")):
        done = here(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (tmp_path / "run").rename(tmp_path / "moved")
    assert here("sample", "moved", "-o", "s", cwd=tmp_path).returncode == 0
    (tmp_path / "moved").rename(tmp_path / "run")
    (tmp_path / "mine/k.py").write_text(KIND + "\n# better\n")
    refused(here("sample", "run", "-o", "s", cwd=tmp_path), "so it is not run", "repeat the command that trained it")
    done = here(*train, cwd=tmp_path)
    assert done.returncode == 0 and "already complete" in done.stderr, done.stderr
    assert here("sample", "run", "-o", "s", cwd=tmp_path).returncode == 0
    assert here("export", "run", "shared", cwd=tmp_path).returncode == 0
    refused(here("sample", "shared", "-o", "s", cwd=tmp_path), "plugins/k.py is code", "--trust")


def test_training_a_recipe_does_not_run_modules_that_it_names(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "r.yaml").write_text(recipe_text(network=pager(mark), data=str(data_of(tmp_path / "data"))))
    refused(here("train", "r.yaml", cwd=tmp_path), "r.yaml:3:", "pydoc:pipepager is code", "--trust")
    assert not mark.exists()
    here("train", "r.yaml", "--trust", cwd=tmp_path)
    until = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < until:  # the pager is a process of its own
        time.sleep(0.05)
    assert mark.exists()  # so the attack would have worked


def test_a_file_that_is_called_like_an_override_is_not_what_the_user_typed(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "k.py").write_text(touching(mark))
    (tmp_path / "--set base.yaml").write_text(recipe_text(plugins="[k.py]"))
    (tmp_path / "r.yaml").write_text("extends: '--set base.yaml'\n")
    refused(here("validate", "r.yaml", cwd=tmp_path), "plugins.0", "--trust")
    assert not mark.exists()
    assert here("validate", "r.yaml", "--set", "plugins=[k.py]", "--trust", cwd=tmp_path).returncode == 0


def test_what_the_user_types_needs_no_flag(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "k.py").write_text(KIND)
    (tmp_path / "r.yaml").write_text(recipe_text())
    typed = ("--set", "plugins=[k.py]", "--set", "modalities.a.kind=mine")
    assert here("validate", "r.yaml", *typed, cwd=tmp_path).returncode == 0


def test_a_dataset_runs_nothing(tmp_path: Path, mark: Path) -> None:
    data = data_of(tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    custom = {
        "type": "custom",
        "encoder": "pydoc:pipepager",
        "decoder": "pydoc:plain",
        "options": {"cmd": f"touch {mark}"},
    }
    for entry in manifest["modalities"].values():
        entry.get("facts", entry)["network"] = custom
    (data / "manifest.json").write_text(json.dumps(manifest))
    here("inspect", data, cwd=tmp_path)
    drafted = here("init", data, cwd=tmp_path)
    (tmp_path / "drafted.yaml").write_text(drafted.stdout or recipe_text())
    here("train", "drafted.yaml", "--set", "train.max_steps=1", cwd=tmp_path)
    assert not mark.exists()


def test_a_run_builds_no_dataset_unasked(tmp_path: Path, mark: Path) -> None:
    steps = "{path: made, build: [{builder: sample-faces, count: 2, workers: 1}]}"
    run = shared(tmp_path / "run", recipe_text().replace("{path: data/none}", steps))
    refused(here("train", run, "--out", "mine", cwd=tmp_path), "data.build", "sample-faces", "--trust")
    assert not (tmp_path / "made").exists() and not (tmp_path / "mine").exists()


def test_a_name_cannot_change_what_the_terminal_shows(tmp_path: Path, mark: Path) -> None:
    hidden = "pydoc:pipepager\\e[2K\\rerror: nothing\\n"
    network = f'{{type: custom, encoder: "{hidden}", decoder: "a:b"}}'
    done = here("validate", shared(tmp_path / "run", recipe_text(network=network)), cwd=tmp_path)
    refused(done, "pydoc:pipepager?[2K?error: nothing?")
    assert "\x1b" not in done.stderr


def test_without_a_writable_record_each_command_needs_the_flag(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODALKIT_CONFIG", str(tmp_path / "file"))
    run = shared(tmp_path / "run", recipe_text(plugins="[k.py]"), {"k.py": KIND})
    done = here("validate", run, "--trust", cwd=tmp_path)
    assert done.returncode == 0 and "--trust is needed again" in done.stderr
    refused(here("validate", run, cwd=tmp_path), "--trust")
