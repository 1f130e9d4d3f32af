"""The mean of a figure over rows, and how certain it is."""

from __future__ import annotations

import math

from torch import Tensor

from modalkit.plugin import Figure


def mean_and_error(values: Tensor) -> Figure:
    """Return the mean and its standard error over the values that are not NaN; NaN where there are too few.

    >>> import torch
    >>> mean_and_error(torch.tensor([1.0, 3.0, torch.nan]))
    (2.0, 1.0)
    """
    kept = values[~values.isnan()]
    error = float(kept.std() / len(kept) ** 0.5) if len(kept) > 1 else math.nan
    return (float(kept.mean()) if len(kept) else math.nan), error
