"""The value that stands for a likelihood, and its mean and variance, by what its kind declares."""

from __future__ import annotations

from typing import Any

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
