"""Networks: the paper's parameter counts, any size of picture, and what recipes may write."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from modalkit import registry
from modalkit.nn import (
    BatchNorm1d,
    BatchNorm2d,
    Dcgan,
    DcganDecoder,
    DcganEncoder,
    DenseNetwork,
    ImageNetwork,
    LinearDecoder,
    Mlp,
    category_encoder,
    decoder,
    encoder,
    mlp,
    stages,
)
from modalkit.nn.batch_norm import mixes_rows
from modalkit.plugin import CustomNetwork

ATTRIBUTES = [f"attribute {i}" for i in range(18)]


def inference_parameters(kind: str, latent_dim: int, **fields: Any) -> int:
    """Count an encoder's parameters and its Gaussian head's, as the paper's Table 1 does."""
    schema = registry.schema(kind, **fields)
    module = registry.modality(kind).encoder(schema).eval()
    value = schema.unpack(torch.zeros(2, *schema.event_shape, dtype=getattr(torch, schema.dtype)))
    features = module(value).shape[1]
    return sum(p.numel() for p in module.parameters()) + 2 * (features * latent_dim + latent_dim)


@pytest.mark.parametrize(
    ("kind", "latent_dim", "fields", "expected"),
    [
        ("image", 64, {"size": 28, "channels": 1, "network": "mlp"}, 730_240),  # MNIST, BinaryMNIST: VAE
        ("label", 64, {"classes": 10}, 1_063_680 - 730_240),
        ("image", 64, {"size": 28, "channels": 1}, 3_409_536),  # FashionMNIST: VAE
        ("label", 64, {"classes": 10}, 3_742_976 - 3_409_536),
        ("image", 100, {"size": 50, "channels": 1}, 1_316_936),  # MultiMNIST: VAE
        ("tokens", 100, {"alphabet": "0123456789", "max_length": 4}, 1_841_936 - 1_316_936),
        ("image", 100, {"size": 64}, 4_070_472),  # CelebA: VAE
        ("attributes", 100, {"names": ATTRIBUTES}, 4_447_504 - 4_070_472),
        ("bit", 100, {}, (10_663_512 - 4_070_472) // 18),  # the released code's CelebA-19
    ],
)
def test_table_1(kind: str, latent_dim: int, fields: dict[str, Any], expected: int) -> None:
    assert inference_parameters(kind, latent_dim, **fields) == expected


def convolutions(module: nn.Module) -> list[tuple[int, ...]]:
    """Return (in, out, kernel height and width, stride, padding) of each convolution."""
    found = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert all(m.bias is None for m in found)
    return [(m.in_channels, m.out_channels, *m.kernel_size, m.stride[0], int(m.padding[0])) for m in found]


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_small_form_at_28() -> None:
    encode, decode = DcganEncoder((1, 28, 28), Dcgan()), DcganDecoder(64, (1, 28, 28), Dcgan())
    assert convolutions(encode) == [(1, 64, 4, 4, 2, 1), (64, 128, 4, 4, 2, 1)]
    assert convolutions(decode) == [(128, 64, 4, 4, 2, 1), (64, 1, 4, 4, 2, 1)]
    assert linears(encode) == [(6272, 512)] and linears(decode) == [(64, 512), (512, 6272)]
    assert not mixes_rows(encode) and not mixes_rows(decode)
    assert not any(isinstance(m, nn.Dropout) for m in encode.modules())


def test_form_at_50() -> None:
    encode, decode = DcganEncoder((1, 50, 50), Dcgan()), DcganDecoder(100, (1, 50, 50), Dcgan())
    assert convolutions(encode) == [
        (1, 32, 4, 4, 2, 1),
        (32, 64, 4, 4, 2, 1),
        (64, 128, 4, 4, 2, 1),
        (128, 256, 4, 4, 2, 0),
    ]
    assert convolutions(decode) == [
        (256, 128, 4, 4, 2, 0), (128, 64, 4, 4, 2, 1), (64, 32, 5, 5, 2, 1), (32, 1, 4, 4, 2, 1),
    ]  # fmt: skip
    assert linears(encode) == [(1024, 512)] and linears(decode) == [(100, 1024)]


def test_form_at_64() -> None:
    encode, decode = DcganEncoder((3, 64, 64), Dcgan()), DcganDecoder(100, (3, 64, 64), Dcgan())
    assert convolutions(encode)[3] == (128, 256, 4, 4, 1, 0)
    assert convolutions(decode) == [
        (256, 128, 4, 4, 1, 0), (128, 64, 4, 4, 2, 1), (64, 32, 4, 4, 2, 1), (32, 3, 4, 4, 2, 1),
    ]  # fmt: skip
    assert linears(encode) == [(6400, 512)] and linears(decode) == [(100, 6400)]
    norms = [[m.num_features for m in net.modules() if isinstance(m, BatchNorm2d)] for net in (encode, decode)]
    assert norms == [[64, 128, 256], [128, 64, 32]]
    assert [m.p for m in encode.modules() if isinstance(m, nn.Dropout)] == [0.1]


@settings(deadline=None, max_examples=25)
@given(height=st.integers(4, 130), width=st.integers(4, 130), channels=st.integers(1, 4))
def test_any_size_there_and_back(height: int, width: int, channels: int) -> None:
    chain = stages((height, width))
    assert all(min(s.after) >= 1 and 4 <= min(s.mirror_kernel) <= max(s.mirror_kernel) <= 5 for s in chain)
    thin = Dcgan(widths=(2,) * len(chain), hidden=3, decoder_hidden=())
    assert DcganEncoder((channels, height, width), thin)(torch.rand(2, channels, height, width)).shape == (2, 3)
    assert DcganDecoder(2, (channels, height, width), thin)(torch.randn(2, 2)).shape == (2, channels, height, width)


@pytest.mark.parametrize("size", [(3, 3), (2, 90), (90, 1)])
def test_too_small_for_convolutions(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"a picture of {size[0]} x {size[1]} is too small for 2 convolutions; make"):
        stages(size)


def test_fields_of_a_dcgan() -> None:
    network = Dcgan(widths=(3, 5, 7), hidden=11, decoder_hidden=(13, 17), batch_norm=False, dropout=0.25)
    encode, decode = DcganEncoder((2, 40, 40), network), DcganDecoder(5, (2, 40, 40), network)
    assert [c[:2] for c in convolutions(encode)] == [(2, 3), (3, 5), (5, 7)]
    assert [c[:2] for c in convolutions(decode)] == [(7, 5), (5, 3), (3, 2)]
    assert linears(encode)[0][1] == 11 and [n for _, n in linears(decode)[:2]] == [13, 17]
    assert not mixes_rows(encode) and not mixes_rows(decode)
    assert [m.p for m in encode.modules() if isinstance(m, nn.Dropout)] == [0.25]
    normalised = Dcgan(batch_norm=True)
    assert mixes_rows(DcganEncoder((1, 28, 28), normalised)) and mixes_rows(DcganDecoder(5, (1, 28, 28), normalised))


def test_fields_of_an_mlp() -> None:
    network = Mlp(hidden=(5, 7), decoder_hidden=(3,), batch_norm=True, dropout=0.5)
    encode, decode = encoder(network, (2, 4, 4)), decoder(network, 6, (2, 4, 4))
    assert linears(encode) == [(32, 5), (5, 7)] and linears(decode) == [(6, 3), (3, 32)]
    assert [m.p for m in encode.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert not any(isinstance(m, nn.Dropout) for m in decode.modules())
    assert mixes_rows(encode) and mixes_rows(decode)
    assert [type(m) for m in category_encoder(network, 9)][:3] == [nn.Embedding, BatchNorm1d, nn.SiLU]
    assert decoder(Mlp(decoder_hidden=()), 6, ())(torch.zeros(4, 6)).shape == (4,)


def test_a_lone_rows_gradient_is_of_the_statistics_that_it_saw() -> None:
    """Another call in the same step moves the running statistics before the backward pass."""
    norm, x = BatchNorm1d(3).double(), torch.randn(1, 3, dtype=torch.double, requires_grad=True)
    (lone,) = torch.autograd.grad(norm(x).sum(), x)
    later = norm(x)
    norm(10 * torch.randn(5, 3, dtype=torch.double))
    assert torch.equal(torch.autograd.grad(later.sum(), x)[0], lone)


def test_batch_norm_is_torchs_but_for_a_lone_row() -> None:
    for ours, theirs, shape in (
        (BatchNorm1d(3), nn.BatchNorm1d(3), (5, 3)),
        (BatchNorm2d(3), nn.BatchNorm2d(3), (5, 3, 2, 2)),
    ):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
        lone, running = x[:1, :, :1, :1] if x.ndim == 4 else x[:1], ours.running_mean.clone()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            theirs(lone)
        assert torch.equal(ours(lone), theirs.eval()(lone))
        assert torch.equal(ours.running_mean, running)
        assert torch.equal(ours.eval()(x), theirs(x))
        assert ours.train()(x[:0]).shape == (0, *shape[1:])


def test_mixes_rows() -> None:
    assert mixes_rows(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.SyncBatchNorm(1))))
    assert not mixes_rows(nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1), nn.InstanceNorm2d(1), nn.GroupNorm(1, 1)))


