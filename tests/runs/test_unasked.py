"""Opening a run that names the address of a dataset sends no request: a local server counts them."""

from __future__ import annotations

import http.server
import logging
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.command_line import refused
from support.strangers import data_of, recipe_text, shared
from support.toys import here

import modalkit


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a dataset, and the requests that were sent for it."""
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("MODALKIT_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    class Counting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    data_of(tmp_path / "web/points")
    handler = partial(Counting, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/points", asked
        server.shutdown()


def test_a_run_s_dataset_is_contacted_only_if_the_user_asks(tmp_path: Path, web: tuple[str, list[str]]) -> None:
    url, asked = web
    run = shared(tmp_path / "run", recipe_text(data=url))
    shared(tmp_path / "other", recipe_text(data=url))
    question = ("--targets", "a", "--given", "b", "--particles", 2)
    for command in (
        ("evaluate", run, *question),
        ("impute", run, "-o", "filled"),
        ("embed", run, "-o", "out.csv"),
        ("train", run, "--out", "mine"),
        ("train", run / "recipe.yaml", "--out", "mine"),
    ):
        refused(here(*command, cwd=tmp_path), url, "was not contacted", "add --trust")
    checked = here("validate", run, cwd=tmp_path)
    assert checked.returncode == 0 and f"not compared with {url}" in checked.stdout and "--trust" in checked.stdout
    reported = here("report", run, cwd=tmp_path)
    assert reported.returncode == 0 and "was not contacted" in reported.stderr
    exported = here("export", run, "shared", cwd=tmp_path)
    assert exported.returncode == 0 and "was not contacted" in exported.stderr
    assert here("compare", run, tmp_path / "other", cwd=tmp_path).returncode == 0
    assert here("translate", run, "--given", "b=1,2", "-o", "out", cwd=tmp_path).returncode == 0
    assert asked == []

    assert here("evaluate", run, *question, "--data", url, cwd=tmp_path).returncode == 0
    assert here("embed", run, url, "-o", "out.csv", cwd=tmp_path).returncode == 0
    for command in (
        ("validate", run, "--set", f"data.path={url}"),
        ("validate", run, "--trust"),
        ("embed", run, "-o", "out.csv", "--trust"),
        ("export", run, "shared-2", "--trust"),
    ):
        before = len(asked)
        done = here(*command, cwd=tmp_path)
        assert done.returncode == 0 and "not contacted" not in done.stderr and len(asked) > before, done.stderr


def test_a_url_that_was_trained_from_is_remembered(
    tmp_path: Path, web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODALKIT_CONFIG", str(tmp_path / "config"))
    url, _ = web
    short = ("--set", "train.max_steps=1")
    run = shared(tmp_path / "run", recipe_text(data=url))
    (tmp_path / "own.yaml").write_text(recipe_text(data=url))
    for first in (("train", "own.yaml"), ("train", run, "--trust"), ("train", run, "--set", f"data.path={url}")):
        refused(here("train", run, "--out", "mine", cwd=tmp_path), "was not contacted")
        assert here("evaluate", run, "--data", url, "--particles", 2, cwd=tmp_path).returncode == 0  # records nothing
        assert here(*first, "--out", "mine", *short, cwd=tmp_path).returncode == 0
        (tmp_path / "mine").rename(tmp_path / "moved")
        for command in (("train", "moved"), ("evaluate", "moved", "--particles", 2), ("validate", "moved")):
            done = here(*command, cwd=tmp_path)
            assert done.returncode == 0 and "not c" not in done.stdout + done.stderr, (done.stdout, done.stderr)
        record = (tmp_path / "config/trusted.json").read_text()
        assert "127.0.0.1" in record and "points" not in record  # a URL can hold a password
        refused(here("train", shared(tmp_path / "s", recipe_text(data=f"{url}2")), cwd=tmp_path), "was not contacted")
        for path in (tmp_path / "moved", tmp_path / "s", tmp_path / "config"):
            shutil.rmtree(path)


def test_the_playground_shows_no_rows_of_a_dataset_elsewhere(
    tmp_path: Path, web: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("starlette")
    from modalkit.playground.app import Playground

    url, asked = web
    run = shared(tmp_path / "run", recipe_text(data=url))
    caplog.set_level(logging.INFO)
    assert Playground(modalkit.load(run)).keys == [] and asked == []
    assert "was not contacted" in caplog.text
    assert Playground(modalkit.load(run, trust=True)).keys and asked
