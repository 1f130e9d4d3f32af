"""What a sampler learns from: samples of z of data rows, and what a random subset of each row says about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import draw, evenly
from modalkit.errors import InputError
from modalkit.inference.results import Embedding, moments, moments_of_terms
from modalkit.inference.sampler import shaped
from modalkit.inference.subsets import usable
from modalkit.model.sampling import sample_noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

_MOST_ROWS = 50_000
_MOST_EACH = 32
_NUMBERS = 1 << 25  # numbers of all pairs: 128 MiB
_AT_ONCE = 1 << 24  # numbers of the pairs of one chunk
_CHUNK = 256
_NOTHING = 0.4  # share of pairs whose subset is empty


@dataclass(frozen=True)
class Pairs:
    """Samples of z, each with a subset of what its row has.

    Attributes:
        z: samples of q(z | all that the row has), `(pairs, latent_dim)`.
        posterior: moments of q(z | the subset), `(pairs, latent_dim)`.
        given: the subset, bool `(pairs, modalities)`.
        variance: mean variance of q(z | all that a row has), `(latent_dim,)`.
        noise: noise with the correlations of q(z | the subset), `(pairs, latent_dim)`; None if it has none. These
            depend on the subset alone.
    """

    z: Tensor
    posterior: Embedding
    given: Tensor
    variance: Tensor
    noise: Tensor | None

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: Tensor) -> Pairs:
        posterior = Embedding(self.posterior.loc[index], self.posterior.scale[index])
        noise = None if self.noise is None else self.noise[index]
        return Pairs(self.z[index], posterior, self.given[index], self.variance, noise)


def make_pairs(model: MultimodalVAE, dataset: Dataset, rows: Tensor, seed: int, what: str) -> Pairs:
    """Sample pairs from rows of a dataset: several for each row, each with a sample and a subset of its own.

    Args:
        model: in eval mode.
        dataset: has the model's modalities, in its order.
        rows: int64 `(rows,)`. Of more than 50,000, as many are taken, evenly spread.
        seed: seed of the samples and the subsets.
        what: a few words for the progress bar.

    Raises:
        InputError: the model has no posterior of what any row has.
    """
    rows = _with_posterior(model, dataset, rows)
    rows = evenly(rows, _MOST_ROWS)
    each = max(1, min(_MOST_EACH, _NUMBERS // (4 * model.latent_dim * len(rows))))
    numbers = each * model.latent_dim
    if len(model.measurements) and model.latent_dim**2 << min(len(model.names), 30) > _AT_ONCE:
        numbers *= model.latent_dim  # each subset may have a matrix of its own
    parts = []
    with bar(len(rows), what, unit="row", leave=False) as progress, torch.no_grad():
        for index, some in enumerate(torch.split(rows, max(1, min(_CHUNK, _AT_ONCE // numbers)))):
            parts.append(_pairs(model, dataset, some, each, generator(seed, what, index)))
            progress.update(len(some))
    z, loc, scale, noise, given, variance = (torch.cat(one) for one in zip(*parts, strict=True))
    correlated = noise if len(model.measurements) else None
    return Pairs(z, Embedding(loc, scale), given, variance.mean(0), correlated)


def random_subsets(model: MultimodalVAE, present: Tensor, terms: int, random: torch.Generator) -> Tensor:
    """Choose random subsets of each row's modalities, among those that the model has a posterior of.

    Two fifths of them are empty; the others are uniform by size, and then by content. A subset without a posterior
    becomes one of its modalities that has one alone, or else empty, or else all that the row has.

    Args:
        model: says which subsets have a posterior.
        present: what the rows have, bool `(rows, modalities)`; the model has a posterior of it.
        terms: number of subsets of each row.
        random: source of the choices.

    Returns:
        bool `(terms, rows, modalities)`.
    """
    shape = (terms, *present.shape)
    order = torch.rand(shape, generator=random).masked_fill(~present, 2)
    count = present.sum(1)
    size = 1 + (torch.rand(shape[:2], generator=random) * count).long().clamp(max=count - 1)
    size = size.masked_fill(torch.rand(shape[:2], generator=random) < _NOTHING, 0)
    chosen = (order.argsort(-1).argsort(-1) < size.unsqueeze(-1)) & present
    single = model.allows(torch.eye(present.shape[1], dtype=torch.bool))
    first = order.masked_fill(~(chosen & single), 2).argmin(-1, keepdim=True)
    alone = torch.zeros_like(chosen).scatter_(-1, first, True) & chosen & single
    for instead in (alone, torch.zeros_like(chosen), present.expand(shape)):
        chosen = torch.where(model.allows(chosen).unsqueeze(-1), chosen, instead)
    return chosen


def _with_posterior(model: MultimodalVAE, dataset: Dataset, rows: Tensor) -> Tensor:
    """Return the rows of all of whose modalities the model has a posterior, or else those with a posterior of some."""
    present = dataset.present[rows]
    whole = model.allows(present) & present.any(1)
    if not bool(whole.any()):
        whole = usable(model, present).any(1)
    if not bool(whole.any()):
        raise InputError(
            f"{dataset.path}: has no row to fit a sampler to: the model has no posterior of what they have"
        )
    return rows[whole]


def _pairs(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, each: int, random: torch.Generator
) -> tuple[Tensor, ...]:
    """Return z, moments, noise and subset of `each` pairs of each row, and each row's variances; see `Pairs`."""
    batch = draw(dataset[rows], model.schemas, random)
    observed = model.observed(batch.to(model.device))
    whole = usable(model, batch.present)
    noise = sample_noise(each, 1, len(rows), model.latent_dim, random)
    sampled = sample_z(model, observed, batch.present, whole[None], noise)
    given = random_subsets(model, whole, each, random)
    posterior = model.posterior(observed, batch.present, given)
    found = moments_of_terms(posterior)
    normal = torch.randn(found.loc.shape, generator=random).to(found.loc)
    own = (sampled.z.squeeze(1), found.loc, found.scale, shaped(posterior, normal))
    flat = [part.flatten(0, 1).float().cpu() for part in own]  # (each, rows, …) -> (pairs, latent_dim)
    return *flat, given.flatten(0, 1), moments(sampled.posterior).scale.square().float()