@pytest.mark.parametrize("written", ["mlp", {"type": "mlp"}, {"type": "mlp", "hidden": [512, 512]}])
def test_a_name_is_short_for_a_network(written: Any) -> None:
    as_in_recipes = TypeAdapter(ImageNetwork).validate_json(json.dumps(written), strict=True)
    assert TypeAdapter(ImageNetwork).validate_python(written) == as_in_recipes == Mlp()
    assert TypeAdapter(ImageNetwork).validate_python("dcgan") == Dcgan()


def test_json_schema_offers_both_forms() -> None:
    offered = TypeAdapter(ImageNetwork).json_schema()["anyOf"]
    assert {"enum": ["mlp", "dcgan", "resnet"], "type": "string"} in offered
    named = ("Mlp", "Dcgan", "Resnet", "CustomNetwork")
    assert {o["$ref"] for o in offered if "$ref" in o} == {f"#/$defs/{n}" for n in named}


@pytest.mark.parametrize(
    "written", ["dcgan", {"type": "mlp", "hidden": []}, {"type": "mlp", "hiden": [3]}, {"hidden": [3]}]
)
def test_wrong_networks_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DenseNetwork).validate_python(written)


def test_a_custom_network_is_the_cores_to_build() -> None:
    with pytest.raises(TypeError, match="built by the core"):
        encoder(CustomNetwork(encoder="a:A", decoder="a:B"), (3,))


