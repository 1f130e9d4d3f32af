"""The engine: evaluates any plan of ELBO terms, without work for what is absent or not asked for.

1. It encodes every modality once a step, in the rows in which it is present.
2. It computes all posteriors at once: one product of ``given`` with the experts' precisions.
3. It takes a reparameterised sample of z for each (term, row), or of each component of a mixture; a model may ask for
   several.
4. It runs each decoder only on the (term, row) pairs in ``targets``: in one call if the decoder's rows are independent,
   otherwise once a term. So a decoder with BatchNorm has statistics of its own in each term. Statistics pooled over
   the terms would make another objective. Pairs that a decoder must not learn from are decoded in a call of their own,
   with constant parameters, so that gradients reach only z.

Because a modality is encoded once, the terms of a step share one dropout mask and one update of the running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import Mixture, Posterior
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan


@dataclass(frozen=True)
class Elbo:
    """A step's ELBO, in parts: one number for each term and row, zero if the row takes no part in the term.

    Attributes:
        plan: the plan that was evaluated, without what is absent.
        log_px: per modality log p(x_m|z), unweighted, `(terms, batch)`.
        kl: KL(q(z|X) || p(z)), `(terms, batch)`.
        elbo: weighted log-likelihoods minus beta times the weighted KLs, `(terms, batch)`.
    """

    plan: Plan
    log_px: dict[str, Tensor]
    kl: Tensor
    elbo: Tensor

    def sums(self) -> Sums:
        """Return by name the sum over rows and the number of rows that took part, without parts in which none did.

        ``elbo`` is the sum of all terms and ``elbo/TERM`` is one term. ``kl`` and ``log_px/MODALITY`` belong to the
        first term, which is the complete one if the plan has it. One transfer from the device fetches all.
        """
        part = (self.plan.given | self.plan.targets).any(-1).sum(1).tolist()  # (terms,)
        scored = self.plan.targets[0].sum(0).tolist()  # (modalities,)
        names = ["elbo", "kl", *(f"elbo/{t}" for t in self.plan.terms), *(f"log_px/{n}" for n in self.log_px)]
        rows = [self.elbo.shape[1], part[0], *part, *scored]
        sums = [self.elbo.sum(), self.kl[0].sum(), *self.elbo.sum(1), *(v[0].sum() for v in self.log_px.values())]
        totals = torch.stack([total.detach() for total in sums]).tolist()
        return {name: (total, count) for name, total, count in zip(names, totals, rows, strict=True) if count}


Sums = dict[str, tuple[float, int]]
"""By name a sum over rows, in nats, and the number of these rows."""


def means(parts: Iterable[Sums]) -> dict[str, float]:
    """Return the means over rows of several batches' sums.

    >>> means([{"kl": (6.0, 2)}, {"kl": (3.0, 1), "elbo": (4.0, 1)}])
    {'kl': 3.0, 'elbo': 4.0}
    """
    total: dict[str, tuple[float, int]] = {}
    for sums in parts:
        for name, (value, rows) in sums.items():
            before, seen = total.get(name, (0.0, 0))
            total[name] = (before + value, seen + rows)
    return {name: value / rows for name, (value, rows) in total.items()}


def evaluate_plan(model: MultimodalVAE, batch: Batch, plan: Plan, noise: Tensor, beta: float = 1.0) -> Elbo:
    r"""Evaluate every term of a plan.

    .. math::
        w_t E_{q(z|X)} \sum_m \lambda_m \log p(x_m|z)
        - \beta \left( v_t KL(q(z|X) \| p(z)) + \sum_m r_{tm} KL(q(z|X) \| q(z|x_m)) \right)

    Here w is the plan's `weight`, v its `kl_weight` and r its `references`. By default w = v = 1 and r = 0, which is
    equation 4. One sample of z estimates the expectation, or one of each component if posteriors are mixtures.

    Args:
        model: the networks, which stay in their mode (training or evaluation).
        batch: values on the model's device, `present` on the CPU.
        plan: the terms. What is absent is neither given nor a target, whatever the plan says.
        noise: standard normal, `(draws * model.components * terms, batch, latent_dim)`, on the model's device; of a
            model without mixtures, `(terms, batch, latent_dim)`.
        beta: weight of the KLs, at least 0.

    Source:
        Wu & Goodman 2018, equation 4.
    """
    given, targets = plan.given & batch.present, plan.targets & batch.present
    observed = model.observed(batch)
    private = None if plan.private is None else plan.private & batch.present
    posterior, alone = _posteriors(model, observed, batch.present, given, private, plan.references is not None)
    samples = _sample(posterior, noise)
    inputs = model.decoder_inputs(samples.z, observed, batch.present)
    weight = _on(plan.weight, noise)
    kl_weight = weight if plan.kl_weight is None else _on(plan.kl_weight, noise)
    # Without gradients, as in validation, there is nothing to keep from a decoder.
    trains = plan.trains_decoder if torch.is_grad_enabled() else None
    log_px: dict[str, Tensor] = {}
    each = -beta * samples.of_terms(kl_weight) * samples.divergence  # (draws * components * terms, batch)
    each_weight = samples.of_terms(weight)
    for group in model.groups:
        wanted = samples.pairs(targets[:, :, group.columns])
        learns = None if trains is None else wanted & samples.of_terms(trains[:, :, group.columns])
        scores = group.log_px(inputs, observed, batch.present, wanted, learns)
        each = each + group.weighted_sum(scores, each_weight)
        log_px |= zip(group.names, samples.mean(scores).unbind(-1), strict=True)
    elbo = samples.bound(each)
    if alone and not isinstance(posterior, Mixture):
        apart = torch.stack([posterior.kl_to(one) for one in alone], -1)  # (terms, batch, modalities)
        references = _on(plan.references, noise) * batch.present.to(noise.device)
        elbo = elbo - beta * (references * apart).sum(-1)
    kl = samples.mean(samples.divergence.unsqueeze(-1)).squeeze(-1)
    return Elbo(replace(plan, given=given, targets=targets), log_px, kl, elbo)


@dataclass(frozen=True)
class _Samples:
    """Samples of z for every term and row: one each, or some of each component of a mixture.

    Attributes:
        z: `(samples * terms, batch, latent_dim)`; of a mixture, draws times components samples, draws first.
        divergence: the KL of each sample's component, `(samples * terms, batch)`; of a Gaussian, in closed form.
        mixture: the posterior if it is a mixture, else None.
        share: the samples' weights, `(samples, terms, batch)`; None unless the posterior is a mixture.
    """

    z: Tensor
    divergence: Tensor
    mixture: Mixture | None = None
    share: Tensor | None = None

    def pairs(self, targets: Tensor) -> Tensor:
        """Return for which samples a modality must be decoded.

        Args:
            targets: bool `(terms, batch, modalities)`, on the CPU.

        Returns:
            bool `(samples * terms, batch, modalities)`, on the CPU.
        """
        if self.share is None:
            return targets
        there = (self.share > 0).cpu()  # (samples, terms, batch)
        return (targets & there.unsqueeze(-1)).flatten(0, 1)

    def of_terms(self, values: Tensor) -> Tensor:
        """Return values of terms for each sample, `(terms, batch, ...) -> (samples * terms, ...)`; a number stays."""
        if self.share is None or values.ndim == 0:
            return values
        return values.repeat(len(self.share), *[1] * (values.ndim - 1))

    def mean(self, scores: Tensor) -> Tensor:
        """Return the weighted mean over samples.

        Args:
            scores: `(samples * terms, batch, modalities)`.

        Returns:
            `(terms, batch, modalities)`.
        """
        if self.share is None:
            return scores
        scores = torch.unflatten(scores, 0, self.share.shape[:2])  # (samples, terms, batch, modalities)
        return (self.share.unsqueeze(-1) * scores).sum(0)

    def bound(self, each: Tensor) -> Tensor:
        """Return the bound of the evidence, `(samples * terms, batch) -> (terms, batch)`."""
        if self.mixture is None:
            return each
        components, terms = self.mixture.log_weight.shape[:2]
        return self.mixture.bound(torch.unflatten(each, 0, (-1, components, terms)), self.z)


def _sample(posterior: Posterior, noise: Tensor) -> _Samples:
    """Sample from every term's posterior: once, or from each component of a mixture as often as there is noise.

    Args:
        posterior: `(terms, batch, latent_dim)`.
        noise: `(draws * components * terms, batch, latent_dim)`; Gaussians use the first of it.
    """
    if not isinstance(posterior, Mixture):
        return _Samples(posterior.rsample(noise[: len(posterior.loc)]), posterior.kl_to_prior())
    components, terms = posterior.log_weight.shape[:2]
    shape = (-1, components, terms)
    z = posterior.parts.rsample(torch.unflatten(noise, 0, shape)).flatten(0, 2)
    weight = posterior.log_weight.exp()  # (components, terms, batch)
    # Of the flattened samples, which decoders see too, so that whatever is done to their gradients covers the KL.
    kl = posterior.kl_to_prior(torch.unflatten(z, 0, shape)).where(weight > 0, 0)
    draws = len(noise) // (components * terms)
    kl = kl.expand(draws, *weight.shape).flatten(0, 2)
    return _Samples(z, kl, posterior, (weight / draws).repeat(draws, 1, 1))


def _posteriors(
    model: MultimodalVAE, observed: Observed, present: Tensor, given: Tensor, private: Tensor | None, references: bool
) -> tuple[Posterior, list[Any] | None]:
    """Return the terms' posteriors and, if asked for, the posterior of each modality alone, from one encoding.

    Args:
        model: the networks.
        observed: what `model.observed` returned.
        present: bool `(batch, modalities)`.
        given: bool `(terms, batch, modalities)`.
        private: see `MultimodalVAE.posterior_of_terms`.
        references: whether to return the posteriors of single modalities, `(batch, latent_dim)` each.
    """
    if not references:
        return model.posterior_of_terms(observed, present, given, private), None
    singles = torch.eye(present.shape[1], dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    private = None if private is None else torch.cat([private, singles])
    both = model.posterior_of_terms(observed, present, torch.cat([given, singles]), private)
    if isinstance(both, Mixture):
        raise TypeError("a plan with references needs posteriors that are Gaussian")
    return both[: len(given)], [both[at] for at in range(len(given), len(both.loc))]


def _on(weights: Tensor | None, like: Tensor) -> Tensor:
    """Return a plan's weights on the device of `like`; 1 if the plan has none."""
    return like.new_ones(()) if weights is None else weights.to(like, non_blocking=True)
