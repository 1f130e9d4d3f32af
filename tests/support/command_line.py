"""The command line in a process of its own, and packages as pip would lay them out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def modalkit(*arguments: object, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "modalkit", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def install(folder: Path, name: str, kinds: dict[str, str], modules: dict[str, str]) -> Path:
    """Lay out a distribution as pip would: its modules, and metadata with its entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"{kind} = {value}\n" for kind, value in kinds.items())
    (info / "entry_points.txt").write_text(f"[modalkit.modalities]\n{points}")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder
