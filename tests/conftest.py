from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts compiles all of modalkit again


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the reliability tests be told how long to try."""
    parser.addoption("--kills", type=int, default=10, help="how often each test with -m reliability stops its work")


@pytest.fixture(scope="session", autouse=True)
def own_record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests allow to run out of the record of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALKIT_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that MODALKIT_DATA names; a test that needs it skips without."""
    folder = os.environ.get("MODALKIT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MODALKIT_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave writing to the operating system: no test takes the power away, and a busy disk takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
