"""Whether two runs, or two folders, are the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def same_run(one: Path, other: Path) -> None:
    """Assert that two runs of a recipe have the same weights, state and translations, to the bit."""
    for name in ("state.pt", "refit.pt"):
        files = [run / "checkpoints" / name for run in (one, other)]
        assert files[0].exists() == files[1].exists(), name
        if not files[0].exists():
            continue
        a, b = (torch.load(file, weights_only=True) for file in files)
        assert a["progress"] == b["progress"]
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
        for index, state in a["optimizer"]["state"].items():
            assert all(torch.equal(value, b["optimizer"]["state"][index][k]) for k, value in state.items())
    for name in ("best.safetensors", "last.safetensors"):
        x, y = load_file(one / "checkpoints" / name), load_file(other / "checkpoints" / name)
        assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    assert json.loads((one / "translations.json").read_text()) == json.loads((other / "translations.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder but its locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