def test_channels_last_passes_through() -> None:
    network = Dcgan(widths=(4, 8, 16), hidden=8)
    encode, decode = DcganEncoder((3, 33, 40), network).eval(), DcganDecoder(4, (3, 33, 40), network).eval()
    x, z = torch.rand(2, 3, 33, 40), torch.randn(2, 4)
    before = encode(x), decode(z)
    encode.to(memory_format=torch.channels_last), decode.to(memory_format=torch.channels_last)
    after = encode(x.contiguous(memory_format=torch.channels_last)), decode(z)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_an_mlp_without_hidden_layers() -> None:
    assert linears(mlp(3, [], 2)) == [(3, 2)]


@pytest.mark.parametrize(
    ("kind", "fields", "features"),
    [
        ("image", {"size": 8, "channels": 1}, 20 + 5),
        ("vector", {"size": 3}, 20 + 3),  # never more linear features than inputs
        ("attributes", {"names": ["a", "b"]}, 20 + 2),
        ("label", {"classes": 4}, 20 + 5),
        ("bit", {}, 20 + 5),
    ],
)
def test_a_linear_path_lies_beside_the_hidden_layers(kind: str, fields: dict[str, Any], features: int) -> None:
    plain = {"type": "mlp", "hidden": [30, 20], "decoder_hidden": [10], "batch_norm": True}
    schema = registry.schema(kind, **fields, network=plain | {"linear": 5})
    encode, decode = registry.modality(kind).encoder(schema).eval(), registry.modality(kind).decoder(schema, 6).eval()
    value = schema.unpack(schema.zeros(3))
    assert encode(value).shape == (3, features)
    path = next(part for part in decode.modules() if isinstance(part, LinearDecoder))
    for parameter in path.network.parameters():
        nn.init.zeros_(parameter)
    z = torch.randn(3, 6)
    torch.testing.assert_close(decode(z).reshape(3, -1), path.linear(z))  # (rows, *raw) -> (rows, numbers)
    bare = registry.schema(kind, **fields, network=plain)
    assert set(registry.modality(kind).encoder(bare).state_dict()).isdisjoint(
        name for name in encode.state_dict() if "linear" in name
    )


def test_true_gives_as_many_linear_features_as_z_has_dimensions_by_default() -> None:
    assert [Mlp(linear=value).linear_features for value in (False, True, 7)] == [0, 64, 7]
    with pytest.raises(ValidationError):
        Mlp(linear=-1)


def test_categories_are_encoded_as_their_one_hot_vectors() -> None:
    network = Mlp(hidden=(6,), linear=2)
    encode = category_encoder(network, 3).eval()
    value = torch.tensor([2, 0, 1, 1, 2])
    torch.testing.assert_close(encode(value)[:, 6:], encode[0].linear.weight[value])  # type: ignore[union-attr,index]
    each = torch.cat([encode(v[None]) for v in value])
    torch.testing.assert_close(encode(value), each)
