"""Residual networks of pictures, and linear paths beside convolutions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import here
from torch import nn
from torch.nn import functional

import modalkit
from modalkit.errors import InputError
from modalkit.nn import (
    LinearDecoder,
    ResidualBlock,
    Resnet,
    ResnetDecoder,
    ResnetEncoder,
    decoder,
    encoder,
    residual_stages,
)
from modalkit.nn.batch_norm import can_part, mixes_rows
from modalkit.recipe import load_recipe
from modalkit.testing import check_modality

THIN = {"type": "resnet", "channels": [4, 8], "hidden": 8}


@settings(deadline=None, max_examples=25)
@given(height=st.integers(3, 130), width=st.integers(3, 130), channels=st.integers(1, 4), blocks=st.integers(1, 2))
def test_any_size_there_and_back(height: int, width: int, channels: int, blocks: int) -> None:
    chain = residual_stages((height, width))
    assert 2 <= min(chain[-1].after) < 8 and chain[0].before == (height, width)
    thin = Resnet(channels=(2,) * len(chain), hidden=3, blocks=blocks)
    assert ResnetEncoder((channels, height, width), thin)(torch.rand(2, channels, height, width)).shape == (2, 3)
    assert ResnetDecoder(2, (channels, height, width), thin)(torch.randn(2, 2)).shape == (2, channels, height, width)


def test_channels_by_default() -> None:
    assert [s.width for s in residual_stages((256, 300))] == [32, 64, 128, 256, 256, 256]
    assert [[s.after[0] for s in residual_stages((n, n))] for n in (16, 28)] == [[8, 4], [14, 7]]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_block_is_its_formula(norm: Any) -> None:
    x = torch.randn(3, 16, 6, 8).double()
    for inputs, width, resize in (
        (16, 16, None),
        (16, 24, "halve"),
        (16, 16, "halve"),
        (16, 8, "double"),
        (16, 16, "double"),
    ):
        block = ResidualBlock(inputs, width, norm, resize).double()  # type: ignore[arg-type]
        parts = dict(block.named_parameters())
        for name in parts:
            if name.endswith(("0.weight", "0.bias", "3.weight", "3.bias")):
                nn.init.normal_(parts[name])

        def normal(y: torch.Tensor, index: int, parts: dict[str, torch.Tensor] = parts) -> torch.Tensor:
            weight, bias = parts[f"before.{index}.weight"], parts[f"before.{index}.bias"]
            if norm == "batch":
                return functional.batch_norm(y, None, None, weight, bias, True)
            return functional.group_norm(y, y.shape[1] // 8, weight, bias)

        def doubled(y: torch.Tensor, resize: str | None = resize) -> torch.Tensor:
            return y.repeat_interleave(2, 2).repeat_interleave(2, 3) if resize == "double" else y

        stride = 2 if resize == "halve" else 1
        first = functional.conv2d(functional.silu(normal(x, 0)), parts["before.2.weight"], None, stride, 1)
        branch = functional.conv2d(doubled(functional.silu(normal(first, 3))), parts["after.weight"], None, 1, 1)
        kernel = next((weight for name, weight in parts.items() if "shortcut" in name), None)
        pooled = x if stride == 1 else x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        beside = pooled if kernel is None else functional.conv2d(pooled, kernel)
        assert (kernel is None) is (inputs == width)
        torch.testing.assert_close(block(x), doubled(beside) + branch)


def test_fields_of_a_resnet() -> None:
    network = Resnet(channels=(3, 5, 7), blocks=2, hidden=11, decoder_hidden=(13, 17), dropout=0.25)
    encode, decode = ResnetEncoder((2, 40, 33), network), ResnetDecoder(5, (2, 40, 33), network)
    for net in (encode, decode):
        assert sum(isinstance(m, ResidualBlock) for m in net.modules()) == 6
        assert sorted({m.num_channels for m in net.modules() if isinstance(m, nn.GroupNorm)}) == [3, 5, 7]
    linears = [[(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
               for net in (encode, decode)]  # fmt: skip
    assert linears == [[(7 * 5 * 5, 11)], [(5, 13), (13, 17), (17, 7 * 5 * 5)]]
    assert [m.p for m in encode.modules() if isinstance(m, nn.Dropout)] == [0.25]


def test_group_normalisation_keeps_rows_apart() -> None:
    network = Resnet(channels=(8, 16), hidden=6)
    encode, decode = ResnetEncoder((1, 17, 20), network), ResnetDecoder(3, (1, 17, 20), network)
    x, z = torch.rand(4, 1, 17, 20), torch.randn(4, 3)
    for net, value in ((encode, x), (decode, z)):
        assert not mixes_rows(net)
        together = net(value)
        torch.testing.assert_close(torch.cat([net(one) for one in value.split(1)]), together, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(net.eval()(value), together)
        batch = Resnet(channels=(8, 16), hidden=6, norm="batch")
    assert mixes_rows(ResnetEncoder((1, 17, 20), batch)) and can_part(ResnetDecoder(3, (1, 17, 20), batch))


def test_other_forms_give_the_same() -> None:
    network = Resnet(channels=(8, 16), hidden=8)
    encode, decode = ResnetEncoder((3, 33, 40), network).eval(), ResnetDecoder(4, (3, 33, 40), network).eval()
    x, z = torch.rand(2, 3, 33, 40), torch.randn(2, 4)
    before = encode(x), decode(z)
    encode.to(memory_format=torch.channels_last), decode.to(memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)
    for a, b in zip(before, (encode(last), decode(z)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = encode(last), decode(z)
    for a, b in zip(before, reduced, strict=True):
        assert (a - b.float()).abs().mean() < 0.03 * a.std()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("image", {"size": 16, "network": THIN}),
        ("image", {"size": [17, 30], "channels": 2, "network": THIN | {"blocks": 2, "norm": "batch", "dropout": 0.2}}),
        ("image", {"size": 16, "likelihood": "gaussian", "scale": "predicted", "network": THIN | {"linear": 3}}),
        ("image", {"size": 16, "likelihood": "laplace", "scale": "shared", "network": THIN | {"linear": True}}),
        ("image", {"size": 9, "likelihood": "gaussian", "scale": "per_dimension", "network": THIN}),
        ("image", {"size": 16, "network": {"type": "dcgan", "widths": [4, 8], "hidden": 8, "linear": 3}}),
        ("edges", {"size": 16, "network": THIN}),
        ("landmarks", {"size": 16, "network": THIN}),
        ("audio", {"seconds": 0.3, "mels": 20, "scale": "predicted", "network": THIN | {"linear": 3}}),
    ],
)
def test_kinds_keep_the_contract(kind: str, fields: dict[str, Any]) -> None:
    check_modality(kind, fields)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("{type: resnet, channels: [4, 4, 4, 4]}", "m: a picture of 16 x 12 is too small for 4 stages of 'resnet'"),
        ("{type: resnet, channels: []}", "m.network.channels: should have 1 or more entries, has 0"),
        ("{type: resnet, channels: [0]}", "m.network.channels.0: should be a number above 0, got 0"),
        ("{type: resnet, norm: layer}", "m.network.norm: should be 'group' or 'batch', got 'layer'"),
        ("{type: resnet, blocks: 0}", "m.network.blocks: should be a number above 0, got 0"),
        ("{type: resnet, widths: [4]}", "m.network.widths: unknown key"),
        ("{type: resnet, linear: -1}", "m.network.linear: "),
        ("resnt", "m.network: unknown type 'resnt' (did you mean 'resnet'?)"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, network: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{path: x}}\nmodalities:\n  m: {{kind: image, size: [16, 12], network: {network}}}\n")
    with pytest.raises(InputError, match=re.escape(said)):
        load_recipe(path)


@pytest.mark.parametrize("type_", ["dcgan", "resnet"])
def test_a_linear_path_lies_beside_convolutions(type_: str) -> None:
    plain = {"type": type_, "hidden": 8, "widths" if type_ == "dcgan" else "channels": [4, 8]}
    network = modalkit.schema("image", size=16, network=plain | {"linear": 5}).network  # type: ignore[attr-defined]
    encode, decode = encoder(network, (3, 16, 16)).eval(), decoder(network, 6, (3, 16, 16)).eval()
    assert encode(torch.rand(2, 3, 16, 16)).shape == (2, 8 + 5)
    assert isinstance(decode, LinearDecoder)
    x, z = torch.rand(2, 3, 16, 16), torch.randn(2, 6)
    torch.testing.assert_close(encode(x)[:, 8:], encode.linear(x.flatten(1)))  # type: ignore[operator]
    torch.testing.assert_close(decode(z), decode.network(z) + decode.linear(z).unflatten(1, (3, 16, 16)))
    bare = modalkit.schema("image", size=16, network=plain).network  # type: ignore[attr-defined]
    assert not any("linear" in name for name in encoder(bare, (3, 16, 16)).state_dict())


RECIPE = """
data: {path: data}
modalities:
  a: {kind: image, size: 16, channels: 1, likelihood: gaussian, scale: shared, network: RESNET}
  b: {kind: image, size: [17, 16], channels: 1, likelihood: gaussian, scale: predicted, network: RESNET}
  c: {kind: image, size: 16, channels: 1, likelihood: laplace, network: DCGAN}
