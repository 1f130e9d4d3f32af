"""Damaged files that once ended in a traceback are named in words. `fuzz.py` looks for more."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability.fuzz import examples, run

CASES = Path(__file__).parent / "corpus" / "cases.csv"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    logging.disable(logging.CRITICAL)
    try:
        with examples() as folder:
            yield folder
    finally:
        logging.disable(logging.NOTSET)


def cases() -> list[tuple[str, int]]:
    with CASES.open(newline="") as file:
        return [(line["format"], int(line["seed"])) for line in csv.DictReader(file)]


@pytest.mark.parametrize(("name", "seed"), cases())
def test_a_case_that_failed_once_is_named_in_words(name: str, seed: int, made: Path) -> None:
    outcome = run(name, seed, made)
    assert not outcome.fault, outcome.trace or outcome.fault
