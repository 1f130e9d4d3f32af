"""What a figure is over rows, and how certain it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
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


def median_and_error(values: Tensor) -> Figure:
    r"""Return the median and its standard error over the values that are not NaN; NaN where there are too few.

    The standard error is half the distance between the order statistics at the ranks :math:`(n \pm \sqrt n) / 2`, each
    one further out so that it is not too small for few values. They are the ends of a confidence interval of 68 % or
    somewhat more for the median of any distribution.

    >>> import torch
    >>> median_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0, torch.nan]))
    (2.5, 1.5)
    """
    kept = values[~values.isnan()].double().sort().values
    count = len(kept)
    if not count:
        return math.nan, math.nan
    median = float(kept[(count - 1) // 2] + kept[count // 2]) / 2
    if count < 3:
        return median, math.nan
    lower = max(0, math.floor((count - math.sqrt(count)) / 2) - 1)
    return median, float(kept[count - 1 - lower] - kept[lower]) / 2


def jackknife(statistic: Callable[[Tensor], float], groups: int) -> Figure:
    r"""Return a statistic and its standard error, for statistics that are no means over rows.

    The error is that of the jackknife which leaves out a group of rows at a time,
    :math:`\sqrt{\frac{g-1}{g} \sum_i (\theta_i - \bar\theta)^2}`; NaN for fewer than two groups.

    Args:
        statistic: takes which groups count, float64 `(groups,)` of ones and zeros.
        groups: how many groups there are.

    Source:
        Efron & Stein 1981, "The jackknife estimate of variance".

    Example:
        >>> values = torch.tensor([1.0, 3.0], dtype=torch.double)
        >>> jackknife(lambda counts: float((counts * values).sum() / counts.sum()), 2)
        (2.0, 1.0)
    """
    whole = torch.ones(groups, dtype=torch.double)
    value = statistic(whole)
    if groups < 2:
        return value, math.nan
    without = torch.tensor([statistic(whole - left_out) for left_out in torch.eye(groups, dtype=torch.double)])
    return value, float(((groups - 1) * without.double().var(correction=0)).sqrt())
