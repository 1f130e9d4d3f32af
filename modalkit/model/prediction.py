"""The prediction of one modality: an average over samples of z, how certain it is, and samples of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data.arrays import packed
from modalkit.model.moments import moments, most_frequent, point, whole
from modalkit.model.vae import MultimodalVAE
from modalkit.pictures import show
from modalkit.plugin import Outcome, Picture, Schema

_NUMBERS = 1 << 21  # numbers of a modality that are decoded at once: 8 MiB a tensor
_HIDDEN = 512  # a decoder's layers have about this width, however small its output


@dataclass(frozen=True, repr=False)
class Prediction:
    r"""The predictive distribution :math:`p(x_m | x_{given}) = E_{q(z|x_{given})} p(x_m|z)` of one modality.

    Attributes:
        schema: the modality's schema.
        value: `(rows, *event_shape)`, in the networks' units (see `in_units`). Reals: the mean. Pictures: the mean
            intensities. Bits: the probability of 1. Classes and levels: the most probable one. Counts: the mean,
            rounded to whole numbers. Texts: the most frequent whole text among the likelihoods' modes.
        samples: `(samples, rows, *event_shape)`; the first samples of z, decoded. All modalities decode the same
            samples of z, so that the samples of a row belong together.
        scale: standard deviation of x_m, `(rows, *event_shape)`. It combines that of the likelihood and that of the
            likelihood's mean over samples of z. None for classes, levels and texts.
        spread: the second of these alone, `(rows, *event_shape)`: how much of x_m the posterior of z leaves open. It is
            the better measure for pictures, whose likelihood is about black and white. None for classes, levels and
            texts, and if there is only one sample of z.
        probability: probability of `value`, `(rows, *event_shape)`; for texts, at each place the share of samples of z
            whose mode agrees there. None if there is a `scale`.
        probabilities: probability of every class or level, `(rows, classes)`; None for all other kinds.
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

    @property
    def outcome(self) -> Outcome:
        """What sort of value stands at each place of a sample."""
        return registry.modality(self.schema.kind).outcome

    def in_units(self, values: Tensor) -> Tensor:
        """Return values or samples in the user's units: standardised numbers go back to their original unit."""
        return in_units(self.schema, values)

    def width_in_units(self, width: Tensor) -> Tensor:
        """Return a `scale` or `spread` in the user's units."""
        return self.in_units(self.value + width) - self.in_units(self.value)

    def show(self, row: int = 0, sample: int | None = None) -> Picture | str:
        """Return a row's value, or one of its samples, as its kind shows it: a uint8 picture or a text."""
        return show(self.schema, self.value[row] if sample is None else self.samples[sample, row])


def in_units(schema: Schema, values: Tensor) -> Tensor:
    """Return values that networks see, `(..., *event_shape)`, in the user's units.

    Floats that are stored as floats are stored in these units. All other values have no other unit.
    """
    return schema.pack(values) if schema.dtype == "float32" and values.is_floating_point() else values


def as_stored(schema: Schema, value: Tensor) -> Tensor:
    """Return predictions, `(rows, *event_shape)`, as a schema stores them.

    Means of bits are rounded to the more probable bit, because only 0 and 1 can be stored. Means of intensities are
    cut to [0, 1], which a Gaussian may leave.
    """
    value = schema.storable(value)
    try:
        return torch.from_numpy(packed(schema, value))
    except ValueError:
        return torch.from_numpy(packed(schema, value.round()))


