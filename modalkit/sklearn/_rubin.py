"""Combining estimates from several imputed tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modalkit.sklearn._tables import TableError

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """An estimate from several imputed tables; its parts have the shape of one estimate.

    Attributes:
        estimate: the mean of the estimates.
        variance: its variance: `within + (1 + 1 / m) between`.
        within: the mean of the variances.
        between: the variance of the estimates over the m tables.
        df: degrees of freedom of the t distribution of `(estimate - true value) / sqrt(variance)`.
    """

    estimate: _Numbers
    variance: _Numbers
    within: _Numbers
    between: _Numbers
    df: _Numbers

    def interval(self, level: float = 0.95) -> tuple[_Numbers, _Numbers]:
        """Return the lower and the upper end of the confidence interval.

        Args:
            level: in (0, 1).

        Raises:
            InputError: the level is not in (0, 1).
        """
        from scipy.stats import t

        if not 0 < level < 1:
            raise TableError(f"level: should be in (0, 1), got {level}")
        half = t.ppf((1 + level) / 2, self.df) * np.sqrt(self.variance)
        return self.estimate - half, self.estimate + half


def pool(estimates: Any, variances: Any, *, df: float = math.inf) -> Pooled:
    r"""Combine estimates from several imputed tables by Rubin's rules.

    With m estimates :math:`q_i` and their variances :math:`u_i`, the variance of the mean estimate is
    :math:`T = \bar u + (1 + 1/m) b`, where :math:`b` is the variance of the :math:`q_i`.

    Args:
        estimates: one of each table, `(m, ...)`, m at least 2.
        variances: the squared standard error of each, the same shape.
        df: degrees of freedom that the estimate would have without missing cells, such as rows minus 1 for a mean.

    Raises:
        InputError: the shapes differ, there are fewer than two estimates, a variance is negative, or a number is not
            finite.

    Source:
        Rubin 1987, Multiple imputation for nonresponse in surveys, chapter 3; the degrees of freedom are those of
        Barnard & Rubin 1999, Small-sample degrees of freedom with multiple imputation.

    Example:
        >>> pooled = pool([1.0, 3.0], [0.5, 0.5])
        >>> float(pooled.estimate), float(pooled.variance)
        (2.0, 3.5)
    """
    found, squared = np.asarray(estimates, np.float64), np.asarray(variances, np.float64)
    if found.shape != squared.shape or not found.ndim:
        raise TableError(f"pool: the estimates have the shape {found.shape}, the variances {squared.shape}")
    m = len(found)
    if m < 2:
        raise TableError(f"pool: {m} estimate is too few; give those of two or more imputed tables")
    if not np.isfinite(found).all() or not np.isfinite(squared).all() or (squared < 0).any():
        raise TableError("pool: estimates and variances must be finite, and variances not negative")
    if not df > 0:
        raise TableError(f"df: should be above 0, got {df}")
    within, between = squared.mean(0), found.var(0, ddof=1)
    variance = within + (1 + 1 / m) * between
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(variance > 0, (1 + 1 / m) * between / variance, 0.0)  # of the variance due to missing cells
        old = (m - 1) / share**2
        observed = np.inf if math.isinf(df) else (df + 1) / (df + 3) * df * (1 - share)
        pooled_df = 1 / (1 / old + 1 / observed)
    return Pooled(found.mean(0), variance, within, between, np.asarray(pooled_df))
