"""Numbers that stay finite and keep their digits: smooth bounds, and more precision where it is needed."""

from __future__ import annotations

from torch import Tensor


def smoothly_bounded(x: Tensor, ordinary: float, most: float) -> Tensor:
    r"""Return numbers within (-most, most); those within [-ordinary, ordinary] are returned as they are.

    Beyond, the result is :math:`\pm (o + w u / (1 + u))` with :math:`o` = `ordinary`, :math:`w` = `most - ordinary` and
    :math:`u = (|x| - o) / w`. Its slope is 1 at :math:`o` and nowhere 0, so that training can return.

    Args:
        x: finite numbers of any shape.
        ordinary: at least 0.
        most: above `ordinary`.

    >>> import torch
    >>> smoothly_bounded(torch.tensor([-1.5, 5.0, 6.0, -1e6]), 5.0, 6.0)
    tensor([-1.5000,  5.0000,  5.5000, -6.0000])
    """
    inside = x.clamp(-ordinary, ordinary)
    width = most - ordinary
    beyond = (x - inside) / width
    return inside + width * beyond / (1 + beyond.abs())


def bounded_log(x: Tensor) -> Tensor:
    """Return logarithms of variances or scales within (-32, 32), so that their exponentials and inverses stay finite.

    Numbers within [-16, 16] are returned as they are; see `smoothly_bounded`.

    Args:
        x: finite numbers of any shape.

    >>> import torch
    >>> bounded_log(torch.tensor([-1.5, 16.0, 32.0, -1e6]))
    tensor([ -1.5000,  16.0000,  24.0000, -31.9997])
    """
    return smoothly_bounded(x, 16.0, 32.0)


def precise(x: Tensor) -> Tensor:
    """Return a tensor in float64; unchanged on Apple's GPUs, which do not have it."""
    return x if x.device.type == "mps" else x.double()