def predict(model: MultimodalVAE, name: str, inputs: Tensor, samples: int, *, noise: bool) -> Prediction:
    """Predict a modality from samples of z, in parts that fit memory.

    Args:
        model: in eval mode.
        name: the modality.
        inputs: what its decoder sees, `(draws, rows, …)`, for instance from `modalkit.model.sampling.sample_posterior`.
        samples: how many of the draws to keep as samples, at most `draws`.
        noise: whether samples are sampled from the likelihoods, or are their means (of counts, rounded; of other
            integer kinds, their modes).

    Returns:
        The prediction, averaged over the draws, on the CPU.
    """
    schema, (draws, rows) = model.schemas[name], inputs.shape[:2]
    outcome = registry.modality(schema.kind).outcome
    decoded = _decode(model, name, inputs, samples * rows if noise else 0)
    points = torch.unflatten(decoded.points, 0, (draws, rows))  # (draws * rows, …) -> (draws, rows, …)
    if noise and samples:
        kept = torch.unflatten(decoded.sampled, 0, (samples, rows))
    else:
        kept = points[:samples].argmax(-1) if outcome.is_one_of_several else points[:samples].clone()
    if outcome.is_one_of_several:
        probabilities = points.mean(0)  # (rows, classes)
        probability, value = probabilities.max(-1)
        return Prediction(schema, value, kept, probability=probability, probabilities=probabilities)
    value = points.mean(0) if points.is_floating_point() else most_frequent(points)
    if decoded.moments is not None:
        mean, variance = (torch.unflatten(one, 0, (draws, rows)) for one in decoded.moments)
        if outcome is Outcome.COUNT:
            value = whole(mean.mean(0))
        if outcome is Outcome.PICTURE:
            value = schema.storable(value)  # the mean of a Gaussian can be outside [0, 1]
        between = mean.var(0) if draws > 1 else torch.zeros_like(value, dtype=mean.dtype)
        scale = (variance.mean(0) + between).sqrt()
        return Prediction(schema, value, kept, scale, between.sqrt() if draws > 1 else None)
    agreement = None if points.is_floating_point() else (points == value).float().mean(0)
    return Prediction(schema, value, kept, probability=agreement)


def probability_of(prediction: Prediction, filled: Tensor) -> Tensor | None:
    """Return the probability of stored values.

    Args:
        prediction: the prediction of each row.
        filled: one value for each row, as stored, `(rows, *event_shape)`.

    Returns:
        For classes, levels and bits the probability of `filled`, `(rows, *event_shape)`; for texts that of the
        prediction's value. None for kinds whose certainty is a `scale`.
    """
    if prediction.probabilities is not None:
        index = prediction.schema.unpack(filled).long().unsqueeze(1)
        return prediction.probabilities.gather(1, index).squeeze(1)  # (rows, classes) -> (rows,)
    if prediction.outcome is Outcome.BINARY:
        return 1 - (prediction.schema.unpack(filled) - prediction.value).abs()
    return prediction.probability


@dataclass(frozen=True)
class _Decoded:
    """What the likelihoods of several samples of z say, row after row, on the CPU.

    Attributes:
        points: of each its mean, mode or probabilities, `(draws * rows, …)`.
        sampled: one sample of each of the first, `(…, *event_shape)`.
        moments: mean and variance of each, `(draws * rows, *event_shape)`; None if they have none.
    """

    points: Tensor
    sampled: Tensor
    moments: tuple[Tensor, Tensor] | None


def _decode(model: MultimodalVAE, name: str, inputs: Tensor, sampled: int) -> _Decoded:
    """Decode inputs, `(draws, rows, …)`, in parts that fit memory, and sample the first `sampled` likelihoods."""
    schema, flat = model.schemas[name], inputs.flatten(0, 1)  # (draws, rows, …) -> (draws * rows, …)
    outcome = registry.modality(schema.kind).outcome
    floating = schema.unpack(schema.zeros(1)).is_floating_point()
    points: list[Tensor] = []
    means: list[Tensor] = []
    variances: list[Tensor] = []
    samples: list[Tensor] = []
    size = max(1, _NUMBERS // max(_HIDDEN, math.prod(schema.event_shape)))
    for start in range(0, len(flat), size):
        likelihood: Any = model.likelihood(name, flat[start : start + size])
        if outcome.is_one_of_several:
            points.append(likelihood.probs.cpu())
        else:
            points.append(point(outcome, likelihood, floating).cpu())
        if (both := moments(outcome, likelihood, floating)) is not None:
            means.append(both[0].cpu())
            variances.append(both[1].cpu())
        if start < sampled:
            samples.append(likelihood.sample().cpu())
    kept = torch.cat(samples)[:sampled] if samples else torch.cat(points)[:0]
    return _Decoded(torch.cat(points), kept, (torch.cat(means), torch.cat(variances)) if means else None)
