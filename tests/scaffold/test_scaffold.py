"""`new-modality` and `new-objective`: what they write installs, keeps the contract, passes the checkers, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import Child
from support.toys import here

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: object) -> str:
    """Run a Python module in `folder`, and return what it says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PASSED = {"modality": "4 passed", "objective": "3 passed"}


@pytest.fixture(scope="module", params=PASSED)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    done = here(f"new-{request.param}", "wind-speed", cwd=folder)
    assert done.returncode == 0 and "pip install -e" in done.stdout, done.stderr
    return folder / "wind-speed"


def test_it_passes_the_linter(package: Path) -> None:
    run(package, "-m", "ruff", "check", "--isolated", "--no-cache", "--extend-select", "I,B,UP,SIM,RUF,PTH", ".")
    run(package, "-m", "ruff", "format", "--isolated", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_it_passes_the_type_checker(package: Path) -> None:
    run(package, "-m", "mypy", "--cache-dir", os.devnull)


USE = """
import runpy, pytest
from modalkit.cli import app

assert pytest.main(["-q", "-p", "no:cacheprovider"]) == 0
runpy.run_path("make_data.py")
app(["list"], standalone_mode=False)
app(["train", "wind_speed.yaml", "--set", "train.epochs=2"], standalone_mode=False)
"""


def test_it_is_found_keeps_the_contract_and_trains(package: Path) -> None:
    run(package, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info")  # what an editable install leaves
    done = Child(cwd=package, code=USE, path=package).done()
    assert done.returncode == 0, done.stdout + done.stderr
    passed = next(count for what, count in PASSED.items() if package.parent.name.startswith(what))
    for words in (passed, "modalkit-wind-speed 0.1.0", "2 epochs done"):
        assert words in done.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "LICENSE").write_text("all mine")
    assert here("new-modality", "sea", "--out", "mine", cwd=tmp_path).returncode == 0
    (tmp_path / "mine" / "sea_kind.py").write_text("changed")
    (tmp_path / "mine" / "README.md").unlink()
    again = here("new-modality", "sea", "--out", "mine", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert (tmp_path / "mine" / "sea_kind.py").read_text() == "changed"
    assert not (tmp_path / "mine" / "README.md").exists()


@pytest.mark.parametrize("name", ["Wind", "2d", "a b", "a-", "../x", "wind--speed", "é", ""])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    done = here("new-modality", name, cwd=tmp_path)
    assert done.returncode == 2 and f"'{name}' cannot name a kind" in done.stderr
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken(tmp_path: Path) -> None:
    for command, name, word in (("new-modality", "vector", "kind"), ("new-objective", "mvae", "objective")):
        done = here(command, name, cwd=tmp_path)
        assert done.returncode == 2 and f"'{name}' is an installed {word} already" in done.stderr
