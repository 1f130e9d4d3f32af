"""Log-likelihoods by importance sampling, for any targets and givens, and how good the proposal was."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from modalkit.data import Batch, Dataset
from modalkit.data.reading import draw, draws
from modalkit.distributions import log_prior
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.util.randomness import generator

_log = logging.getLogger(__name__)

_NUMBERS = 1 << 21  # of a modality, decoded at once: 8 MiB a tensor, which a CPU's cache still helps with
_HIDDEN = 512  # a decoder's layers are about so wide, however small what it gives
_NOISE = 1 << 23  # numbers of noise drawn at once
_MOST_ROWS = 100


@dataclass(frozen=True)
class Estimate:
    """What importance sampling says of each row.

    Attributes:
        log_p: estimate of the log-likelihood, nats, `(rows,)`; NaN where a row has none of what is explained.
        variance: of the log importance weights over particles, `(rows,)`.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and the number of particles, `(rows,)`.
    """

    log_p: Tensor
    variance: Tensor
    ess: Tensor


def summarise(log_w: Tensor) -> Estimate:
    r"""Return :math:`\log \frac1S \sum_s w_s` and what the weights say of the proposal.

    Args:
        log_w: log importance weights, `(samples, rows)`.

    Example:
        >>> estimate = summarise(torch.tensor([[0.0], [0.0]]))
        >>> estimate.log_p.item(), estimate.variance.item(), round(estimate.ess.item(), 5)
        (0.0, 0.0, 2.0)
    """
    total = log_w.logsumexp(0)
    ess = (2 * total - (2 * log_w).logsumexp(0)).exp()
    variance = log_w.var(0) if len(log_w) > 1 else torch.full_like(total, math.nan)
    return Estimate(total - math.log(len(log_w)), variance, ess)


def mask(model: MultimodalVAE, names: Sequence[str]) -> Tensor:
    """Return which modalities are among `names`, bool `(modalities,)`."""
    return torch.tensor([name in names for name in model.names], dtype=torch.bool)


def fetch(dataset: Dataset, schemas: Mapping[str, Schema], rows: Tensor, seed: int) -> Batch:
    """Fetch rows to be evaluated; what is drawn (`Schema.draw`) depends on the seed and the row, on nothing else."""
    batch = dataset[rows]
    if not draws(schemas):
        return batch
    each = [draw(batch.part(slice(i, i + 1)), schemas, generator(seed, "drawn", int(r))) for i, r in enumerate(rows)]
    return Batch({name: torch.cat([one.values[name] for one in each]) for name in batch.values}, batch.present)


@torch.no_grad()
def log_likelihoods(model: MultimodalVAE, batch: Batch, z: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return log p(x_m|z) for many draws of z a row, zeros where a row has no x_m; decoded in parts that fit memory.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        z: `(samples, batch, latent_dim)`.
        names: the modalities m.

    Returns:
        `(samples, batch)` for each name.
    """
    observed, found = model.observed(batch), {}
    for name in names:
        column = model.names.index(name)
        rows = batch.present[:, column].nonzero().squeeze(1)
        scores = z.new_zeros(z.shape[:2])
        numbers = max(_HIDDEN, math.prod(model.schemas[name].event_shape)) * max(1, len(rows))
        for part in torch.split(torch.arange(len(z)), max(1, _NUMBERS // numbers)):
            if not len(rows):
                break
            inputs = model.decoder_inputs(z[part], observed, batch.present)[:, rows.to(z.device)]
            value = observed[name].expand(len(part), *observed[name].shape)
            # (samples, rows, …) -> (samples * rows, …)
            log_px = model.log_px(name, inputs.flatten(0, 1), value.flatten(0, 1))
            scores[part[0] : part[-1] + 1, rows.to(z.device)] = log_px.reshape(len(part), len(rows))
        found[name] = scores
    return found


@torch.no_grad()
def log_weights(
    model: MultimodalVAE,
    batch: Batch,
    proposal: Sequence[str],
    explained: Sequence[Sequence[str]],
    noise: Tensor,
    choice: Tensor,
) -> list[Tensor]:
    r"""Return log importance weights :math:`\log p(z) + \sum_m \log p(x_m|z) - \log q(z|x_{proposal})`, z drawn from q.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        proposal: the modalities whose posterior q proposes; of them each row uses those that it has.
        explained: several sets of modalities m; each row counts those that it has.
        noise: standard normal, `(samples, batch, latent_dim)`.
        choice: uniform in [0, 1), `(samples, batch)`.

    Returns:
        `(samples, batch)` for each set.

    Source:
        Wu & Goodman 2018, equations 5 and 6.
    """
    observed = model.observed(batch)
    given = batch.present & mask(model, proposal)
    posterior = model.posterior(observed, given, given[None])  # which encodes nothing else
    z = posterior.sample(noise.unsqueeze(1), choice.unsqueeze(1))  # (samples, 1, batch, latent_dim)
    log_w = (log_prior(z) - posterior.log_prob(z)).squeeze(1)  # (samples, batch)
    z = z.squeeze(1)
    log_px = log_likelihoods(model, batch, z, [n for n in model.names if any(n in e for e in explained)])
    return [log_w + sum((log_px[n] for n in names), torch.zeros_like(log_w)) for names in explained]


def batches(rows: Tensor, particles: int, latent_dim: int) -> Iterator[tuple[int, Tensor]]:
    """Cut rows into parts whose noise fits memory, each with the index of its first row; the same on every machine."""
    size = max(1, min(_MOST_ROWS, _NOISE // (particles * latent_dim)))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def importance(
    model: MultimodalVAE,
    batch: Batch,
    proposal: Sequence[str],
    explained: Sequence[Sequence[str]],
    particles: int,
    draws_of: torch.Generator,
) -> list[Estimate]:
    """Estimate the log-likelihood of several sets of modalities with one proposal's draws.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        proposal: see `log_weights`.
        explained: see `log_weights`.
        particles: number of draws a row.
        draws_of: a generator of the CPU.
    """
    noise = torch.randn(particles, len(batch), model.latent_dim, generator=draws_of)
    choice = torch.rand(particles, len(batch), generator=draws_of)
    noise, choice = (one.to(model.device, model.dtype) for one in (noise, choice))
    weights = log_weights(model, batch.to(model.device), proposal, explained, noise, choice)
    found = []
    for names, log_w in zip(explained, weights, strict=True):
        estimate = summarise(log_w.double().cpu())
        nothing = ~(batch.present & mask(model, names)).any(1) | ~model.allows(batch.present & mask(model, proposal))
        found.append(Estimate(*(part.masked_fill(nothing, math.nan) for part in vars(estimate).values())))
    return found


@torch.no_grad()
def evidence_by_prior(model: MultimodalVAE, batch: Batch, names: Sequence[str], prior: PriorDraws) -> Tensor:
    r"""Return :math:`\log \frac1S \sum_s \prod_m p(x_m|z_s)` with draws of the prior that all rows share.

    Rows that agree in all of `names` are computed once, so that ten labels cost ten rows.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        names: the modalities m; each row counts those that it has.
        prior: the draws.

    Returns:
        `(batch,)`, 0 where a row has none of them.

    Source:
        Wu & Goodman 2018, equation 7, second expectation.
    """
    chosen = mask(model, names)
    parts = [batch.values[n].reshape(len(batch), -1).double() for n in names]
    keys = torch.cat([*parts, (batch.present & chosen).double()], 1)  # (batch, numbers)
    unique, index = torch.unique(keys, dim=0, return_inverse=True)
    first = torch.zeros(len(unique), dtype=torch.long).scatter_(0, index.flip(0), torch.arange(len(batch)).flip(0))
    found = []
    for row, key in zip(first.tolist(), unique, strict=True):
        known = (tuple(names), key.numpy().tobytes())
        if known not in prior.found:
            prior.found[known] = prior.log_mean(batch, names, row)
        found.append(prior.found[known])
    return torch.stack(found)[index] if found else torch.zeros(0, dtype=torch.double)


class PriorDraws:
    """Draws of the prior, each modality's likelihood given them made once.

    Args:
        model: in eval mode.
        samples: how many.
        draws_of: a generator of the CPU.

    Attributes:
        found: what has been computed, by the modalities and a row's values of them.
    """

    def __init__(self, model: MultimodalVAE, samples: int, draws_of: torch.Generator) -> None:
        z = torch.randn(samples, model.latent_dim, generator=draws_of)
        self.model, self.z = model, z.to(model.device, model.dtype)
        self.likelihoods: dict[str, Distribution] = {}
        self.found: dict[tuple[tuple[str, ...], bytes], Tensor] = {}

    @torch.no_grad()
    def log_mean(self, batch: Batch, names: Sequence[str], row: int) -> Tensor:
        """Return the log of the mean over draws of the product of p(x_m|z), m being what the row has of `names`."""
        one = batch.part(slice(row, row + 1)).to(self.model.device)
        observed, total = self.model.observed(one), self.z.new_zeros(len(self.z))
        for name in names:
            if one.present[0, self.model.names.index(name)]:
                if name not in self.likelihoods:
                    self.likelihoods[name] = self.model.likelihood(name, self.z)
                total = total + self.likelihoods[name].log_prob(observed[name])  # (1, *event_shape) -> (samples,)
        return (total.logsumexp(0) - math.log(len(total))).double().cpu()
