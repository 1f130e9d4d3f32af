"""One of several ordered levels, such as a grade: cumulative-logit likelihood."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import logsigmoid, pad, softplus

from modalkit.distributions import inverse_softplus
from modalkit.nn import CategoryEncoder
from modalkit.nn import decoder as make_decoder
from modalkit.nn import encoder as make_encoder
from modalkit.plugin import Modality, Outcome

from .label import MODALITY as LABEL
from .label import LabelSchema

_LEAST_GAP = 1e-4


class OrdinalSchema(LabelSchema):
    """A level; its values are integers from 0, the lowest, to `classes - 1`.

    Its own keys are those of a `label`, so that either kind can model the same dataset.
    """

    names: tuple[str, ...] | None = Field(None, description="Names of the levels, from the lowest to the highest.")

    def columns(self, value: Tensor) -> Tensor:
        """Return the thermometer code `(batch, classes - 1)`: column k is 1 if the value is above level k."""
        return Thermometer(self.classes).to(value.device)(value)  # type: ignore[no-any-return]


class Thermometer(nn.Module):
    """Integers `(rows,)` to `(rows, levels - 1)` zeros and ones: which levels but the highest a value is above.

    Source: Cheng, Wang & Pollastri 2008, "A neural network approach to ordinal regression".

    >>> Thermometer(4)(torch.tensor([0, 2]))
    tensor([[0., 0., 0.],
            [1., 1., 0.]])
    """

    levels: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(levels - 1.0), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """Return codes, in the network's precision."""
        return (value.unsqueeze(1) > self.levels).to(self.levels.dtype)


class Decoder(nn.Module):
    """Dense layers from z to a location, and thresholds that all rows share: the proportional-odds model.

    The thresholds start where a location of 0 makes all levels equally likely.
    """

    def __init__(self, schema: OrdinalSchema, latent_dim: int) -> None:
        super().__init__()
        self.location = make_decoder(schema.network, latent_dim, (1,))
        self.thresholds = nn.Parameter(_raw((torch.arange(1, schema.classes) / schema.classes).logit()))

    def forward(self, z: Tensor) -> Tensor:
        """Return locations and the raw thresholds, `(rows, 1 + levels - 1)`."""
        location: Tensor = self.location(z)
        return torch.cat([location, self.thresholds.to(location.dtype).expand(z.shape[0], -1)], 1)


def encoder(schema: OrdinalSchema) -> nn.Module:
    """Return dense layers over the thermometer code."""
    layers, code = make_encoder(schema.network, (schema.classes - 1,)), Thermometer(schema.classes)
    if isinstance(layers, nn.Sequential):
        return CategoryEncoder(schema.classes, code, *layers)
    whole = CategoryEncoder(schema.classes, code, layers)
    whole.apart = True  # a linear path beside the layers sees rows
    return whole


def decoder(schema: OrdinalSchema, latent_dim: int) -> nn.Module:
    """Return a `Decoder`; raw: a location, the first threshold, unbounded gaps between thresholds; `(rows, levels)`."""
    return Decoder(schema, latent_dim)


def likelihood(schema: OrdinalSchema, raw: Tensor) -> Categorical:
    """Return levels whose cumulative logits differ by constants: `P(x <= k | z) = sigmoid(threshold_k - location(z))`.

    The thresholds ascend by softplus of the raw gaps. Between two of them the probability is a product, so that no
    precision is lost: `sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))`.

    Source: McCullagh 1980, "Regression models for ordinal data", section 2 (the proportional odds model).
    """
    gaps = softplus(raw[:, 2:]) + _LEAST_GAP  # (rows, levels - 2)
    logits = raw[:, 1:2] + pad(gaps.cumsum(1), (1, 0)) - raw[:, :1]  # of P(x <= k), k below the highest
    below, above = pad(logsigmoid(logits), (0, 1)), pad(logsigmoid(-logits), (1, 0))  # (rows, levels)
    return Categorical(logits=below + above + pad((-gaps).expm1().neg().log(), (1, 1)), validate_args=False)


def marginal(schema: OrdinalSchema, values: Tensor) -> Tensor:
    """Return a location of 0 and the thresholds at which levels have their frequencies, half a row added to each."""
    counts = torch.bincount(values, minlength=schema.classes) + 0.5  # (levels,)
    up_to, above = counts.cumsum(0)[:-1], counts.flip(0).cumsum(0).flip(0)[1:]
    return torch.cat([counts.new_zeros(1), _raw((up_to / above).log())]).unsqueeze(0)  # (1, levels)


def _raw(thresholds: Tensor) -> Tensor:
    """Return the raw form of ascending thresholds, `(levels - 1,)`: the first, and what `likelihood` makes gaps of."""
    above = (thresholds.diff() - _LEAST_GAP).clamp(min=torch.finfo(thresholds.dtype).eps)
    return torch.cat([thresholds[:1], inverse_softplus(above)])


def correct(schema: OrdinalSchema, predicted: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Tell which levels are right, and which are at most one level away."""
    away = (predicted - values).abs()
    return {"level": away == 0, "within one level": away <= 1}


MODALITY = Modality(
    kind="ordinal",
    summary="one of several ordered levels; cumulative-logit likelihood",
    schema=OrdinalSchema,
    encoder=encoder,
    decoder=decoder,
    likelihood=likelihood,
    show=LABEL.show,
    read=LABEL.read,
    outcome=Outcome.ORDERED,
    marginal=marginal,
    correct=correct,
)
