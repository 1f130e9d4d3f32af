"""Chunks of rows that fit memory, and the lock under which each is computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modalkit.data import Batch
from modalkit.data.reading import draw
from modalkit.model.vae import MultimodalVAE
from modalkit.util.randomness import generator

_NUMBERS = 1 << 23  # numbers of a modality in all draws and rows of a chunk: 32 MiB a tensor
_MOST_ROWS = 256

_lock = threading.RLock()
"""Held while a chunk is computed: some models store the condition of a chunk, likelihoods sample from torch's global
generator, and the memory of one chunk bounds the memory of all threads."""


def chunks(model: MultimodalVAE, batch: Batch, numbers: int, seed: int) -> Iterator[tuple[int, Batch]]:
    """Split a batch into chunks that fit memory; yield each with the index of its first row.

    Args:
        model: the model whose modalities the batch has.
        batch: the rows.
        numbers: how many numbers one row takes in the largest tensor.
        seed: seed of the values that a kind resamples (`Schema.draw`).
    """
    size = max(1, min(_MOST_ROWS, _NUMBERS // numbers))
    for start in range(0, len(batch), size):
        part = batch.part(slice(start, start + size))
        yield start, draw(part, model.schemas, generator(seed, "given", start))


@contextmanager
def computing(model: MultimodalVAE, seed: int) -> Iterator[None]:
    """Hold the lock, compute no gradients, and seed torch's global generator, whose state is restored afterwards."""
    device = model.device
    with _lock, torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
