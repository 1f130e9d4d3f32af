"""Datasets in object storage, read through fsspec: in memory, from a web server, from another folder."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from support.toys import here, write_circle, write_recipe

import modalkit
from modalkit.data import Dataset, read_manifest
from modalkit.errors import InputError, RunError

URL = "memory://bucket/circle"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODALKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_small(out: Path, rows: int = 25, first: int = 0) -> Path:
    x = torch.arange(first, first + 2 * rows).reshape(rows, 2).float()
    keys = [f"row{i}" for i in range(rows)]
    modalkit.write_dataset(out, {"x": modalkit.schema("vector", size=2)}, {"x": x}, keys=keys, shard_rows=10)
    return out


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def put(files: Any, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"/bucket/circle/{path.relative_to(folder)}", path.read_bytes())


def copies(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_url_is_read_as_a_folder_is_and_its_shards_once(tmp_path: Path, bucket: Any, cache: Path) -> None:
    local = Dataset(write_small(tmp_path / "d"))
    put(bucket, tmp_path / "d")
    assert read_manifest(URL) == local.manifest
    assert copies(cache) == [], "a manifest is read without the shards"
    for in_memory in (True, False):
        remote = Dataset(f"{URL}/", in_memory=in_memory)
        assert remote.path == URL
        assert torch.equal(remote[torch.arange(25)].values["x"], local[torch.arange(25)].values["x"])
        assert [remote.key(row) for row in (0, 24)] == ["row0", "row24"]
        bucket.rm("/bucket/circle/shards", recursive=True) if in_memory else None  # they are not needed again
    assert copies(cache) == ["00000.safetensors", "00001.safetensors", "00002.safetensors", "manifest.json"]

    bucket.store.clear()
    put(bucket, write_small(tmp_path / "other", first=100))
    assert Dataset(URL)[torch.tensor([0])].values["x"].tolist() == [[100, 101]]


def test_a_damaged_shard_is_refused_and_what_was_fetched_is_kept(tmp_path: Path, bucket: Any, cache: Path) -> None:
    put(bucket, write_small(tmp_path / "d"))
    whole = bucket.cat_file("/bucket/circle/shards/00001.safetensors")
    for wrong, words in ((b"x" * len(whole), "its checksum differs"), (whole[:-1], "its checksum differs")):
        bucket.pipe_file("/bucket/circle/shards/00001.safetensors", wrong)
        with pytest.raises(InputError, match=f"circle/shards/00001.safetensors: .*{words}.*run the same command again"):
            Dataset(URL)
        assert copies(cache) == ["00000.safetensors"]
    kept = next(cache.rglob("00000.safetensors"))
    before = kept.stat().st_mtime_ns
    (kept.parent / ".00001.safetensors.abc.tmp").write_bytes(b"what a killed process leaves behind")
    bucket.pipe_file("/bucket/circle/shards/00001.safetensors", whole)
    assert len(Dataset(URL)) == 25
    assert kept.stat().st_mtime_ns == before and not list(cache.rglob("*.tmp"))
    kept.write_bytes(b"cut")
    assert len(Dataset(URL)) == 25, "a copy that was cut short is fetched again"


def test_several_processes_fetch_once_and_local_paths_need_no_fsspec(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "d")
    program = (
        "import logging, sys\nfrom modalkit import Dataset\nlogging.basicConfig(level=logging.INFO)\n"
        "Dataset(sys.argv[1])\nassert 'fsspec' not in sys.modules\nprint(len(Dataset(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, str(folder), f"file://{folder}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": os.environ}
    done = [process.communicate() for process in [subprocess.Popen(command, **pipes) for _ in range(2)]]
    assert [out for out, _ in done] == ["25\n", "25\n"], done
    assert sum("fetching 3 shards" in err for _, err in done) == 1


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and lets nobody see what is below /secret."""

    def do_GET(self) -> None:
        if self.path.startswith("/secret"):
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    pytest.importorskip("aiohttp")
    folder = tmp_path / "web"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def test_every_command_takes_a_url(tmp_path: Path, web: tuple[str, Path], cache: Path) -> None:
    address, folder = web
    data = write_circle(folder)
    url = f"{address}/circle"
    recipe = write_recipe(tmp_path, Path("elsewhere"))
    asked = ("--set", f"data.path={url}", "--set", "train.max_steps=3")
    checked = here("validate", recipe, *asked, cwd=tmp_path)
    assert f"fits {url}" in checked.stdout, checked.stderr
    assert copies(cache) == []
    trained = here("train", recipe, *asked, "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert f"training rows of {url}" in trained.stderr and "fetching 1 shards" in trained.stderr
    assert url in (tmp_path / "run/recipe.yaml").read_text()
    again = here("train", "run", cwd=tmp_path)
    assert again.returncode == 0 and "already complete" in again.stderr and "fetching" not in again.stderr
    for dataset in ((), ("--trust",), ("--data", url), ("--data", data)):
        question = ("--targets", "class", "--given", "position", "--particles", 5)
        answer = here("evaluate", "run", *question, *dataset, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
    shown = here("inspect", url, "--verify", cwd=tmp_path)
    assert f"{url}: 120 rows" in shown.stdout and (tmp_path / "sheet.png").exists(), shown.stderr
    local = here(
        "train", recipe, "--set", f"data.path={data}", "--set", "train.max_steps=3", "--out", "b", cwd=tmp_path
    )
    assert local.returncode == 0
    weights = [(tmp_path / run / "checkpoints/best.safetensors").read_bytes() for run in ("run", "b")]
    assert weights[0] == weights[1]


def test_what_cannot_be_read_says_what_to_do(
    tmp_path: Path, web: tuple[str, Path], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = web
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    write_small(folder / "cut")
    shutil.rmtree(folder / "cut/shards")
    for url, words in {
        "memory://bucket/nowhere": r"memory://bucket/nowhere/manifest\.json: there is no such file",
        f"{address}/nowhere": "there is no such file",
        f"{address}/secret": "access is refused; set the credentials",
        f"{address}/cut": r"cut/shards/00000\.safetensors: there is no such file",
        "http://127.0.0.1:1/x": "cannot be read",
        "s3://bucket/x": "pip install s3fs",
        "gs://bucket/x": "pip install gcsfs",
        "nonsense://bucket/x": "Protocol not known: nonsense",
    }.items():
        with pytest.raises(InputError, match=words):
            Dataset(url)
    (folder / "manifest.json").write_text("<html>")
    with pytest.raises(InputError, match=rf"{address}/manifest\.json: cannot be read"):
        read_manifest(address)


def test_datasets_are_written_to_folders(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="must be a folder; write there, and copy it"):
        write_small("s3://bucket/x")  # type: ignore[arg-type]
    refused = here("build-dataset", "sample-faces", "--out", "s3://bucket/x", "--count", 1, cwd=tmp_path)
    assert refused.returncode == 2 and "must be a folder" in refused.stderr
    assert not list(tmp_path.iterdir())
    cache.write_text("a file in the way")
    fsspec.filesystem("file").cp(str(write_small(tmp_path / "d")), str(tmp_path / "e"), recursive=True)
    with pytest.raises(RunError, match="choose another one with MODALKIT_CACHE"):
        Dataset(f"file://{tmp_path / 'e'}")
