"""Likelihoods of real values and of pictures: Gaussian, Laplace, discretised logistic."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal
from torch.nn.functional import logsigmoid, softplus

__all__ = [
    "DiscretizedLogistics",
    "FixedScale",
    "Gaussians",
    "Laplaces",
    "LearnedScale",
    "best_constant",
    "bits_per_dimension",
]

LearnedScale: TypeAlias = Literal["shared", "per_dimension", "predicted"]
"""How a scale is learned: one for the modality, one for each value, or by the decoder for each value of each row."""

FixedScale: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A scale that is not learned."""

_HALF = 1 / 510  # half the step between two neighbours among the 256 intensities
_LOGISTIC = math.sqrt(3) / math.pi  # scale of a logistic distribution whose standard deviation is 1


class Gaussians(Independent):  # type: ignore[type-arg]  # not generic in every torch
    r"""Independent Gaussians whose log-probability is fast if values share a scale.

    :math:`\log p(x) = -\sum_i \frac{(x_i - loc_i)^2}{2 scale_i^2} + \log scale_i + \frac12 \log 2 \pi`

    Args:
        loc: means, `(*batch_shape, *event_shape)`.
        scale: standard deviations, the same shape or 1 in some dimensions.
        event_dims: number of dimensions of an event.

    Example:
        >>> Gaussians(torch.zeros(2, 3), torch.ones(2, 1), 1).log_prob(torch.zeros(3))
        tensor([-2.7568, -2.7568])
    """

    _family: ClassVar[type[Any]] = Normal

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int) -> None:
        super().__init__(self._family(loc, scale, validate_args=False), event_dims, validate_args=False)
        self._dims, self._scale = tuple(range(-event_dims, 0)), scale

    def _constant(self, one: Tensor) -> Tensor:
        """Return the sum over the event of a function of the scale, computed without repeating shared scales."""
        return one.sum(self._dims) * (self.event_shape.numel() / math.prod(one.shape[i] for i in self._dims))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number per event."""
        square: Tensor = ((value - self.base_dist.loc) / self._scale).square().sum(self._dims)
        return -0.5 * square - self._constant(self._scale.log() + 0.5 * math.log(2 * math.pi))


class Laplaces(Gaussians):
    r"""Independent Laplace distributions, :math:`\log p(x) = -\sum_i |x_i - loc_i| / scale_i + \log 2 scale_i`.

    Args:
        loc: medians, which are also means, `(*batch_shape, *event_shape)`.
        scale: mean absolute deviations, the same shape or 1 in some dimensions; the standard deviation is √2 times as
            large.
        event_dims: number of dimensions of an event.
    """

    _family = Laplace

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number per event."""
        away: Tensor = ((value - self.base_dist.loc) / self._scale).abs().sum(self._dims)
        return -away - self._constant((2 * self._scale).log())


