"""What a model answers with: posteriors in short, predictions of several modalities, rows without gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import Mixture, Posterior
from modalkit.inference.prediction import Prediction


@dataclass(frozen=True)
class Embedding:
    """Posteriors q(z|x_given) in short.

    Attributes:
        loc: mean, `(rows, latent_dim)`.
        scale: standard deviation, same shape. Of a mixture these are the moments of the whole.
    """

    loc: Tensor
    scale: Tensor


@dataclass(frozen=True, repr=False)
class Inference(Mapping[str, Prediction]):
    """What a model says of several modalities; a mapping of their names to predictions.

    Attributes:
        predictions: by modality.
        posterior: of z, given what was given.
    """

    predictions: dict[str, Prediction]
    posterior: Embedding

    def __getitem__(self, name: str) -> Prediction:
        return self.predictions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        rows = len(self.posterior.loc)
        return f"<Inference: {rows} row{'' if rows == 1 else 's'} of {', '.join(self)}>"


@dataclass(frozen=True)
class Imputed:
    """Rows of which nothing is absent any more, but for what no posterior could tell.

    Attributes:
        batch: the rows as a dataset stores them.
        imputed: which entries were filled, bool `(rows, modalities)`.
        known: by modality which numbers of filled entries are as they were given, bool `(rows, *event_shape)`, where
            the dataset knows parts of absent entries (`modalkit.Dataset.known`).
        given: what each row's were inferred from, bool `(rows, modalities)`; where the model has no posterior of all
            that a row has, the first modality of which it has one alone.
        scale: by modality the standard deviation of what was filled, `(rows, *event_shape)`, NaN elsewhere; see
            `Prediction`.
        probability: by modality the probability of what was filled, the same: of classes, texts and bits.
    """

    batch: Batch
    imputed: Tensor
    known: dict[str, Tensor]
    given: Tensor
    scale: dict[str, Tensor]
    probability: dict[str, Tensor]


def moments(posterior: Posterior) -> Embedding:
    """Return mean and standard deviation of a posterior, `(1, rows, latent_dim) -> (rows, latent_dim)`."""
    if not isinstance(posterior, Mixture):
        return Embedding(posterior.loc[0].cpu(), posterior.scale[0].cpu())
    weight, parts = posterior.log_weight.exp().unsqueeze(-1), posterior.parts  # (components, 1, rows, 1)
    loc = (weight * parts.loc).sum(0)
    variance = (weight * (parts.precision.reciprocal() + (parts.loc - loc).square())).sum(0)
    return Embedding(loc[0].cpu(), variance.sqrt()[0].cpu())


def joined_embeddings(parts: Sequence[Embedding]) -> Embedding:
    """Put the posteriors of several chunks of rows together."""
    return Embedding(torch.cat([p.loc for p in parts]), torch.cat([p.scale for p in parts]))


def joined_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Put the predictions of several chunks of rows together."""
    first = parts[0]
    optional = {}
    for field in ("value", "scale", "spread", "probability", "probabilities"):
        if getattr(first, field) is not None:
            optional[field] = torch.cat([getattr(part, field) for part in parts])
    return Prediction(first.schema, samples=torch.cat([part.samples for part in parts], 1), **optional)
