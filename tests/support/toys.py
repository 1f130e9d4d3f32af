"""A small dataset of a point on a circle seen in four ways, with missing entries, and recipes for it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import torch
from typer.testing import CliRunner

import modalkit
from modalkit import registry
from modalkit.cli import app

RECIPE = """\
# modalkit train circle.yaml
description: A point on a circle, seen four ways
data: {path: DATA}
modalities:
  image:
    {kind: image, size: 12, channels: 1, network: {type: dcgan, widths: [4, 8], batch_norm: true, dropout: 0.2}}
  position: {kind: vector, size: 2, network: {type: mlp, hidden: [16], decoder_hidden: [16]}}
  class: {kind: label, classes: 3, network: {type: mlp, hidden: [16], decoder_hidden: [16]}}
  counts: {kind: counts, size: 2, network: {type: mlp, hidden: [16], decoder_hidden: [16]}}
model: {latent_dim: 4}
objective: {warmup_epochs: 1}
train: {epochs: 3, batch_size: 16, learning_rate: 0.003, accelerator: cpu, checkpoint_every: 3, log_every: 2}
"""


def write_circle(folder: Path, rows: int = 120) -> Path:
    """Write the dataset into `folder` and return its path."""
    g = torch.Generator().manual_seed(0)
    angle = torch.rand(rows, generator=g) * 6.28
    position = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(rows, 2, generator=g)
    grid = torch.linspace(-1.4, 1.4, 12)
    near = (grid[None, None, :] - position[:, 0, None, None]) ** 2 + (
        grid[None, :, None] - position[:, 1, None, None]
    ) ** 2
    path = folder / "circle"
    modalkit.write_dataset(
        path,
        {
            "image": modalkit.schema("image", size=12, channels=1),
            "position": modalkit.schema("vector", size=2),
            "class": modalkit.schema("label", classes=3),
            "counts": modalkit.schema("counts", size=2),
        },
        {
            "image": torch.exp(-4 * near)[:, None],
            "position": position,
            "class": (angle // 2.1).long().clamp(max=2),
            "counts": torch.poisson(4 + 3 * position.clamp(-1, 1), generator=g).long(),
        },
        present={"class": torch.rand(rows, generator=g) < 0.7, "image": torch.rand(rows, generator=g) < 0.9},
    )
    return path


def write_recipe(folder: Path, data: Path) -> Path:
    """Write the dataset's recipe into `folder` and return its path."""
    path = folder / "circle.yaml"
    path.write_text(RECIPE.replace("DATA", str(data)))
    return path


def overrides(*changes: str) -> list[str]:
    """Return `KEY=VALUE` as arguments of the command line."""
    return [word for change in changes for word in ("--set", change)]


def train_circle(work: Path, run: str, *changes: str) -> str:
    """Train `circle.yaml` of a folder with changes, and return what the command printed."""
    done = here("train", "circle.yaml", "--out", run, *overrides(*changes), cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def installed(folder: Path | None) -> Iterator[None]:
    """Let this process find the distributions in a folder, as `support.command_line.install` lays them out."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    registry.refresh()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
        registry.refresh()
        registry.forget_files()


def here(*arguments: object, cwd: Path, path: Path | None = None) -> CompletedProcess[str]:
    """Run the command line in this process, which has paid for its imports; raise what it does not catch.

    Plugins of files are forgotten before and after the command, as a new process would not know them.

    Args:
        arguments: what a user types behind `modalkit`.
        cwd: the folder to run in.
        path: a folder of distributions that count as installed.
    """
    given = [str(argument) for argument in arguments]
    registry.forget_files()
    try:
        with contextlib.chdir(cwd), installed(path):
            done = CliRunner().invoke(app, given)
    finally:
        registry.forget_files()
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return CompletedProcess(given, done.exit_code, done.stdout, done.stderr)
