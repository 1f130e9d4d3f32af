"""Local copies of datasets that lie in object storage."""

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
    """Return where copies are kept: ``MODALKIT_CACHE``, or ``modalkit`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("MODALKIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modalkit"


def fetch(url: str) -> Path:
    """Return a folder with the dataset that is at a URL now, its shards compared with their checksums.

    The folder is named by the manifest's digest, and the manifest has the digests of all else: what is in it never
    changes, a dataset that changed at its URL gets another folder, and one that lies at two URLs is fetched once.
    Several processes may call this at once; killed, it goes on with the next shard.

    Args:
        url: the dataset's, such as ``s3://bucket/faces``.

    Raises:
        InputError: it cannot be read, or a shard is not what the manifest says.
        RunError: the disk is full.
    """
    raw = read(f"{url}/manifest.json")
    manifest = parse_manifest(raw, f"{url}/manifest.json")
    folder = cache_folder() / "datasets" / hashlib.sha256(raw).hexdigest()[:32]
    if (folder / "manifest.json").exists() and not _missing(folder, manifest):
        return folder
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make this folder ({error.strerror}); MODALKIT_CACHE names another") from error
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
    """Return the shards that are not in `folder`, or were cut short there."""
    sizes = {path.name: path.stat().st_size for path in (folder / "shards").glob("*.safetensors")}
    return [shard for shard in manifest.shards if sizes.get(shard.file) != shard.bytes]


def _fetch_shard(url: str, shard: ShardFacts, progress: Callable[[int], object], target: Path) -> None:
    """Copy a shard to `target` and compare it with the manifest."""
    download(url, target, progress)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            raise InputError(
                f"{url}: is not the file that its manifest.json tells of (its checksum differs): the dataset there is "
                f"damaged, or is being changed; copy it there again, and run the same command again"
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder; wait for another process that does, whose copy is then there to be used."""
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
