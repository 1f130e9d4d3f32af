"""Rows of a batch: choosing them, and putting results for some rows back among all."""

from __future__ import annotations

import torch
from torch import Tensor

from modalkit.distributions import Gaussian
from modalkit.nn.precise import bounded_log


def gaussian(head: Tensor) -> Gaussian:
    """Return the Gaussian that a head describes; its log-variances are bounded by `bounded_log`.

    Args:
        head: mean and log-variance side by side, `(rows, 2 * latent_dim)`.
    """
    loc, log_variance = full(head).chunk(2, -1)
    return Gaussian(loc, (-bounded_log(log_variance)).exp())


def full(tensor: Tensor) -> Tensor:
    """Convert reduced precision to float32: a sum of thousands of log-likelihoods needs its digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]``, without a copy if these are all rows.

    Args:
        values: `(all rows, ...)`.
        rows: sorted, distinct indices, on the CPU.
    """
    return values if len(rows) == len(values) else values.index_select(0, rows.to(values.device, non_blocking=True))


def of_rows(observed: Tensor, present: Tensor, rows: Tensor) -> Tensor:
    """Return the samples of some rows, out of the samples of all rows in which a modality is present.

    Args:
        observed: `(rows in which it is present, *event_shape)`.
        present: bool `(batch,)`, on the CPU.
        rows: sorted, distinct indices in the batch, all of rows in which it is present; on the CPU.
    """
    return take(observed, present.long().cumsum(0)[rows] - 1)


def spread(rows_of: Tensor, rows: Tensor, batch: int) -> Tensor:
    """Put the values of some rows at their places in a batch, and zeros elsewhere.

    Args:
        rows_of: `(rows, ...)`.
        rows: the indices of these rows in the batch, int64 `(rows,)`, on the CPU.
        batch: number of rows of the result.

    Returns:
        `(batch, ...)`.
    """
    if len(rows) == batch:
        return rows_of
    return rows_of.new_zeros(batch, *rows_of.shape[1:]).index_copy(
        0, rows.to(rows_of.device, non_blocking=True), rows_of
    )
