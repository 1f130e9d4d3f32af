"""A predicted text is one whole text, valid by its kind, whatever the samples of z."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modalkit_modalities.tokens import Gru, Writer
from torch import Tensor, nn

from modalkit import registry
from modalkit.data import Batch
from modalkit.evaluation.measures import Measure
from modalkit.evaluation.predicted import expected
from modalkit.inference.filling import fill
from modalkit.inference.values import as_batch
from modalkit.model.moments import most_frequent
from modalkit.model.prediction import as_stored, predict
from modalkit.model.vae import MultimodalVAE

SCHEMA = registry.schema("tokens", alphabet="abc", max_length=3)
MODEL = MultimodalVAE({"word": SCHEMA.model_copy(update={"network": Gru(embedding=2, hidden=2)})}, 2).eval()


class Chooses(nn.Module):
    """Writes the text whose number is the first coordinate of z."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        read = registry.modality("tokens").read
        self.texts = torch.stack([read(SCHEMA, text) for text in texts])

    def forward(self, z: Tensor) -> Writer:
        texts = self.texts[z[:, 0].round().long().clamp(0, len(self.texts) - 1)]

        def step(z: Tensor, previous: Tensor, state: Any) -> tuple[Tensor, int]:
            here = state or 0
            tokens = texts[:, here : here + previous.shape[1]]
            return 30 * torch.nn.functional.one_hot(tokens, SCHEMA.vocabulary).to(z), here + previous.shape[1]

        return Writer(z, step)


def writing(texts: list[str]) -> MultimodalVAE:
    MODEL.decoders["word"] = Chooses(texts)
    return MODEL


def predicted(texts: list[str]) -> str:
    """Return the prediction if each draw of z writes one of the texts."""
    z = torch.zeros(len(texts), 1, 2)
    z[:, 0, 0] = torch.arange(len(texts))
    found = predict(writing(texts), "word", z, 0, noise=False)
    assert bool(SCHEMA.valid(as_stored(SCHEMA, found.value)).all())
    assert torch.equal(found.value.float(), expected(writing(texts), "word", z, Measure(SCHEMA)))
    return str(found.show())


@given(st.lists(st.text("abc", max_size=3), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_predicted_text_is_the_most_frequent_one(texts: list[str]) -> None:
    counts = Counter(texts)
    found = predicted(texts)
    assert counts[found] == max(counts.values())
    assert found == predicted(texts[::-1])  # the order of the draws does not matter


def test_a_vote_at_each_place_does_not_make_a_text() -> None:
    # Place by place, stop wins at the first place and c at the second: no text.
    assert predicted(["", "", "ac", "bc", "cc"]) == ""
    assert predicted(["a", "ab", "abc"]) == "ab"  # of equally frequent ones, the one that agrees with most


def test_a_filled_text_can_be_read_again() -> None:
    batch = Batch({"word": SCHEMA.zeros(2)}, torch.zeros(2, 1, dtype=torch.bool))
    for draws in (1, 2, 33):
        filled = fill(writing(["", "ac", "bc"]), batch, {}, sample=False, draws=draws, seed=0).batch
        again = as_batch({"word": SCHEMA}, {"word": filled.values["word"]})
        assert torch.equal(again.values["word"], filled.values["word"])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_samples_of_any_shape_are_counted_row_by_row(shape: tuple[int, ...]) -> None:
    points = torch.randint(0, 3, (9, 20, *shape), generator=torch.Generator().manual_seed(0))
    found = most_frequent(points)
    for row in range(20):
        counts = Counter(tuple(one.flatten().tolist()) for one in points[:, row])
        assert counts[tuple(found[row].flatten().tolist())] == max(counts.values())
    if not shape:
        assert torch.equal(most_frequent(points[:, :, None])[:, 0], found)
