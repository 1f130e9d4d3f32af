"""The documentation's site: it builds without a warning, says what it should, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_builds_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "api.html").read_text("utf-8")
    for name in ("modalkit.write_dataset", "modalkit.TrainedModel.infer", "modalkit.plugin.Objective"):
        assert f'id="{name}"' in api
    assert ":math:" not in api and "&gt;&gt;&gt;" in re.sub("<[^>]*>", "", api)
    assert "Colour this gray photo" in (tmp_path / "index.html").read_text("utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text("utf-8")
        loads = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)", text)
        loads += re.findall(r"<link\b(?![^>]*canonical)[^>]*\bhref=\"([^\"]*)", text)
        assert loads and not [one for one in loads if re.match(r"(?:\w+:)?//", one)], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet
