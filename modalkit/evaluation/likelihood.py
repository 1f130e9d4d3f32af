"""Log-likelihoods by importance sampling, for any targets and givens, with measures of how good the proposal is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from modalkit.data import Batch, Dataset
from modalkit.data.reading import draw, redrawn
from modalkit.distributions import log_prior
from modalkit.model.observed import Observed
from modalkit.model.sampling import Noise, mask, sample_noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.util.randomness import generator

_NUMBERS = 1 << 21  # numbers of a modality that are decoded at once: 8 MiB a tensor, which suits the cache of a CPU
_HIDDEN = 512  # a decoder's layers have about this width, however small its output
_NOISE = 1 << 23  # numbers of noise that are sampled at once
_MOST_ROWS = 100


@dataclass(frozen=True)
class Estimate:
    """Importance-sampling estimates, one for each row.

    Attributes:
        log_p: estimate of the log-likelihood, nats, `(rows,)`; NaN if a row has none of the modalities in question.
        variance: variance of the log importance weights over particles, `(rows,)`.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and the number of particles, `(rows,)`.
    """

    log_p: Tensor
    variance: Tensor
    ess: Tensor


def summarise(log_w: Tensor) -> Estimate:
    r"""Return :math:`\log \frac1S \sum_s w_s`, and the variance and effective sample size of the weights.

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


def fetch(dataset: Dataset, schemas: Mapping[str, Schema], rows: Tensor, seed: int) -> Batch:
    """Fetch rows to evaluate. Values that are resampled (`Schema.draw`) depend on the seed and the row alone."""
    batch = dataset[rows]
    if not redrawn(schemas):
        return batch
    each = [draw(batch.part(slice(i, i + 1)), schemas, generator(seed, "drawn", int(r))) for i, r in enumerate(rows)]
    return replace(batch, values={name: torch.cat([one.values[name] for one in each]) for name in batch.values})


@torch.no_grad()
def log_likelihoods(model: MultimodalVAE, batch: Batch, z: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return log p(x_m|z) for many samples of z of each row, decoded in parts that fit memory.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        z: `(samples, batch, latent_dim)`.
        names: the modalities m.

    Returns:
        `(samples, batch)` for each name; 0 for rows without x_m.
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
    noise: Noise,
) -> list[Tensor]:
    r"""Return log importance weights :math:`\log p(z) + \sum_m \log p(x_m|z) - \log q(z|x_{proposal})` of z from q.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        proposal: the modalities whose posterior q proposes z; each row uses those of them that it has.
        explained: several sets of modalities m; each row counts those of them that it has.
        noise: of one term and all rows.

    Returns:
        `(samples, batch)` for each set.

    Source:
        Wu & Goodman 2018, equations 5 and 6.
    """
    observed = model.observed(batch)
    given = batch.present & mask(model, proposal)
    found = sample_z(model, observed, given, given[None], noise)  # z: (samples, 1, batch, latent_dim)
    log_w = (log_prior(found.z) - found.posterior.log_prob(found.z)).squeeze(1)  # (samples, batch)
    names = [n for n in model.names if any(n in e for e in explained)]
    log_px = log_likelihoods(model, batch, found.z.squeeze(1), names)
    return [log_w + sum((log_px[n] for n in names), torch.zeros_like(log_w)) for names in explained]


def batches(rows: Tensor, particles: int, latent_dim: int) -> Iterator[tuple[int, Tensor]]:
    """Split rows into parts whose noise fits memory, the same on every machine; yield each with its first index."""
    size = max(1, min(_MOST_ROWS, _NOISE // (particles * latent_dim)))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def importance(
    model: MultimodalVAE,
    batch: Batch,
    proposal: Sequence[str],
    explained: Sequence[Sequence[str]],
    particles: int,
    noise_from: torch.Generator,
) -> list[Estimate]:
    """Estimate the log-likelihood of several sets of modalities with the same samples from one proposal.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        proposal: see `log_weights`.
        explained: see `log_weights`.
        particles: number of samples of z for each row.
        noise_from: a generator on the CPU.
    """
    noise = sample_noise(particles, 1, len(batch), model.latent_dim, noise_from)
    weights = log_weights(model, batch.to(model.device), proposal, explained, noise)
    found = []
    for names, log_w in zip(explained, weights, strict=True):
        estimate = summarise(log_w.double().cpu())
        nothing = ~(batch.present & mask(model, names)).any(1) | ~model.allows(batch.present & mask(model, proposal))
        found.append(Estimate(*(part.masked_fill(nothing, math.nan) for part in vars(estimate).values())))
    return found


@torch.no_grad()
def evidence_by_prior(model: MultimodalVAE, batch: Batch, names: Sequence[str], prior: PriorDraws) -> Tensor:
    r"""Return :math:`\log \frac1S \sum_s \prod_m p(x_m|z_s)` with samples from the prior that all rows share.

    Rows with equal values of all `names` are computed once: ten labels cost as much as ten rows.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        names: the modalities m; each row counts those of them that it has.
        prior: the samples.

    Returns:
        `(batch,)`; 0 for rows that have none of them.

    Source:
        Wu & Goodman 2018, equation 7, second expectation.
    """
    chosen = mask(model, names)
    parts = [batch.values[n].reshape(len(batch), -1).double() for n in names]
    if (own := batch.covariates) is not None:
        parts += [value.reshape(len(batch), -1).double() for value in own.values.values()]
        parts.append(own.present.double())
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
    """Samples from the prior, decoded once for each modality; with covariates, once for each distinct row.

    Args:
        model: in eval mode.
        samples: number of samples.
        noise_from: a generator on the CPU.

    Attributes:
        found: results so far, by the modalities and a row's values of them.
    """

    def __init__(self, model: MultimodalVAE, samples: int, noise_from: torch.Generator) -> None:
        z = torch.randn(samples, model.latent_dim, generator=noise_from)
        self.model, self.z = model, z.to(model.device, model.dtype)
        self.likelihoods: dict[str, Distribution] = {}
        self.found: dict[tuple[tuple[str, ...], bytes], Tensor] = {}

    @torch.no_grad()
    def log_mean(self, batch: Batch, names: Sequence[str], row: int) -> Tensor:
        """Return the log of the mean over samples of the product of p(x_m|z), for all m in `names` that a row has."""
        one = batch.part(slice(row, row + 1)).to(self.model.device)
        observed, total = self.model.observed(one), self.z.new_zeros(len(self.z))
        for name in names:
            if one.present[0, self.model.names.index(name)]:
                likelihood = self._likelihood(name, observed, one.present)
                total = total + likelihood.log_prob(observed[name])  # (1, *event_shape) -> (samples,)
        return (total.logsumexp(0) - math.log(len(total))).double().cpu()

    def _likelihood(self, name: str, observed: Observed, present: Tensor) -> Distribution:
        """Return p(x_m|z) of all samples, which depends on the row only if the model has covariates."""
        if self.model.covariates is not None:
            inputs = self.model.decoder_inputs(self.z.unsqueeze(1), observed, present)  # (samples, 1, …)
            return self.model.likelihood(name, inputs.squeeze(1))
        if name not in self.likelihoods:
            self.likelihoods[name] = self.model.likelihood(name, self.z)
        return self.likelihoods[name]
