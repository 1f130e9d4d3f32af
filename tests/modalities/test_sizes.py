"""Sizes that cannot work are refused at once, before anything large is made."""

from __future__ import annotations

import pytest

from modalkit import registry
from modalkit.errors import InputError


def test_a_million_bands_are_refused() -> None:
    with pytest.raises(InputError, match="1000000 'mels' are too many"):
        registry.schema("audio", mels=1_000_000)
    assert registry.schema("audio", mels=64).event_shape[1] == 64


def test_a_long_alphabet_is_checked_in_linear_time() -> None:
    letters = "".join(map(chr, range(0x10000, 0x10000 + 200_000)))
    assert registry.schema("tokens", alphabet=letters, max_length=2).vocabulary == 200_002
    with pytest.raises(InputError, match="'b' stands in it twice"):
        registry.schema("tokens", alphabet="abcb", max_length=2)
