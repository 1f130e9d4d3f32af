"""What a model says of one modality: the mean over draws of z, how sure it is, and samples."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from modalkit.evaluation.pictures import show
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Picture, Schema

_log = logging.getLogger(__name__)

_NUMBERS = 1 << 21  # of a modality, decoded at once: 8 MiB a tensor
_HIDDEN = 512  # a decoder's layers are about so wide, however small what it gives


@dataclass(frozen=True, repr=False)
class Prediction:
    r"""The predictive distribution :math:`p(x_m | x_{given}) = E_{q(z|x_{given})} p(x_m|z)` of one modality.

    Attributes:
        schema: the modality's.
        value: `(rows, *event_shape)`, in the networks' units (see `in_units`). Reals: its mean; a bit's is the
            probability of 1, a picture's its intensities. Classes: the likeliest. Other integers: at each place what
            the likelihoods' modes say most often.
        samples: `(samples, rows, *event_shape)`; the first draws of z decoded, the same for every modality, so that
            those of a row belong together.
        scale: standard deviation of x_m, `(rows, *event_shape)`: that of the likelihood and that of its mean over
            draws of z. None for classes and texts.
        spread: the second of these alone: how far z leaves x_m open, `(rows, *event_shape)`; for pictures, whose
            likelihood is of black and white, the one to look at. None for classes and texts, and of a single draw.
        probability: of `value`, at each place, `(rows, *event_shape)`: a class's; of texts the share of draws whose
            mode agrees. None where there is a `scale`.
        probabilities: of every class, `(rows, classes)`; None for everything else.
    """

    schema: Schema
    value: Tensor
    samples: Tensor
    scale: Tensor | None = None
    spread: Tensor | None = None
    probability: Tensor | None = None
    probabilities: Tensor | None = None

    def __repr__(self) -> str:
        rows, shape = len(self.value), " x ".join(map(str, self.schema.event_shape)) or "one value"
        shown = self.show() if rows == 1 else ""
        said = f": {shown}" if isinstance(shown, str) and shown else ""
        many = (
            f"{rows} row{'' if rows == 1 else 's'}, {len(self.samples)} sample{'' if len(self.samples) == 1 else 's'}"
        )
        return f"<Prediction of kind '{self.schema.kind}' ({shape}), {many}{said}>"

    def in_units(self, values: Tensor) -> Tensor:
        """Return values or samples in the units in which a person gives them: standardised numbers in their own."""
        return in_units(self.schema, values)

    def width_in_units(self, width: Tensor) -> Tensor:
        """Return a `scale` or `spread` in those units."""
        return self.in_units(self.value + width) - self.in_units(self.value)

    def show(self, row: int = 0, sample: int | None = None) -> Picture | str:
        """Return what a person sees of a row's value, or of one of its samples: a uint8 picture or a text."""
        return show(self.schema, self.value[row] if sample is None else self.samples[sample, row])


def in_units(schema: Schema, values: Tensor) -> Tensor:
    """Return values that networks see, `(..., *event_shape)`, in the units in which a person gives them.

    Floats that are stored as floats are stored in those units; everything else has no other.
    """
    return schema.pack(values) if schema.dtype == "float32" and values.is_floating_point() else values


def predict(model: MultimodalVAE, name: str, inputs: Tensor, samples: int, *, noise: bool) -> Prediction:
    """Return the prediction that draws of z make, on the CPU; decoded in parts that fit memory.

    Args:
        model: in eval mode.
        name: the modality.
        inputs: what its decoder sees, `(draws, rows, …)`.
        samples: how many of the draws to keep as samples.
        noise: whether samples are drawn from the likelihoods, or are their means (of integers, modes).
    """
    draws, rows = inputs.shape[:2]
    schema, flat = model.schemas[name], inputs.flatten(0, 1)  # (draws, rows, …) -> (draws * rows, …)
    zero = schema.unpack(schema.zeros(1))
    points: list[Tensor] = []
    means: list[Tensor] = []
    variances: list[Tensor] = []
    drawn: list[Tensor] = []
    size = max(1, _NUMBERS // max(_HIDDEN, math.prod(schema.event_shape)))
    classes = False
    for start in range(0, len(flat), size):
        likelihood = model.likelihood(name, flat[start : start + size])
        classes = isinstance(likelihood, Categorical)
        if isinstance(likelihood, Categorical):
            point = likelihood.probs
        else:
            point = likelihood.mean if zero.is_floating_point() else likelihood.mode
        points.append(point.cpu())
        if not classes and (moments := _moments(likelihood)) is not None:
            means.append(moments[0].cpu())
            variances.append(moments[1].cpu())
        if noise and start < samples * rows:
            drawn.append(likelihood.sample().cpu())
    point = torch.unflatten(torch.cat(points), 0, (draws, rows))  # (draws * rows, …) -> (draws, rows, …)
    if noise and samples:
        kept = torch.unflatten(torch.cat(drawn)[: samples * rows], 0, (samples, rows))
    else:
        kept = point[:samples].argmax(-1) if classes else point[:samples].clone()
    if classes:
        probabilities = point.mean(0)  # (rows, classes)
        probability, value = probabilities.max(-1)
        return Prediction(schema, value, kept, probability=probability, probabilities=probabilities)
    value = point.mean(0) if point.is_floating_point() else point.mode(0).values
    if variances:
        mean, variance = (torch.unflatten(torch.cat(one), 0, (draws, rows)) for one in (means, variances))
        between = mean.var(0) if draws > 1 else torch.zeros_like(value, dtype=mean.dtype)
        scale = (variance.mean(0) + between).sqrt()
        return Prediction(schema, value, kept, scale, between.sqrt() if draws > 1 else None)
    agreement = None if point.is_floating_point() else (point == value).float().mean(0)
    return Prediction(schema, value, kept, probability=agreement)


def stores_bits(schema: Schema) -> bool:
    """Tell whether a schema stores zeros and ones, of which a mean is the probability of 1."""
    if schema.dtype == "float32":
        return False
    numbers = torch.arange(3, dtype=getattr(torch, schema.dtype)).reshape(-1, *[1] * len(schema.event_shape))
    every = numbers.expand(-1, *schema.event_shape)
    valid: list[bool] = schema.valid(every).tolist()
    return valid == [True, True, False] and schema.unpack(every[:2]).is_floating_point()


def probability_of(prediction: Prediction, filled: Tensor) -> Tensor | None:
    """Return the probability of what is filled, as stored, or None where a scale says how sure it is."""
    if prediction.probabilities is not None:
        index = prediction.schema.unpack(filled).long().unsqueeze(1)
        return prediction.probabilities.gather(1, index).squeeze(1)  # (rows, classes) -> (rows,)
    if stores_bits(prediction.schema):
        return 1 - (prediction.schema.unpack(filled) - prediction.value).abs()
    return prediction.probability


def _moments(likelihood: Distribution) -> tuple[Tensor, Tensor] | None:
    """Return a likelihood's mean and variance, or None where it does not say them."""
    try:
        return likelihood.mean, likelihood.variance
    except (NotImplementedError, AttributeError):
        return None
