"""Counts are predicted by the predictive mean, which can be far from the likelihoods' modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modalkit import registry
from modalkit.data import Batch
from modalkit.inference.filling import fill
from modalkit.inference.predicting import infer
from modalkit.model.prediction import predict
from modalkit.model.vae import MultimodalVAE


class LogMean(nn.Module):
    """Decodes log-means `at + slope * z_1` and, for negative binomials, one fixed log total count."""

    def __init__(self, at: float, slope: float, log_count: float | None = None) -> None:
        super().__init__()
        self.at, self.slope, self.log_count = at, slope, log_count

    def forward(self, z: Tensor) -> Tensor:
        log_mean = self.at + self.slope * z[:, :1]
        if self.log_count is None:
            return log_mean
        return torch.stack([log_mean, torch.full_like(log_mean, self.log_count)], 1)  # (rows, 2, 1)


def counting(decoder: LogMean) -> MultimodalVAE:
    """Return a model of one count whose means are log-normal under the prior of z."""
    torch.manual_seed(0)
    likelihood = "poisson" if decoder.log_count is None else "negative_binomial"
    model = MultimodalVAE({"n": registry.schema("counts", size=1, likelihood=likelihood)}, 2).eval()
    model.decoders["n"] = decoder
    return model


@pytest.mark.parametrize("draws", [200, 2000])
def test_the_value_of_counts_is_the_predictive_mean_in_closed_form(draws: int) -> None:
    model = counting(LogMean(5.0, 1.0))
    z = torch.randn(draws, 40, 2, generator=torch.Generator().manual_seed(1))
    found = predict(model, "n", z, 3, noise=False)
    exact = math.exp(5.5)  # the mean of a log-normal; the modes' commonest value is near its mode, exp(4)
    deviation = math.sqrt((math.e - 1) * math.exp(11) / draws)
    assert found.value.dtype == torch.int64
    assert (found.value - exact).abs().max() < 4.5 * deviation
    means = (5.0 + z[..., 0]).exp()
    torch.testing.assert_close(found.value[:, 0], means.mean(0).round().long())
    assert found.scale is not None
    # The law of total variance: a Poisson's variance is its mean.
    torch.testing.assert_close(found.scale[:, 0], (means.mean(0) + means.var(0)).sqrt(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.samples[..., 0], means[:3].round().long())


@pytest.mark.parametrize("total_count", [0.1, 0.9, 1.0, 30.0])
def test_a_negative_binomial_is_filled_with_its_mean_even_where_its_mode_is_zero(total_count: float) -> None:
    model = counting(LogMean(math.log(50.0), 0.0, math.log(total_count)))
    found = predict(model, "n", torch.zeros(4, 3, 2), 2, noise=False)
    assert found.value.tolist() == [[50]] * 3 and found.samples.tolist() == [[[50]] * 3] * 2
    assert model.predict("n", torch.zeros(3, 2)).tolist() == [[50]] * 3
    assert found.scale is not None
    torch.testing.assert_close(found.scale, torch.full((3, 1), math.sqrt(50 + 50**2 / total_count)))
    batch = Batch({"n": torch.zeros(2, 1, dtype=torch.int64)}, torch.zeros(2, 1, dtype=torch.bool))
    imputed = fill(model, batch, {}, sample=False, draws=5, seed=0)
    assert imputed.batch.values["n"].tolist() == [[50]] * 2


def test_more_draws_do_not_move_the_value_of_counts() -> None:
    model = counting(LogMean(6.0, 0.5))
    batch = Batch({"n": torch.zeros(1, 1, dtype=torch.int64)}, torch.zeros(1, 1, dtype=torch.bool))
    exact = math.exp(6.125)
    for draws in (100, 1000, 10_000):
        value = infer(model, batch, ["n"], draws=draws)["n"].value.item()
        assert value == pytest.approx(exact, rel=5 * math.sqrt(math.expm1(0.25) / draws))