model: {latent_dim: 4, experts: low_rank, start: factor_analysis}
train: {epochs: 1, max_steps: 1, learning_rate: 1e-6, choose: imputation}
""".replace("RESNET", "{type: resnet, channels: [4, 8], hidden: 8, linear: 4}").replace(
    "DCGAN", "{type: dcgan, widths: [4, 8], hidden: 8, linear: 4}"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of pictures of a linear model."""
    folder, source = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    z, values = torch.randn(300, 2, generator=source), {}
    sizes = {"a": (16, 16), "b": (17, 16), "c": (16, 16)}
    for name, size in sizes.items():
        pattern = torch.randn(2, size[0] * size[1], generator=source)
        noise = torch.randn(300, size[0] * size[1], generator=source)
        values[name] = (0.5 + 0.08 * z @ pattern + 0.03 * noise).clamp(0, 1).reshape(300, 1, *size)
    schemas = {name: modalkit.schema("image", size=size, channels=1) for name, size in sizes.items()}
    modalkit.write_dataset(folder / "data", schemas, values)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_training_starts_at_a_factor_analysis(work: Path) -> None:
    done = here("train", "recipe.yaml", "--out", "run", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "starting from a factor analysis of 784 numbers with" in done.stderr
    first = json.loads((work / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and first["imputation_error"] < 0.6  # of the training mean's; a random start has about 1


def test_a_graph_says_what_the_library_says(work: Path) -> None:
    changes = [f"modalities.{name}=null" for name in "ac"]
    changes += ["model.experts=diagonal", "model.start=random", "train.choose=elbo"]
    done = here("train", "recipe.yaml", "--out", "diagonal", *(w for c in changes for w in ("--set", c)), cwd=work)
    assert done.returncode == 0, done.stderr
    done = here("export", "diagonal", "shared", "--onnx", "--given", "b", "--want", "b", cwd=work)
    assert done.returncode == 0, done.stderr  # it compares the graph's results with the library's
