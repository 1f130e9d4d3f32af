"""The engine: executes any plan of ELBO terms, doing no work for what is absent or not asked for.

1. every present modality is encoded once a step, only the rows in which it is present;
2. all posteriors at once: one product of ``given`` with the experts' precisions;
3. one reparameterised draw for each (term, row), or one for each component where posteriors are mixtures;
4. each decoder runs only on the (term, row) pairs whose ``targets`` ask for it: in one call where its rows are
   independent, else once a term. A decoder with BatchNorm thus keeps its statistics per term; pooled over the
   terms they would make another objective.

Encoding once means that the terms of a step share one dropout mask and one update of the running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import Gaussian, Posterior
from modalkit.model.vae import Group, MultimodalVAE, spread, take
from modalkit.nn import can_part, parted
from modalkit.nn.stacked import Chosen
from modalkit.plugin import Plan


@dataclass(frozen=True)
class Elbo:
    """A step's ELBO, in parts: one number for each term and row, zero where a row takes no part.

    Attributes:
        plan: what was evaluated, without what is absent.
        log_px: per modality log p(x_m|z), unweighted, `(terms, batch)`.
        kl: KL(q(z|X) || p(z)), `(terms, batch)`.
        elbo: weighted log-likelihoods minus beta times the weighted KLs, `(terms, batch)`.
    """

    plan: Plan
    log_px: dict[str, Tensor]
    kl: Tensor
    elbo: Tensor

    def sums(self) -> Sums:
        """Return sums over rows and the rows that took part, by name; parts in which none did are left out.

        ``elbo`` sums all terms; ``elbo/TERM`` is one term's; ``kl`` and ``log_px/MODALITY`` are those of the first
        term, which is the complete one wherever a plan has it. One transfer from the device fetches all.
        """
        part = (self.plan.given | self.plan.targets).any(-1).sum(1).tolist()  # (terms,)
        scored = self.plan.targets[0].sum(0).tolist()  # (modalities,)
        names = ["elbo", "kl", *(f"elbo/{t}" for t in self.plan.terms), *(f"log_px/{n}" for n in self.log_px)]
        rows = [self.elbo.shape[1], part[0], *part, *scored]
        sums = [self.elbo.sum(), self.kl[0].sum(), *self.elbo.sum(1), *(v[0].sum() for v in self.log_px.values())]
        totals = torch.stack([total.detach() for total in sums]).tolist()
        return {name: (total, count) for name, total, count in zip(names, totals, rows, strict=True) if count}


Sums = dict[str, tuple[float, int]]
"""By name a sum over rows, in nats, and how many rows there were."""


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

    with the plan's `weight` w, `kl_weight` v and `references` r; by default w = v = 1 and r = 0, equation 4. The
    expectation is estimated with one draw, or with one of each component where posteriors are mixtures.

    Args:
        model: the networks; their mode (train or eval) is theirs.
        batch: values on the model's device, `present` on the CPU.
        plan: terms; what is absent is neither given nor a target, whatever the plan says.
        noise: standard normal, `(model.components * terms, batch, latent_dim)`, on the model's device.
        beta: weight of the KLs, at least 0.

    Source:
        Wu & Goodman 2018, equation 4.
    """
    given, targets = plan.given & batch.present, plan.targets & batch.present
    observed = model.observed(batch)
    posterior, alone = _posteriors(model, observed, batch.present, given, plan.references is not None)
    draws = _draw(posterior, noise)
    inputs = model.decoder_inputs(draws.z, observed, batch.present)
    weight = _on(plan.weight, noise)
    kl_weight = weight if plan.kl_weight is None else _on(plan.kl_weight, noise)
    log_px: dict[str, Tensor] = {}
    elbo = -beta * kl_weight * draws.kl
    for group in model.groups:
        wanted = draws.pairs(targets[:, :, group.columns])
        scores = draws.mean(_score_group(model, group, inputs, observed.whole(group), wanted))
        weights = elbo.new_tensor([model.schemas[name].weight for name in group.names])
        elbo = elbo + weight * (scores @ weights)
        log_px |= zip(group.names, scores.unbind(-1), strict=True)
    for column, name in enumerate(model.names):
        if name in log_px:
            continue
        wanted = draws.pairs(targets[:, :, column])
        log_px[name] = draws.mean(_score(model, name, inputs, observed[name], batch.present[:, column], wanted))
        elbo = elbo + weight * model.schemas[name].weight * log_px[name]
    if isinstance(posterior, Gaussian) and alone:
        apart = torch.stack([posterior.kl_to(one) for one in alone], -1)  # (terms, batch, modalities)
        references = _on(plan.references, noise) * batch.present.to(noise.device)
        elbo = elbo - beta * (references * apart).sum(-1)
    return Elbo(replace(plan, given=given, targets=targets), log_px, draws.kl, elbo)


@dataclass(frozen=True)
class _Draws:
    """Draws of z for every term and row: one, or one of each component.

    Attributes:
        z: `(components * terms, batch, latent_dim)`.
        kl: KL(q || p), `(terms, batch)`.
        share: the components' weights, `(components, terms, batch)`; None if there is but one.
    """

    z: Tensor
    kl: Tensor
    share: Tensor | None = None

    def pairs(self, targets: Tensor) -> Tensor:
        """Return which draws must be scored, bool `(components * terms, batch, ...)`, of `(terms, batch, ...)`."""
        if self.share is None:
            return targets
        there = (self.share > 0).cpu()  # (components, terms, batch)
        return (targets & there.reshape(*there.shape, *[1] * (targets.ndim - 2))).flatten(0, 1)

    def mean(self, scores: Tensor) -> Tensor:
        """Return the components' mean, `(components * terms, batch, ...) -> (terms, batch, ...)`."""
        if self.share is None:
            return scores
        scores = torch.unflatten(scores, 0, self.share.shape[:2])  # (components, terms, batch, ...)
        return (self.share.reshape(*self.share.shape, *[1] * (scores.ndim - 3)) * scores).sum(0)


