"""Where decoders start at the average, what a trained model draws from its prior looks like data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.toys import here

import modalkit

RECIPE = """\
data: {path: stars}
modalities:
  picture: {kind: image, size: 16, channels: 1, network: &small {type: mlp, hidden: [128], decoder_hidden: [128]}}
  negative: {kind: image, size: 16, channels: 1, network: *small}
model: {latent_dim: 8, centered: true}
objective: {k: 0, targets: present, warmup_epochs: 1}
train: {epochs: 10, batch_size: 50, learning_rate: 2e-3, pictures_every: 0, loggers: []}
"""


def alike(pictures: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return each picture's correlation with the mean one."""
    return torch.corrcoef(torch.cat([mean[None], pictures]).flatten(1))[0, 1:]


@pytest.mark.parametrize("present", [1.0, 0.5])
def test_draws_look_like_data(tmp_path: Path, present: float) -> None:
    """Of a model whose decoders are not centred, over half correlate less with the average than any row does."""
    g = torch.Generator().manual_seed(0)
    width, height = 0.3 + 0.4 * torch.rand(2, 1000, 1, 1, generator=g)
    grid = torch.linspace(-1.5, 1.5, 16)
    stars = torch.exp(-((grid / width) ** 2) - (grid[:, None] / height) ** 2).unsqueeze(1)
    schema = modalkit.schema("image", size=16, channels=1)
    values = {"picture": stars, "negative": 1 - stars}
    some = {"negative": torch.rand(1000, generator=g) < present}
    modalkit.write_dataset(tmp_path / "stars", dict.fromkeys(values, schema), values, present=some)
    (tmp_path / "stars.yaml").write_text(RECIPE)
    done = here("train", "stars.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = modalkit.load(tmp_path / "run").sample(64)
    for name, rows in values.items():
        least = alike(rows, rows.mean(0)).min()
        assert (alike(answer[name].value, rows.mean(0)) >= least).double().mean() >= 0.95, name
