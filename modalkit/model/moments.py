"""The value that stands for a likelihood, and its mean and variance, by what its kind declares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modalkit.plugin import Outcome


def point(outcome: Outcome, likelihood: Any, floating: bool) -> Tensor:
    """Return the value that stands for each likelihood, `(rows, *event_shape)`: its mean, or its mode.

    Counts are represented by their mean, rounded to whole numbers. The mode would be far too low where a likelihood is
    skewed: a negative binomial with mean 50 and total count 0.9 has the mode 0.

    Args:
        outcome: what the kind declares.
        likelihood: p(x_m|z), a distribution over `rows` samples.
        floating: whether the kind's values are floats.
    """
    if floating:
        mean: Tensor = likelihood.mean
        return mean
    if outcome is Outcome.COUNT:
        try:
            return whole(likelihood.mean)
        except NotImplementedError:
            pass
    mode: Tensor = likelihood.mode
    return mode


def whole(mean: Tensor) -> Tensor:
    """Return the nearest whole numbers, int64."""
    return mean.round().long()


def most_frequent(points: Tensor) -> Tensor:
    """Return the most frequent whole sample of each row, `(rows, *event_shape)`.

    It is one of the samples, so that it is valid if they are: a vote at each place could put a character after the end
    of a text. Of equally frequent samples, the one is returned whose places agree with most of the others.

    Args:
        points: integers, `(draws, rows, *event_shape)`.

    Example:
        >>> most_frequent(torch.tensor([[[1, 2]], [[3, 4]], [[3, 9]], [[3, 9]]])).tolist()
        [[3, 9]]
    """
    draws, rows = points.shape[:2]
    if len(points) == 1:
        return points[0]
    flat = points.reshape(draws * rows, -1)  # (draws, rows, *event_shape) -> (draws * rows, places)
    row = torch.arange(rows, device=points.device).repeat(draws)  # (draws * rows,)
    samples = torch.unique(flat, dim=0, return_inverse=True)[1]  # (draws * rows,): equal samples have the same number
    tokens = torch.unique(flat, return_inverse=True)[1]  # (draws * rows, places)
    cells = (row.unsqueeze(1) * flat.shape[1] + torch.arange(flat.shape[1], device=flat.device)) * flat.numel() + tokens
    score = _frequency(row * len(flat) + samples) * (flat.numel() + 1) + _frequency(cells).sum(1)
    score, samples = score.reshape(draws, rows), samples.reshape(draws, rows)
    best = samples.masked_fill(score < score.amax(0), len(flat)).argmin(0)  # the same in any order of the draws
    return points[best, torch.arange(rows, device=points.device)]


def _frequency(keys: Tensor) -> Tensor:
    """Return how often each number occurs, in the shape of `keys`."""
    inverse: Tensor
    counts: Tensor
    _, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return counts[inverse]


def moments(outcome: Outcome, likelihood: Any, floating: bool) -> tuple[Tensor, Tensor] | None:
    """Return the mean and variance of each likelihood, `(rows, *event_shape)` each, or None if it has none.

    A Categorical has the mean NaN. It occurs here if an integer kind does not declare its outcome.

    Args:
        outcome: what the kind declares; only numbers have moments.
        likelihood: p(x_m|z), a distribution over `rows` samples.
        floating: whether the kind's values are floats.
    """
    if outcome.is_one_of_several or outcome is Outcome.SEQUENCE:
        return None
    try:
        mean, variance = likelihood.mean, likelihood.variance
    except (NotImplementedError, AttributeError):
        return None
    return (mean, variance) if floating or not bool(mean.isnan().any()) else None