def _draw(posterior: Posterior, noise: Tensor) -> _Draws:
    """Draw from every term's posterior, from every component of one that is a mixture.

    Args:
        posterior: `(terms, batch, latent_dim)`.
        noise: `(components * terms, batch, latent_dim)`.
    """
    if isinstance(posterior, Gaussian):
        return _Draws(posterior.rsample(noise), posterior.kl_to_prior())
    share = posterior.log_weight.exp()
    z = posterior.parts.rsample(noise.reshape(posterior.parts.loc.shape))  # -> (components, terms, batch, latent_dim)
    kl = posterior.kl_to_prior(z).where(share > 0, 0)
    return _Draws(z.flatten(0, 1), (share * kl).sum(0), share)


def _posteriors(
    model: MultimodalVAE, observed: Mapping[str, Tensor], present: Tensor, given: Tensor, references: bool
) -> tuple[Posterior, list[Gaussian] | None]:
    """Return the terms' posteriors and, where asked for, every modality's own, all of one encoding.

    Args:
        model: the networks.
        observed: what `model.observed` returned.
        present: bool `(batch, modalities)`.
        given: bool `(terms, batch, modalities)`.
        references: whether the modalities' own posteriors, `(batch,)` each, are asked for.
    """
    if not references:
        return model.posterior(observed, present, given), None
    singles = torch.eye(present.shape[1], dtype=torch.bool)[:, None] & present  # (modalities, batch, modalities)
    both = model.posterior(observed, present, torch.cat([given, singles]))
    if not isinstance(both, Gaussian):
        raise TypeError("a plan with references needs posteriors that are Gaussian")
    terms = len(given)
    return Gaussian(both.loc[:terms], both.precision[:terms]), [
        Gaussian(*one) for one in zip(both.loc[terms:], both.precision[terms:], strict=True)
    ]


def _on(weights: Tensor | None, like: Tensor) -> Tensor:
    """Return a plan's weights on a device, 1 where there are none."""
    return like.new_ones(()) if weights is None else weights.to(like, non_blocking=True)


def _score(model: MultimodalVAE, name: str, z: Tensor, observed: Tensor, present: Tensor, targets: Tensor) -> Tensor:
    """Return one modality's log p(x_m|z) for the (term, row) pairs in `targets`, zeros elsewhere, `(terms, batch)`.

    Args:
        model: the networks.
        name: the modality.
        z: `(terms, batch, latent_dim)`.
        observed: its samples, `(rows in which it is present, *event_shape)`.
        present: bool `(batch,)`, on the CPU.
        targets: bool `(terms, batch)`, on the CPU.
    """
    terms, batch = targets.shape
    place = present.long().cumsum(0) - 1  # where a row's sample lies in `observed`
    parts = targets.sum(1).tolist() if model.mixes_rows[name] else None
    # One call for all pairs at once, unless the decoder can only be kept from mixing terms by a call for each.
    apart = parts is not None and not can_part(model.decoders[name])
    calls = targets if apart else targets.flatten()[None]
    draws = z if apart else z.flatten(0, 1)[None]  # (1, terms * batch, latent_dim)
    scores = []
    runs = model.runs(model.decoders[name], calls.any(1)) if name in model.decoders else calls.any(1)
    for wanted, draw, run in zip(calls, draws, runs.tolist(), strict=True):
        pairs = wanted.nonzero().squeeze(1)
        if len(pairs):
            with nullcontext() if parts is None or apart else parted(model.decoders[name], parts):
                log_px = model.log_px(name, take(draw, pairs), _samples(observed, place[pairs % max(1, batch)]))
        else:
            log_px = model.idle(name, draw[:0]) if run else z.new_zeros(0)
        scores.append(spread(log_px, pairs, len(draw)))
    return torch.stack(scores).reshape(terms, batch)


def _score_group(model: MultimodalVAE, group: Group, z: Tensor, values: Tensor, targets: Tensor) -> Tensor:
    """Return log p(x_m|z) of modalities that are alike, zeros where not in `targets`, `(terms, batch, members)`.

    Args:
        model: the networks.
        group: the modalities.
        z: `(terms, batch, latent_dim)`.
        values: their samples, `(members, batch, *event_shape)`.
        targets: bool `(terms, batch, members)`, on the CPU.
    """
    terms, batch, members = targets.shape
    chosen = Chosen.of(targets.flatten(0, 1))  # rows are (term, row) pairs
    if not len(chosen.members):
        return z.new_zeros(targets.shape)
    pairs = chosen.rows.to(z.device)
    samples = values[chosen.members.to(z.device)[:, None], pairs % max(1, batch)]  # (g, most, *event_shape)
    log_px = model.log_px_of(group, chosen.members.tolist(), z.flatten(0, 1)[pairs], samples)
    return chosen.spread(log_px, torch.Size((terms * batch, members))).reshape(members, terms, batch).permute(1, 2, 0)


def _samples(observed: Tensor, places: Tensor) -> Tensor:
    """Return ``observed[places]``, without a copy where that is `observed` itself."""
    same = len(places) == len(observed) and torch.equal(places, torch.arange(len(observed)))
    return observed if same else observed.index_select(0, places.to(observed.device, non_blocking=True))
