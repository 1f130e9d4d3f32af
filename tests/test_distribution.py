"""What a release contains: the source distribution and the wheel are built, installed and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from support.toys import write_circle, write_recipe

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "modalkit": "modalkit",
    "modalities": "modalkit_modalities",
    "tools": "modalkit_tools",
    "recipes": "modalkit_recipes",
}
KEPT = {".py", ".yaml", ".md", ".html", ".css", ".js", ".template", ".typed"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of a wheel that is made of it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    return out


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(archives: Path) -> None:
    files = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in KEPT]
    [wheel] = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    assert {"/".join((ROOMS[file.parts[0]], *file.parts[1:])) for file in files} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    [sdist] = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert {*map(str, files), "README.md", "LICENSE", "pyproject.toml"} <= held


@pytest.mark.slow
def test_an_installed_wheel_trains_and_answers_without_the_sources(archives: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # torch and others are not copied
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", *archives.glob("*.whl"), cwd=tmp_path)
    clean = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    where = run(python, "-c", "import modalkit; print(modalkit.__file__)", cwd=tmp_path, **clean)
    assert Path(where.strip()).is_relative_to(packages)
    command = tmp_path / "env" / "bin" / "modalkit"
    listed = run(command, "list", cwd=tmp_path, **clean)
    assert "quickstart" in listed and "landmarks" in listed and "CANNOT BE USED" not in listed
    assert "ok: 6 modalities" in run(command, "validate", "quickstart", cwd=tmp_path, **clean)
    write_recipe(tmp_path, write_circle(tmp_path))
    run(command, "train", "circle.yaml", "--out", "run", "--set", "train.epochs=1", cwd=tmp_path, **clean)
    run(command, "translate", "run", "--given", "class=1", "-o", "answer", cwd=tmp_path, **clean)
    run(command, "report", "run", cwd=tmp_path, **clean)
    run(command, "new-modality", "angle", cwd=tmp_path, **clean)
    assert (tmp_path / "answer" / "answer.json").is_file()
