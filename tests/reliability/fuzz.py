"""Damage files at random, and check that reading them ends in a valid object or in an error in words.

    python tests/reliability/fuzz.py --cases 1000                       # of each format, 10 to 20 minutes
    python tests/reliability/fuzz.py --cases 200 --only manifest,shard
    python tests/reliability/fuzz.py --only shard --first 17 --cases 1  # one case again, with its traceback

A case is a format and a seed. It fails if it ends in anything but a value, `InputError` or `RunError`, if it takes more
than 10 seconds, or if it takes more than 1 GB of memory. The exit status is 1 if any case fails. Once its fault is
mended, a case that failed belongs into corpus/cases.csv, which test_corpus.py replays.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability.formats import FORMATS

from modalkit.errors import InputError, RunError

SECONDS, BYTES = 10.0, 1 << 30


class TooLongError(BaseException):
    """A case has taken its time; no code under test catches it."""


@dataclass
class Outcome:
    """How a case ended.

    Attributes:
        fault: what is wrong with that, in a line; empty if nothing is.
        said: the error's message; empty if reading succeeded.
        what: what was damaged.
        trace: the traceback of a fault.
    """

    fault: str = ""
    said: str = ""
    what: str = ""
    trace: str = field(default="", repr=False)


@contextlib.contextmanager
def examples() -> Iterator[Path]:
    """Make a folder for the examples of formats, which are made when they are first needed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(name: str, seed: int, examples: Path) -> Outcome:
    """Run one case; the same format and seed damage the same file in the same way."""
    one, whole = FORMATS[name], examples / name
    if not whole.exists():
        whole.mkdir()
        with _quiet():
            one.make(whole)
            with tempfile.TemporaryDirectory() as place:  # the undamaged example must be accepted
                one.read(Path(shutil.copytree(whole, Path(place, "case"))))
    chance = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "case")
        shutil.copytree(whole, folder)
        outcome = Outcome(what=one.damage(folder, chance))
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            with _limit(), _quiet():
                one.read(folder)
        except (InputError, RunError) as error:
            outcome.said = str(error)
        except (Exception, TooLongError) as error:
            outcome.fault = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            outcome.trace = traceback.format_exc()
        seconds, grown = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if seconds > SECONDS or grown << 10 > BYTES:
        outcome.fault = outcome.fault or f"took {seconds:.1f} s and {grown >> 10} MiB"
    return outcome


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place(outcome: Outcome) -> str:
    """Return the type of a fault's error and the last line of the project's own code that it passed."""
    lines = (line.strip() for line in outcome.trace.splitlines())
    own = [line for line in lines if "/modalkit/" in line or "/tools/" in line]
    return f"{outcome.fault.split(':')[0]} {own[-1] if own else ''}"


def main() -> int:
    """Run the cases that the command line asks for, and print those that fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="of each format")
    parser.add_argument("--only", help=f"formats, separated by commas, of {', '.join(FORMATS)}")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    failed = 0
    with examples() as folder:
        for name in asked.only.split(",") if asked.only else FORMATS:
            began, ended, kinds = time.monotonic(), Counter[str](), Counter[str]()
            for seed in range(asked.first, asked.first + asked.cases):
                outcome = run(name, seed, folder)
                ended["fault" if outcome.fault else "error" if outcome.said else "valid"] += 1
                if outcome.fault:
                    where = [
                        line.strip() for line in outcome.trace.splitlines() if "/modalkit/" in line or "/tools/" in line
                    ]
                    place = f"{outcome.fault.split(':')[0]} {where[-1] if where else ''}"
                    kinds[place] += 1
                    if kinds[place] == 1:  # the first of a kind is shown
                        print(f"FAULT {name},{seed},{outcome.what}: {outcome.fault}\n   {place}", flush=True)
                        if asked.cases == 1:
                            print(outcome.trace)
                elif asked.cases == 1:
                    print(outcome.said or "valid")
            failed += ended["fault"]
            seconds = time.monotonic() - began
            print(f"{name}: {asked.cases} cases in {seconds:.0f} s: {dict(ended)}", flush=True)
            for place, count in kinds.most_common():
                print(f"  {count} times {place}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
