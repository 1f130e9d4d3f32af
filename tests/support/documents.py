"""Runs what the documents in docs/ show, in order, as a reader would."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.toys import here

from modalkit import registry

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def shown_file(document: str, title: str) -> str:
    """Return the file that a document shows under this title."""
    return next(text for _, name, text in BLOCK.findall((DOCS / document).read_text("utf-8")) if name == title)


def follow(document: str, folder: Path, smaller: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Write, in `folder`, every file that has a title, type every command, and run the Python; return its names.

    What a ``console`` block shows below a command, or a ``text`` block below Python, must be in what that printed, in
    this order; … stands for anything.

    Args:
        document: its path in docs/.
        folder: an empty one.
        smaller: options that are added to the commands that begin so.
    """
    names: dict[str, Any] = {"__name__": "document"}
    said = ""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            for language, title, text in BLOCK.findall((DOCS / document).read_text("utf-8")):
                if title:
                    Path(title).write_text(text, "utf-8")
                elif language == "python":
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        exec(compile(text, document, "exec"), names)
                    said = printed.getvalue()
                elif language == "text":
                    check(text, said)
                elif language == "console":
                    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                        check(output, typed(command, smaller or {}))
    finally:
        sys.path.remove(str(folder))
        registry.forget_files()
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
    return names


def typed(command: str, smaller: Mapping[str, Sequence[str]]) -> str:
    """Run one command in the current folder and return what it said."""
    added = [option for begin, options in smaller.items() if command.startswith(begin) for option in options]
    program, *words = shlex.split(command, comments=True)
    if program == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(*words, run_name="__main__")
        return printed.getvalue()
    assert program == "modalkit", command
    file = words[-1] if words[-2:-1] == [">"] else None
    done = here(*(words[:-2] if file else words), *added, cwd=Path())
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    if file:
        Path(file).write_text(done.stdout, "utf-8")
    return done.stdout + done.stderr


def check(expected: str, said: str) -> None:
    """Compare but for the spaces between words."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("…"))
    assert re.search(pattern, " ".join(said.split())), f"expected:\n{expected}\nsaid:\n{said}"
