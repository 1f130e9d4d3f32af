"""The faster forms equal torch's own, gradients included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn import functional

from modalkit.distributions import Bernoullis
from modalkit.nn import BatchNorm1d, BatchNorm2d, Dcgan, Mlp, category_encoder, decoder
from modalkit.nn.batch_norm import parted
from modalkit.nn.fast import batch_norm_by_parts, doubling_conv_transpose2d


def gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    torch.manual_seed(9)
    return list(torch.autograd.grad(output, inputs, torch.randn_like(output)))


@given(
    logits=st.lists(st.floats(-800, 800), min_size=1, max_size=12),
    value=st.floats(0, 1),
    dims=st.integers(0, 1),
)
@settings(deadline=None)
def test_bernoulli_log_probability(logits: list[float], value: float, dims: int) -> None:
    given_ = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    x = torch.full_like(given_, value).detach()
    plain = Independent(Bernoulli(logits=given_, validate_args=False), dims, validate_args=False).log_prob(x)
    ours = Bernoullis(given_, dims).log_prob(x)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(ours, given_), gradients(plain, given_), rtol=1e-12, atol=1e-12)


def test_bernoulli_log_probability_broadcasts_and_has_a_gradient_for_the_value() -> None:
    logits = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    value = torch.rand(5, 3, 4, dtype=torch.float64, requires_grad=True)
    plain = Independent(Bernoulli(logits=logits, validate_args=False), 2, validate_args=False).log_prob(value)
    ours = Bernoullis(logits, 2).log_prob(value)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients(ours, logits, value), gradients(plain, logits, value))


def test_bernoulli_log_probability_in_single_precision() -> None:
    logits = 8 * torch.randn(4, 3, 64, 64, dtype=torch.float64)
    value = torch.rand_like(logits)
    exact = Bernoullis(logits, 3).log_prob(value)
    torch.testing.assert_close(Bernoullis(logits.float(), 3).log_prob(value.float()).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 2)])
@pytest.mark.parametrize("sizes", [(12,), (4, 8), (1, 6, 5)])
def test_batch_norm_by_parts_is_batch_norm_of_one_after_another(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    kind = BatchNorm1d if len(shape) == 2 else BatchNorm2d
    apart, together = kind(5).double(), kind(5).double()
    for layer in (apart, together):
        nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = torch.cat([apart(part) for part in x.split(sizes)])
    with parted(together, sizes):
        ours = together(x)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        gradients(ours, x, *together.parameters()), gradients(expected, x, *apart.parameters()), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(dict(together.state_dict()), dict(apart.state_dict()))


def test_batch_norm_by_parts_survives_a_call_between_its_passes() -> None:
    """The running statistics move in place; what the backward pass needs must not."""
    x = torch.randn(5, 3, requires_grad=True)
    mean, variance = torch.zeros(3), torch.ones(3)
    ours = batch_norm_by_parts(x, [1, 4], torch.ones(3), torch.zeros(3), mean, variance, 0.1, 1e-5)
    batch_norm_by_parts(x, [5], torch.ones(3), torch.zeros(3), mean, variance, 0.1, 1e-5)
    assert gradients(ours, x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "size"), [(3, 6, 1, (5, 4)), (2, 8, 3, (8, 8)), (1, 2, 4, (1, 3))]
)
def test_doubling_transposed_convolution(rows: int, inputs: int, outputs: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, inputs, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(inputs, outputs, 4, 4, requires_grad=True)
    plain = functional.conv_transpose2d(x, weight, None, 2, 1)
    ours = doubling_conv_transpose2d(x, weight)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(ours, x, weight), gradients(plain, x, weight), rtol=1e-4, atol=1e-4)
    double = doubling_conv_transpose2d(x.double(), weight.double())
    torch.testing.assert_close(double.float(), plain, rtol=1e-5, atol=1e-5)


def test_a_picture_decoder_has_the_fast_last_layer() -> None:
    network = decoder(Dcgan(widths=(4, 8)), 3, (1, 64, 64))
    assert type(list(network.modules())[-1]).__name__ == "Doubling"


@pytest.mark.parametrize("training", [True, False])
def test_categories_counted_by_their_rows_are_batch_norm_of_all_rows(training: bool) -> None:
    torch.manual_seed(0)
    made = [category_encoder(Mlp(hidden=(6, 5), batch_norm=True), 3).double().train(training) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    value = torch.tensor([0, 2, 2, 0, 2, 2, 0, 0, 2])  # one category is not there
    made[1].apart = True  # each row
    few, each = (network(value) for network in made)
    torch.testing.assert_close(few, each)
    parameters = [list(network.parameters()) for network in made]
    torch.testing.assert_close(gradients(few, *parameters[0]), gradients(each, *parameters[1]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dict(made[0].state_dict()), dict(made[1].state_dict()))
