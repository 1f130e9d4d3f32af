"""Download datasets from object storage into a local cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from modalkit.data.manifest import Manifest, ShardFacts, parse_manifest
from modalkit.errors import InputError, RunError
from modalkit.util.files import remove_leftovers, write_atomic, write_text
from modalkit.util.progress import bar
from modalkit.util.remote import download, read

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the cache folder: ``MODALKIT_CACHE``, or ``modalkit`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("MODALKIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modalkit"


def fetch(url: str) -> Path:
    """Download the dataset at a URL, unless it is in the cache already, and return its local folder.

    Each shard is compared with its checksum. The folder's name is the digest of the manifest, and the manifest has the
    digests of all shards. The content of a folder therefore never changes: a dataset that changes at its URL gets
    another folder, and a dataset at two URLs is downloaded once. Several processes may call this at the same time. A
    download that was killed resumes with the next shard.

    Args:
        url: URL of the dataset, such as ``s3://bucket/faces``.

    Raises:
        InputError: the dataset cannot be read, or a shard differs from the manifest.
        RunError: the disk is full, or the cache folder cannot be created.
    """
    raw = read(f"{url}/manifest.json")
    manifest = parse_manifest(raw, f"{url}/manifest.json")
    folder = cache_folder() / "datasets" / hashlib.sha256(raw).hexdigest()[:32]
    if (folder / "manifest.json").exists() and not _missing(folder, manifest):
        return folder
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot create this folder ({error.strerror}); choose another one with MODALKIT_CACHE"
        ) from error
    with _alone(folder):
        remove_leftovers(folder, folder / "shards")
        missing = _missing(folder, manifest)
        total = sum(shard.bytes for shard in manifest.shards)
        there = total - sum(shard.bytes for shard in missing)
        if missing:
            _log.info(f"{url}: fetching {len(missing)} shards into {folder}")
        with bar(total, "fetched", unit="B", unit_scale=True, initial=there, disable=not missing) as progress:
            for shard in missing:
                source = f"{url}/shards/{shard.file}"
                write_atomic(folder / "shards" / shard.file, partial(_fetch_shard, source, shard, progress.update))
        write_text(folder / "manifest.json", raw.decode())
    return folder


def _missing(folder: Path, manifest: Manifest) -> list[ShardFacts]:
    """Return the shards that are missing or incomplete in `folder`."""
    sizes = {path.name: path.stat().st_size for path in (folder / "shards").glob("*.safetensors")}
    return [shard for shard in manifest.shards if sizes.get(shard.file) != shard.bytes]


def _fetch_shard(url: str, shard: ShardFacts, progress: Callable[[int], object], target: Path) -> None:
    """Download a shard to `target` and compare its checksum with the manifest."""
    download(url, target, progress)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            raise InputError(
                f"{url}: its checksum differs from the one in manifest.json: the dataset there is damaged, or is being "
                f"changed; copy it there again, and run the same command again"
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder; first wait for any other process that downloads into it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info(f"{folder}: waiting for another process that fetches this dataset")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
