"""A report of weights that are NaN is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.linear import linear_run

from modalkit.errors import InputError
from modalkit.report.run import report
from modalkit.runs.checkpoint import save_weights


def test_weights_that_are_nan_are_named(tmp_path: Path) -> None:
    made = linear_run(tmp_path, experts=False)
    model = made.model.float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    save_weights(made.folder.best, model)
    with pytest.raises(InputError, match=r"best\.safetensors: these weights are NaN or infinite, first in encoders"):
        report(made.path)
