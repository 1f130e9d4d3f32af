"""Built-in kinds: all keep the contract, and each does what it alone promises."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.distributions import NegativeBinomial, Poisson

import modalkit
from modalkit import registry
from modalkit.errors import InputError
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.centered import Centered
from modalkit.plugin import Modality, Schema
from modalkit.testing import check_modality

SMALL_MLP = {"type": "mlp", "hidden": [8], "decoder_hidden": [8]}
SMALL_DCGAN = {"type": "dcgan", "hidden": 8}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("image", {"size": 28, "channels": 1, "network": "mlp"}),
    ("image", {"size": 28, "channels": 1}),
    ("image", {"size": 50, "channels": 1}),
    ("image", {"size": 64}),
    ("image", {"size": 4, "network": SMALL_DCGAN}),
    ("image", {"size": [5, 31], "network": SMALL_DCGAN}),
    ("image", {"size": [45, 33], "network": SMALL_DCGAN}),
    ("image", {"size": 32, "channels": 2, "network": {"type": "dcgan", "widths": [4, 8], "batch_norm": False}}),
    ("image", {"size": 29, "network": {"type": "dcgan", "widths": [4, 8], "batch_norm": True, "dropout": 0.2}}),
    ("image", {"size": 1, "network": SMALL_MLP}),
    ("image", {"size": [3, 7], "network": SMALL_MLP | {"batch_norm": True}}),
    ("edges", {"size": 33, "network": SMALL_DCGAN}),
    ("landmarks", {"size": [9, 12], "network": "mlp"}),
    ("label", {"classes": 10}),
    ("label", {"names": ["cat", "dog"], "network": SMALL_MLP | {"batch_norm": True, "dropout": 0.1}}),
    ("tokens", {"alphabet": "0123456789", "max_length": 4}),
    ("tokens", {"alphabet": "a", "max_length": 1, "network": {"type": "gru", "embedding": 3, "hidden": 4}}),
    ("bit", {}),
    ("bit", {"network": SMALL_MLP | {"batch_norm": True}}),
    ("attributes", {"names": ["Smiling", "Male", "Wearing_Hat"]}),
    ("attributes", {"names": ["one"], "network": SMALL_MLP}),
    ("vector", {"size": 1}),
    ("vector", {"size": 40, "scale": 0.1}),
    ("counts", {"size": 1}),
    ("counts", {"size": 20, "likelihood": "negative_binomial", "network": SMALL_MLP | {"dropout": 0.5}}),
    ("positive", {"size": 3}),
    ("positive", {"size": 1, "scale": 0.5, "network": SMALL_MLP}),
    ("ordinal", {"classes": 2}),
    ("ordinal", {"classes": 4, "network": SMALL_MLP | {"linear": 3}}),
    ("ordinal", {"names": ["low", "middle", "high"], "network": SMALL_MLP | {"batch_norm": True, "dropout": 0.1}}),
    ("series", {"length": 50, "channels": 3}),
    ("series", {"length": 1}),
    ("series", {"length": 129, "channels": 2, "scale": 0.5, "network": {"type": "conv1d", "widths": [4, 8]}}),
    ("series", {"length": 9, "channels": 2, "network": SMALL_MLP}),
    ("audio", {}),
    ("audio", {"seconds": 0.3, "mels": 20, "scale": 0.2, "network": SMALL_DCGAN}),
    ("audio", {"seconds": 0.1, "mels": 8, "network": SMALL_MLP}),
]


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)])
def test_every_kind_keeps_the_contract(kind: str, fields: dict[str, Any]) -> None:
    check_modality(kind, fields)


def test_every_builtin_is_covered() -> None:
    here = {p.name for p in registry.provided(registry.KINDS) if p.provider.startswith("modalkit-vae")}
    assert here == {kind for kind, _ in CASES}


def of(kind: str, **fields: Any) -> tuple[Modality[Any], Any]:
    return registry.modality(kind), registry.schema(kind, **fields)


def baseline(modality: Modality[Any], schema: Any, values: Tensor) -> Any:
    assert modality.marginal is not None
    return modality.likelihood(schema, modality.marginal(schema, values))


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)])
def test_centred_decoders_begin_at_the_marginal(kind: str, fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    modality, schema = of(kind, **fields)
    model = MultimodalVAE({"x": schema}, 3).eval()
    with torch.no_grad():
        values = model.likelihood("x", torch.randn(30, 3)).sample()
        expected = baseline(modality, schema, values).log_prob(values)
        model.center()
        decoder = model.eval().decoders["x"]
        assert isinstance(decoder, Centered) is (kind != "tokens")  # which writes one character after another
        if isinstance(decoder, Centered):
            decoder.start_at(modality.marginal(schema, values))
            torch.testing.assert_close(model.log_px("x", torch.zeros(30, 3), values), expected, rtol=1e-4, atol=1e-4)
            assert expected.mean() >= baseline(modality, schema, values[:15]).log_prob(values).mean()


# Pictures


@given(st.integers(0, 255))
def test_bytes_come_back(byte: int) -> None:
    _, schema = of("image", size=1, channels=1, network="mlp")
    stored = torch.tensor([[[[byte]]]], dtype=torch.uint8)
    assert torch.equal(schema.pack(schema.unpack(stored)), stored)
    assert torch.equal(schema.pack(schema.unpack(stored).double()), stored)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, math.nan])
def test_intensities_outside_0_to_1_are_refused(value: float) -> None:
    _, schema = of("image", size=1, channels=1, network="mlp")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*divide by 255"):
        schema.pack(torch.full((1, 1, 1, 1), value))


def test_the_likelihood_scores_intensities() -> None:
    image, schema = of("image", size=2, channels=1, network="mlp")
    logits, x = torch.randn(3, 1, 2, 2), torch.rand(3, 1, 2, 2)
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(image.likelihood(schema, logits).log_prob(x), expected)


def test_marginals_of_pictures_stay_off_0_and_1() -> None:
    image, schema = of("image", size=1, channels=1, network="mlp")
    assert baseline(image, schema, torch.zeros(9, 1, 1, 1)).mean.item() == pytest.approx(0.05)
    assert baseline(image, schema, torch.full((9999, 1, 1, 1), 0.5)).mean.item() == pytest.approx(0.5)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (3, "L"), (1, "RGBA"), (3, "P"), (1, "1")])
def test_pictures_of_any_mode_are_read(tmp_path: Path, channels: int, mode: str) -> None:
    image, schema = of("image", size=[6, 4], channels=channels)
    Image.new(mode, (9, 30), 1 if mode in "1P" else None).save(tmp_path / "x.png")
    value = image.read(schema, str(tmp_path / "x.png"))
    assert value.shape == (channels, 6, 4) and value.dtype == torch.float32


def test_reading_fits_the_short_side_and_crops_the_centre(tmp_path: Path) -> None:
    image, schema = of("image", size=8, channels=1)
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert torch.equal(image.read(schema, str(tmp_path / "wide.png")), torch.ones(1, 8, 8))


def test_what_is_shown_can_be_read(tmp_path: Path) -> None:
    image, schema = of("image", size=[5, 7], network="mlp")
    value = torch.rand(3, 5, 7)
    Image.fromarray(image.show(schema, value)).save(tmp_path / "x.png")
    torch.testing.assert_close(image.read(schema, str(tmp_path / "x.png")), value, atol=0.5 / 255 + 1e-6, rtol=0)


def test_other_channels_are_shown_side_by_side_and_not_read(tmp_path: Path) -> None:
    image, schema = of("image", size=[5, 7], channels=2, network="mlp")
    assert image.show(schema, torch.rand(2, 5, 7)).shape == (5, 14)
    with pytest.raises(InputError, match="cannot be read as 2 channels"):
        image.read(schema, "x.png")


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    image, schema = of("image", size=8)
    (tmp_path / "x.png").write_text("no picture")
    for source, why in (
        (tmp_path / "x.png", "cannot be read as a picture"),
        (tmp_path / "absent.png", "there is no such file"),
        (tmp_path, "is a folder, not a picture"),
    ):
        with pytest.raises(InputError, match=f"{source}: {why}"):
            image.read(schema, str(source))


def test_sizes_of_a_picture() -> None:
    assert of("image", size=28)[1].facts() == {
        "kind": "image", "size": [28, 28], "channels": 3, "event_shape": [3, 28, 28], "dtype": "uint8",
    }  # fmt: skip
    for fields in ({"size": 0}, {"size": [1, 2, 3]}, {"size": "x"}, {"size": 3}, {"size": 8, "channels": 0}):
        with pytest.raises(InputError, match="schema of kind 'image'"):
            of("image", **fields)
    with pytest.raises(
        InputError, match=r"size: should be a number above 0, got -3; chanels: .*did you mean 'channels'"
    ):
        of("image", size=-3, chanels=1)
    for kind in ("edges", "landmarks"):
        assert of(kind, size=8)[1].event_shape == (1, 8, 8)
        with pytest.raises(InputError, match="channels"):
            of(kind, size=8, channels=3)


# Labels, bits, attributes


def test_labels() -> None:
    label, schema = of("label", names=["cat", "dog", "1"])
    assert schema.classes == 3
    assert [int(label.read(schema, text)) for text in ("cat", " dog ", "2", "1")] == [0, 1, 2, 2]  # a name goes first
    assert (
        label.show(schema, torch.tensor(1)) == "dog" and label.show(of("label", classes=3)[1], torch.tensor(1)) == "1"
    )
    with pytest.raises(
        InputError, match=r"'dgo' is no class \(did you mean 'dog'\?\); give one of 'cat', 'dog', '1', or"
    ):
        label.read(schema, "dgo")
    assert schema.valid(torch.tensor([-1, 0, 2, 3])).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match=r"1\.5 is no whole number"):
        schema.pack(torch.tensor([0.0, 1.5]))


@pytest.mark.parametrize("kind", ["label", "ordinal"])
def test_marginals_of_classes(kind: str) -> None:
    label, schema = of(kind, classes=3)
    probability = baseline(label, schema, torch.tensor([0, 0, 1])).probs
    torch.testing.assert_close(probability, torch.tensor([[2.5, 1.5, 0.5]]) / 4.5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give 'classes'"),
        ({"classes": 1}, "at least 2"),
        ({"classes": 3, "names": ["a", "b"]}, "2 different names for 3"),
        ({"names": ["a", "a"]}, "1 different names for 2"),
    ],
)
def test_labels_need_classes(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        of("label", **fields)


def test_bits() -> None:
    bit, schema = of("bit")
    assert [bit.read(schema, text).item() for text in ("yes", "No", " TRUE", "0")] == [1, 0, 1, 0]
    assert [bit.show(schema, torch.tensor(p)) for p in (0.0, 1.0, 0.834, 0.2)] == [
        "no",
        "yes",
        "yes (0.83)",
        "no (0.20)",
    ]
    with pytest.raises(InputError, match="'maybe' is no bit; give one of yes, true, 1"):
        bit.read(schema, "maybe")
    for wrong in (0.5, math.nan, -1.0):
        with pytest.raises(ValueError, match="bits must be 0 or 1"):
            schema.pack(torch.tensor([0, wrong]))
    assert schema.valid(torch.tensor([0, 1, 2], dtype=torch.uint8)).tolist() == [True, True, False]
    assert len(schema.valid(torch.zeros(0, dtype=torch.uint8))) == 0


def test_attributes() -> None:
    attributes, schema = of("attributes", names=["Smiling", "Male", "Hat"])
    value = attributes.read(schema, "Hat, Smiling")
    assert value.tolist() == [1, 0, 1] and attributes.show(schema, value) == "Smiling, Hat"
    assert attributes.read(schema, attributes.show(schema, torch.zeros(3))).tolist() == [0, 0, 0]
    with pytest.raises(
        InputError, match=r"'Simling' is unknown \(did you mean 'Smiling'\?\); known: Smiling, Male, Hat"
    ):
        attributes.read(schema, "Simling")
    assert schema.valid(torch.tensor([[0, 1, 1], [0, 9, 0]], dtype=torch.uint8)).tolist() == [True, False]
    for names in ([], ["a", "a"], ["a,b"], [" a"], [""]):
        with pytest.raises(InputError, match="names"):
            of("attributes", names=names)


# Strings


def strings(alphabet: str, longest: int) -> list[str]:
    return ["".join(s) for n in range(longest + 1) for s in itertools.product(alphabet, repeat=n)]


def writer(seed: int = 0, rows: int = 3, **fields: Any) -> tuple[Modality[Any], Any, Any]:
    """Return kind, schema and p(x|z) at random z, in double precision and far from uniform."""
    fields = {"alphabet": "ab", "max_length": 2, "network": {"type": "gru", "embedding": 5, "hidden": 6}} | fields
    tokens, schema = of("tokens", **fields)
    torch.manual_seed(seed)
    decoder = tokens.decoder(schema, 2).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return tokens, schema, tokens.likelihood(schema, decoder(torch.randn(rows, 2, dtype=torch.float64)))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), longest=st.integers(1, 3))
def test_probabilities_of_all_strings_add_up_to_1(seed: int, longest: int) -> None:
    tokens, schema, likelihood = writer(seed, max_length=longest)
    everything = torch.stack([tokens.read(schema, s) for s in strings("ab", longest)])
    log_px = likelihood.log_prob(everything.unsqueeze(1))  # (strings, 1, positions) against (rows,)
    torch.testing.assert_close(log_px.exp().sum(0), torch.ones(3, dtype=torch.float64))
    made = baseline(tokens, schema, everything[::2])
    torch.testing.assert_close(made.log_prob(everything).exp().sum(), torch.tensor(1.0))


def test_samples_have_the_frequencies_that_log_prob_says() -> None:
    tokens, schema, likelihood = writer(rows=1)
    everything = torch.stack([tokens.read(schema, s) for s in strings("ab", 2)])
    drawn = likelihood.sample((4000,)).squeeze(1)
    frequency = (drawn.unsqueeze(1) == everything).all(-1).double().mean(0)
    assert frequency.sum() == 1  # nothing else is drawn
    torch.testing.assert_close(frequency, likelihood.log_prob(everything).exp().detach(), atol=0.03, rtol=0)


def test_one_call_scores_what_writing_step_by_step_scores() -> None:
    tokens, schema, likelihood = writer()
    value = torch.stack([tokens.read(schema, s) for s in ("ba", "a", "")])
    by_hand = torch.zeros(3, dtype=torch.float64)
    for row, text in enumerate(("ba", "a", "")):
        z, state = likelihood.writer.z[row : row + 1], None
        previous = schema.start
        for token in [schema.alphabet.index(c) for c in text] + [schema.stop] * (len(text) < 2):
            logits, state = likelihood.writer.step(z, torch.tensor([[previous]]), state)
            logits[..., schema.start] = -torch.inf
            by_hand[row] += logits.log_softmax(-1)[0, 0, token]
            previous = token
    torch.testing.assert_close(likelihood.log_prob(value), by_hand)
    assert likelihood.log_prob(value.expand(5, 3, 3)).shape == (5, 3)


def test_the_mode_of_a_sure_writer_is_its_likeliest_string() -> None:
    tokens, schema, likelihood = writer(seed=1, rows=20)
    with torch.no_grad():
        for parameter in likelihood.writer.step.__self__.output.parameters():
            parameter.mul_(30)
    everything = torch.stack([tokens.read(schema, s) for s in strings("ab", 2)])
    likeliest = everything[likelihood.log_prob(everything.unsqueeze(1)).argmax(0)]
    assert torch.equal(likelihood.mode, likeliest) and len(likeliest.unique(dim=0)) > 2
    assert likelihood.sample((2, 4)).shape == (2, 4, 20, 3)


def test_the_encoder_does_not_see_what_pads() -> None:
    tokens, short = of("tokens", alphabet="ab", max_length=2)
    _, long = of("tokens", alphabet="ab", max_length=9)
    encoder = tokens.encoder(short)
    for text in ("", "a", "ab"):
        features = [encoder(tokens.read(schema, text)[None]) for schema in (short, long)]
        torch.testing.assert_close(*features)
    garbage = torch.tensor([[1, short.stop, 0], [1, short.stop, short.stop]])
    torch.testing.assert_close(*encoder(garbage))
    batch = torch.stack([tokens.read(short, text) for text in ("", "ab", "b")])
    torch.testing.assert_close(encoder(batch)[1], encoder(batch[1:2])[0])
    forwards = encoder.gru(encoder.embedding(batch[1:2]))[0][0]  # "ab" fills its row: nothing pads it
    torch.testing.assert_close(encoder(batch)[1], forwards[-1, :200] + forwards[0, 200:])


@given(st.text("0123456789", max_size=4))
def test_strings_come_back(text: str) -> None:
    tokens, schema = of("tokens", alphabet="0123456789", max_length=4)
    value = tokens.read(schema, text)
    assert value.dtype == torch.int64 and schema.valid(value[None]).all() and tokens.show(schema, value) == text


def test_what_is_no_string() -> None:
    tokens, schema = of("tokens", alphabet="01", max_length=2)
    with pytest.raises(InputError, match="'012': give at most 2 characters of '01'; '2' is not in it"):
        tokens.read(schema, "012")
    with pytest.raises(InputError, match="it has 3"):
        tokens.read(schema, "011")
    stop, start = schema.stop, schema.start
    wrong = [[0, 1, 0], [stop, 0, stop], [start, stop, stop], [-1, stop, stop], [9, stop, stop]]
    right = [[0, 1, stop], [stop, stop, stop]]
    assert schema.valid(torch.tensor(wrong + right)).tolist() == [False] * 5 + [True] * 2
    with pytest.raises(InputError, match="'0' stands in it twice"):
        of("tokens", alphabet="00", max_length=2)


# Vectors and counts


def test_vectors() -> None:
    vector, schema = of("vector", size=3)
    assert vector.read(schema, " 1, 2.5 -3e0").tolist() == [1, 2.5, -3]
    assert vector.show(schema, torch.tensor([1, 2.5, -1 / 3])) == "1 2.5 -0.333"
    assert vector.show(of("vector", size=40)[1], torch.zeros(40)).endswith("0 … (40 numbers)")
    for text, said in (("1 2", "give 3 finite"), ("1 2 nan", "finite"), ("1 2 x", "not numbers"), ("", "not numbers")):
        with pytest.raises(InputError, match=said):
            vector.read(schema, text)
    assert schema.valid(torch.tensor([[0, 0, 0], [0, math.inf, 0]])).tolist() == [True, False]
    for scale in (0, -1, "larned", math.inf):
        with pytest.raises(InputError, match="scale"):
            of("vector", size=3, scale=scale)
    # The scale is the model's: the same dataset serves both.
    assert of("vector", size=3, scale=2.0)[1].facts() == schema.facts()


def test_scales_of_vectors() -> None:
    vector, fixed = of("vector", size=2, scale=0.5)
    learned = of("vector", size=2)[1]
    assert vector.likelihood(fixed, torch.zeros(3, 2)).base_dist.scale.unique().tolist() == [0.5]
    raw = torch.full((3, 2, 2), -1000.0)
    assert vector.likelihood(learned, raw).base_dist.scale.unique().item() == pytest.approx(1e-3)
    values = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    baselines = [baseline(vector, schema, values).base_dist for schema in (fixed, learned)]
    assert all(b.loc.tolist() == [[1, 5]] for b in baselines)
    assert baselines[0].scale.tolist() == [[0.5, 0.5]]
    torch.testing.assert_close(baselines[1].scale, torch.tensor([[1, 1e-3]]))


def count_samples() -> Tensor:
    return torch.tensor([[0, 3], [2, 70_000]])


def test_counts_are_scored_as_torch_does() -> None:
    counts, schema = of("counts", size=2)
    raw, values = torch.randn(2, 2, dtype=torch.float64), count_samples()
    expected = Poisson(raw.exp()).log_prob(values.double()).sum(1)
    torch.testing.assert_close(counts.likelihood(schema, raw).log_prob(values), expected, rtol=1e-12, atol=0)
    schema = of("counts", size=2, likelihood="negative_binomial")[1]
    raw = torch.randn(2, 2, 2, dtype=torch.float64)
    likelihood = counts.likelihood(schema, raw)
    mean, total = raw[:, 0].exp(), raw[:, 1].exp()
    expected = NegativeBinomial(total, probs=mean / (mean + total)).log_prob(values.double()).sum(1)
    torch.testing.assert_close(likelihood.log_prob(values), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(likelihood.mean, mean)
    torch.testing.assert_close(likelihood.variance, mean + mean**2 / total)


def test_extreme_rates_are_finite() -> None:
    counts = registry.modality("counts")
    for likelihood, shape in (("poisson", (2, 2)), ("negative_binomial", (2, 2, 2))):
        schema = of("counts", size=2, likelihood=likelihood)[1]
        for raw in (torch.full(shape, 1e4), torch.full(shape, -1e4)):
            made = counts.likelihood(schema, raw.requires_grad_())
            made.log_prob(count_samples()).sum().backward()
            assert made.log_prob(count_samples()).isfinite().all() and raw.grad.isfinite().all()
            assert made.mode.dtype == torch.int64 and (made.mode >= 0).all()


def test_marginals_of_counts() -> None:
    counts, schema = of("counts", size=1)
    values = torch.cat([torch.full((500, 1), 2), torch.full((500, 1), 10)])
    assert baseline(counts, schema, values).mean.item() == pytest.approx(6, abs=0.01)
    negative = baseline(counts, of("counts", size=1, likelihood="negative_binomial")[1], values)
    assert negative.mean.item() == pytest.approx(6, abs=0.01)
    assert negative.variance.item() == pytest.approx(16, abs=0.1)
    assert baseline(counts, schema, torch.zeros(9, 1).long()).log_prob(torch.ones(1, 1).long()).isfinite()


def test_what_is_no_count() -> None:
    counts, schema = of("counts", size=2)
    assert counts.read(schema, "3, 4").tolist() == [3, 4] and counts.show(schema, torch.tensor([3, 4])) == "3 4"
    for text in ("-1 2", "1.5 2"):
        with pytest.raises(InputError, match="whole numbers from 0"):
            counts.read(schema, text)
    assert schema.valid(torch.tensor([[0, 1], [-1, 1]])).tolist() == [True, False]
    with pytest.raises(ValueError, match="whole"):
        schema.pack(torch.tensor([[0.5, 1.0]]))


# Positive reals


def test_positive_numbers_are_scored_as_log_normal() -> None:
    positive, schema = of("positive", size=2)
    raw, x = torch.randn(3, 2, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64) + 0.1
    loc, scale = raw[:, 0], torch.log1p(raw[:, 1].exp()) + 1e-3
    made = positive.likelihood(schema, raw)
    density = torch.exp(-((x.log() - loc) ** 2) / (2 * scale**2)) / (x * scale * math.sqrt(2 * math.pi))
    torch.testing.assert_close(made.log_prob(x), density.log().sum(1))
    torch.testing.assert_close(made.mean, torch.exp(loc + scale**2 / 2))  # what a prediction shows
    fixed = of("positive", size=2, scale=0.5)[1]
    assert positive.likelihood(fixed, raw[:, 0]).base_dist.scale.unique().item() == 0.5
    assert fixed.facts() == {**of("vector", size=2)[1].facts(), "kind": "positive"}  # either can model the other's data


def test_means_of_positive_numbers_are_finite() -> None:
    positive, schema = of("positive", size=1)
    for size in (1e4, -1e4):
        raw = torch.full((2, 2, 1), size, requires_grad=True)
        made = positive.likelihood(schema, raw)
        made.log_prob(torch.tensor([[1e-30], [1e30]])).sum().backward()
        assert made.mean.isfinite().all() and raw.grad.isfinite().all()


def test_marginals_of_positive_numbers_fit_the_logarithms() -> None:
    positive, schema = of("positive", size=1)
    values = torch.tensor([[1.0], [math.e**2]])
    made = baseline(positive, schema, values).base_dist
    assert made.loc.item() == pytest.approx(1) and made.scale.item() == pytest.approx(1)
    torch.testing.assert_close(schema.columns(values), torch.tensor([[0.0], [2.0]]))


def test_what_is_not_positive_is_refused_with_its_row(tmp_path: Path) -> None:
    positive, schema = of("positive", size=2)
    assert positive.read(schema, "1e-3, 2").tolist() == pytest.approx([1e-3, 2])
    for text in ("0 1", "1 -2"):
        with pytest.raises(InputError, match="must be positive"):
            positive.read(schema, text)
    for wrong in (0.0, -1.0, math.nan, math.inf, 1e-60):
        values = torch.tensor([[1.0, 1.0], [1.0, wrong]], dtype=torch.float64)
        with pytest.raises(InputError, match=r"modality 'dose', row b: kind .positive. cannot hold this value"):
            modalkit.write_dataset(tmp_path / "x", {"dose": schema}, {"dose": values}, keys=["a", "b"])
    with pytest.raises(InputError, match="scale"):
        of("positive", size=2, scale=9)


# Ordered levels


def test_levels_are_scored_by_differences_of_cumulative_probabilities() -> None:
    ordinal, schema = of("ordinal", classes=4)
    raw = torch.randn(5, 4, dtype=torch.float64)
    gaps = torch.log1p(raw[:, 2:].exp()) + 1e-4
    thresholds = torch.stack([raw[:, 1], raw[:, 1] + gaps[:, 0], raw[:, 1] + gaps.sum(1)], 1)
    cumulative = torch.sigmoid(thresholds - raw[:, :1])  # (rows, 3): P(x <= k)
    zero, one = torch.zeros(5, 1), torch.ones(5, 1)
    expected = torch.cat([cumulative, one], 1) - torch.cat([zero, cumulative], 1)
    made = ordinal.likelihood(schema, raw)
    torch.testing.assert_close(made.probs, expected)
    torch.testing.assert_close(made.log_prob(torch.tensor([0, 1, 2, 3, 3])), expected[range(5), [0, 1, 2, 3, 3]].log())


def test_odds_are_proportional_and_begin_equal() -> None:
    ordinal, schema = of("ordinal", classes=5)
    decoder = ordinal.decoder(schema, 2).double()
    raw = decoder(torch.randn(2, 2, dtype=torch.float64))
    torch.testing.assert_close(raw[0, 1:], raw[1, 1:])
    logit = ordinal.likelihood(schema, raw).probs.cumsum(1)[:, :-1].logit()
    torch.testing.assert_close(logit[0] - logit[1], (raw[1, 0] - raw[0, 0]).expand(4))  # the same at every level
    level = raw * torch.tensor([0, 1, 1, 1, 1])  # at location 0
    torch.testing.assert_close(ordinal.likelihood(schema, level).probs, torch.full_like(raw, 0.2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_levels_are_finite(size: float) -> None:
    ordinal, schema = of("ordinal", classes=4)
    raw = (torch.randn(4, 4) * size).requires_grad_()
    log_px = ordinal.likelihood(schema, raw).log_prob(torch.arange(4))
    log_px.sum().backward()
    assert log_px.isfinite().all() and raw.grad.isfinite().all()


def test_levels_are_read_coded_and_right() -> None:
    ordinal, schema = of("ordinal", names=["low", "middle", "high"])
    assert ordinal.read(schema, "high") == 2 and ordinal.show(schema, torch.tensor(1)) == "middle"
    assert schema.columns(torch.arange(3)).tolist() == [[0, 0], [1, 0], [1, 1]]
    right = ordinal.correct(schema, torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]))
    assert {name: is_right.tolist() for name, is_right in right.items()} == {
        "level": [True, False, False], "within one level": [True, True, False],
    }  # fmt: skip
    label = of("label", names=["low", "middle", "high"])[1]
    assert schema.facts() == {**label.facts(), "kind": "ordinal"}


def test_facts_say_nothing_of_networks() -> None:
    for kind, fields in CASES:
        schema: Schema = registry.schema(kind, **fields)
        assert not {"network", "weight"} & schema.facts().keys()
        assert type(schema).model_validate_json(schema.model_dump_json(), strict=True) == schema