class DiscretizedLogistics(Gaussians):
    r"""Independent distributions over the 256 intensities 0, 1/255 … 1 of a picture stored as bytes.

    A logistic variable is rounded to the nearest of them; what lies below 0 or above 1 counts as 0 or 1. With
    :math:`h = 1/510` and the logistic function :math:`\sigma`,

    :math:`P(x) = \sigma((x + h - loc) / scale) - \sigma((x - h - loc) / scale)`,

    where the first term is 1 for x = 1 and the second is 0 for x = 0. Values are rounded to the nearest intensity.

    `mean` and `variance` are those of the variable after it is cut to [0, 1] and before it is rounded. The mean
    therefore differs from that of the 256 values by at most h.

    Args:
        loc: the logistic variable's means, `(*batch_shape, *event_shape)`; they may lie outside [0, 1].
        scale: its scale, the same shape or 1 in some dimensions; its standard deviation is π/√3 times as large.
        event_dims: number of dimensions of an event.

    Source:
        Salimans et al. 2017, "PixelCNN++", equation 2, with one component.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return one number per event, the log of a probability."""
        return self._of_each(value).sum(self._dims)

    def _of_each(self, value: Tensor) -> Tensor:
        """Return the log-probability of each number, broadcast."""
        # With u = (x - loc) / scale and d = h / scale, sigmoid(u + d) - sigmoid(u - d) is the product
        # sigmoid(u + d) sigmoid(d - u) (1 - exp(-2 d)), which loses no precision where both are close to 0 or 1.
        value = _nearest(value)
        u, d = (value - self.base_dist.loc) / self._scale, _HALF / self._scale
        black, white = value < _HALF, value > 1 - _HALF
        below, above = logsigmoid(u + d).masked_fill(white, 0), logsigmoid(d - u).masked_fill(black, 0)
        return below + above + (-2 * d).expm1().neg().log().masked_fill(black | white, 0)

    @property
    def mean(self) -> Tensor:
        r"""The mean, within [0, 1]: :math:`scale (\zeta(loc / scale) - \zeta((loc - 1) / scale))`, ζ the softplus."""
        loc, scale = self.base_dist.loc, self._scale
        return (scale * (softplus(loc / scale) - softplus((loc - 1) / scale))).clamp(0, 1)

    @property
    def variance(self) -> Tensor:
        r"""The variance, in closed form.

        With :math:`Z(x) = \int_{-\infty}^x \zeta`, the mean of the square is
        :math:`2 scale^2 (Z(loc / scale) - Z((loc - 1) / scale)) - 2 scale \, \zeta((loc - 1) / scale)`.
        """
        loc, scale = self.base_dist.loc.double(), self._scale.double()  # large terms cancel
        low, high = (loc - 1) / scale, loc / scale
        square = 2 * scale.square() * (_softplus_integral(high) - _softplus_integral(low)) - 2 * scale * softplus(low)
        mean = scale * (softplus(high) - softplus(low))
        return (square - mean.square()).clamp(min=0).to(self.base_dist.loc.dtype)

    @property
    def mode(self) -> Tensor:
        """The likeliest of the 256 intensities."""
        near = _nearest(self.base_dist.loc)
        candidates = torch.stack([near, torch.zeros_like(near), torch.ones_like(near)])
        best = torch.stack([self._of_each(one) for one in candidates]).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Sample intensities."""
        loc = self.base_dist.loc
        uniform = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=loc.dtype, device=loc.device)
        logistic = uniform.clamp(torch.finfo(loc.dtype).tiny, 1 - torch.finfo(loc.dtype).eps).logit()
        return _nearest((loc + self._scale * logistic).detach())

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Raise an error: a sample among 256 values has no derivative."""
        raise NotImplementedError("DiscretizedLogistics has discrete samples; use sample")


def _nearest(value: Tensor) -> Tensor:
    """Return the nearest of the 256 intensities."""
    return (value.clamp(0, 1) * 255).round() / 255


def _softplus_integral(x: Tensor) -> Tensor:
    r"""Return :math:`\int_{-\infty}^x \log(1 + e^t) dt = -Li_2(-e^x)` in float64, to about 1e-10.

    For x <= 0 it is the series of the dilogarithm in :math:`w = \log(1 + e^x) <= 0.7`; for x > 0 it is
    :math:`\pi^2/6 + x^2/2` less the value at -x.
    """
    w = softplus(-x.abs())
    series = w + w**2 / 4 + w**3 / 36 - w**5 / 3600 + w**7 / 211_680 - w**9 / 10_886_400 + w**11 / 526_901_760
    return torch.where(x > 0, math.pi**2 / 6 + x.square() / 2 - series, series)


def best_constant(values: Tensor, likelihood: str, *, shared: bool = False) -> tuple[Tensor, Tensor]:
    """Return the location and the scale that suit all rows best.

    For `gaussian` and `laplace` they have the highest likelihood: means and standard deviations, or medians and mean
    absolute deviations. For `discretized_logistic` they have the rows' means and standard deviations.

    Args:
        values: `(rows, *event_shape)`.
        likelihood: `gaussian`, `laplace` or `discretized_logistic`.
        shared: whether there is one scale for all values.

    Returns:
        Locations, `(1, *event_shape)`; scales, the same shape, or 1 in every dimension if shared.

    >>> loc, scale = best_constant(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), "gaussian", shared=True)
    >>> loc, scale
    (tensor([[1., 1.]]), tensor([[0.7071]]))
    """
    every = list(range(values.ndim))
    if likelihood == "laplace":
        loc = values.median(0, keepdim=True).values
        return loc, (values - loc).abs().mean(every if shared else 0, keepdim=True)
    loc, scale = values.mean(0, keepdim=True), values.std(0, keepdim=True, correction=0)
    if shared:
        scale = scale.square().mean(every, keepdim=True).sqrt()
    return loc, scale * _LOGISTIC if likelihood == "discretized_logistic" else scale


def bits_per_dimension(log_p: Tensor, dimensions: int) -> Tensor:
    r"""Return :math:`-\log_2 p(x) / D`, by which models of 8-bit pictures are compared; below 8 beats a uniform guess.

    Args:
        log_p: log-probabilities of pictures in nats, of any shape.
        dimensions: numbers of a picture, D: pixels times channels.

    >>> bits_per_dimension(torch.tensor(10 * math.log(1 / 256)), 10)
    tensor(8.)
    """
    return -log_p / (dimensions * math.log(2))
