"""Stateless randomness: all random numbers are a function of (seed, purpose, step), never of what ran before.

Therefore a run that was killed and resumed ends with the same weights as a run that never stopped.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed that depends on all arguments and nothing else.

    Args:
        seed: the run's seed.
        purpose: what is sampled, such as ``"noise"``; different purposes are independent.
        index: numbers that tell samples of one purpose apart, such as the step.

    Example:
        >>> derived_seed(0, "noise", 3) == derived_seed(0, "noise", 3) != derived_seed(0, "order", 3)
        True
    """
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded by `derived_seed`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *index))
