"""Results of a trained model: moments of posteriors, predictions of several modalities, rows without gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import Mixture, Posterior
from modalkit.model.prediction import Prediction


@dataclass(frozen=True)
class Embedding:
    """Mean and standard deviation of posteriors q(z|x_given); of a mixture, those of the whole mixture.

    Attributes:
        loc: mean, `(rows, latent_dim)`.
        scale: standard deviation, the same shape.
    """

    loc: Tensor
    scale: Tensor


@dataclass(frozen=True, repr=False)
class Inference(Mapping[str, Prediction]):
    """Predictions of several modalities: a mapping from their names to `Prediction` objects.

    Attributes:
        predictions: the same, as a dictionary.
        posterior: the posterior of z that they are made from.
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
    """Rows whose absent entries are filled, as far as the model has posteriors.

    Attributes:
        batch: the rows as a dataset stores them.
        imputed: which entries were filled, bool `(rows, modalities)`.
        known: by modality which numbers of filled entries are those of the dataset, bool `(rows, *event_shape)`. It
            has the modalities of whose absent entries the dataset knows a part (`modalkit.Dataset.known`).
        given: the modalities that each row's entries were predicted from, bool `(rows, modalities)`: all that the row
            has, or the first that has a posterior alone if the model has none of all.
        scale: by modality the standard deviation of filled entries, `(rows, *event_shape)`, NaN elsewhere; see
            `Prediction`.
        probability: the same for classes, levels, texts and bits: the probability of filled entries.
    """

    batch: Batch
    imputed: Tensor
    known: dict[str, Tensor]
    given: Tensor
    scale: dict[str, Tensor]
    probability: dict[str, Tensor]


def moments(posterior: Posterior) -> Embedding:
    """Return mean and standard deviation of a posterior, `(1, rows, latent_dim) -> (rows, latent_dim)`."""
    found = moments_of_terms(posterior)
    return Embedding(found.loc[0].cpu(), found.scale[0].cpu())


def moments_of_terms(posterior: Posterior) -> Embedding:
    """Return mean and standard deviation of posteriors, `(terms, rows, latent_dim)`, on their device."""
    if not isinstance(posterior, Mixture):
        return Embedding(posterior.loc, posterior.scale)
    weight, parts = posterior.log_weight.exp().unsqueeze(-1), posterior.parts  # (components, terms, rows, 1)
    loc = (weight * parts.loc).sum(0)
    variance = (weight * (parts.variance + (parts.loc - loc).square())).sum(0)
    return Embedding(loc, variance.sqrt())


def joined_embeddings(parts: Sequence[Embedding]) -> Embedding:
    """Concatenate the posteriors of several chunks of rows."""
    return Embedding(torch.cat([p.loc for p in parts]), torch.cat([p.scale for p in parts]))


def joined_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Concatenate the predictions of several chunks of rows."""
    first = parts[0]
    optional = {}
    for field in ("value", "scale", "spread", "probability", "probabilities"):
        if getattr(first, field) is not None:
            optional[field] = torch.cat([getattr(part, field) for part in parts])
    return Prediction(first.schema, samples=torch.cat([part.samples for part in parts], 1), **optional)
