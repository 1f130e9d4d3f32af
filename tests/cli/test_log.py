"""What is shown on standard error: messages and bars by default, less with --quiet, more with --verbose."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.processes import Child
from support.toys import here, write_circle, write_recipe

from modalkit.recipe import load_recipe
from modalkit.training import train
from modalkit.util.progress import show_bars

SHORT = ("--set", "train.max_steps=4", "--set", "train.pictures_every=0")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    write_recipe(folder, write_circle(folder))
    return folder


@pytest.fixture(autouse=True)
def bars_are_shown_afterwards() -> object:
    yield
    show_bars(True)


def test_quiet_shows_nothing_and_verbose_more_than_the_default(work: Path) -> None:
    shown = {}
    for name, before, after in (
        ("default", [], []),
        ("quiet", ["-q"], []),
        ("quiet-after", [], ["--quiet"]),
        ("verbose", ["-v"], []),
    ):
        done = here(*before, "train", "circle.yaml", "--out", name, *SHORT, *after, cwd=work)
        assert done.returncode == 0 and "Nats per dimension" in done.stdout, done.stderr
        shown[name] = done.stderr
    assert shown["quiet"] == shown["quiet-after"] == ""
    assert "default: new" in shown["default"] and "step" in shown["default"] and "wrote" not in shown["default"]
    assert "modalkit.training" in shown["verbose"] and "wrote verbose/recipe.yaml" in shown["verbose"]
    assert len(shown["verbose"].splitlines()) > len(shown["default"].splitlines())


def test_quiet_still_shows_warnings_and_errors(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = here("-q", "train", "nowhere.yaml", cwd=work)
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere.yaml")
    logging.getLogger("modalkit_tools.any").warning("two rows are empty")
    logging.getLogger("modalkit_tools.any").info("a thousand rows")
    assert capsys.readouterr().err == "warning: two rows are empty\n"


def test_quiet_and_verbose_exclude_each_other(work: Path) -> None:
    for words in (["-q", "-v", "list", "kinds"], ["list", "kinds", "-q", "-v"]):
        done = here(*words, cwd=work)
        assert done.returncode == 2 and "exclude each other" in done.stderr


def test_a_program_that_configures_nothing_sees_bars_and_no_messages(work: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from modalkit.recipe import load_recipe\n"
        "from modalkit.training import train\n"
        "train(load_recipe(Path('circle.yaml'), ['train.max_steps=2']), Path('own'))\n"
    )
    done = Child(cwd=work, code=program).done()
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert "own:" in done.stderr and "step" in done.stderr and "new" not in done.stderr


def test_a_program_takes_the_records_by_logging(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "modalkit"):
        train(load_recipe(work / "circle.yaml", ["train.max_steps=2"]), work / "captured")
    assert any(r.name.startswith("modalkit.training") and "new" in r.getMessage() for r in caplog.records)
