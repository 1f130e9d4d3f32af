"""Digits for where MNIST's files are not: the 1,797 that scikit-learn ships, in the form of MNIST's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalkit.errors import InputError, install

from .idx import SIDE

if TYPE_CHECKING:
    from modalkit.data import Rows

TRAIN, VALID, TEST = 1257, 180, 360
"""The first rows train, the next validate, the last test."""
_BOX = 20
"""Side of the square in which MNIST's digits lie, in pixels."""


def load_small() -> Rows:
    """Return scikit-learn's digits, enlarged from 8 x 8 pixels into the middle of 28 x 28.

    Returns:
        `image`, uint8 `(1797, 1, 28, 28)`, and `label`, int64 `(1797,)` in 0 to 9.

    Raises:
        InputError: scikit-learn is not installed.
    """
    import cv2
    import numpy as np

    from modalkit.data import Rows

    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise InputError(f"digits: scikit-learn is not installed; {install('sklearn')} brings it") from None
    found = load_digits()
    bright = (found.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8), of intensities from 0 to 16
    images = np.zeros((len(bright), 1, SIDE, SIDE), np.uint8)
    start = (SIDE - _BOX) // 2
    for image, small in zip(images, bright, strict=True):
        large = cv2.resize(small, (_BOX, _BOX), interpolation=cv2.INTER_LINEAR)
        image[0, start : start + _BOX, start : start + _BOX] = large
    return Rows(
        {"image": images, "label": found.target.astype(np.int64)},
        {name: np.ones(len(images), bool) for name in ("image", "label")},
        np.repeat(np.array([0, 1, 2], np.uint8), [TRAIN, VALID, TEST]),
        [f"digit/{i:04d}" for i in range(len(images))],
    )
