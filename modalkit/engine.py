"""The engine: executes any plan of ELBO terms, doing no work for what is absent or not asked for.

1. every present modality is encoded once a step, only the rows in which it is present;
2. all posteriors at once: one product of ``given`` with the experts' precisions;
3. one reparameterised draw for each (term, row);
4. each decoder runs only on the (term, row) pairs whose ``targets`` ask for it: in one call where its rows are
   independent, else once a term. A decoder with BatchNorm thus keeps its statistics per term; pooled over the
   terms they would make another objective.

Encoding once means that the terms of a step share one dropout mask and one update of the running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.model import MultimodalVAE, spread, take
from modalkit.plugin import Plan


@dataclass(frozen=True)
class Elbo:
    """A step's ELBO, in parts: one number for each term and row, zero where a row takes no part.

    Attributes:
        plan: what was evaluated, without what is absent.
        log_px: per modality log p(x_m|z), unweighted, `(terms, batch)`.
        kl: KL(q(z|X) || p(z)), `(terms, batch)`.
        elbo: weighted log-likelihoods minus beta times the KL, `(terms, batch)`.
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
    r"""Evaluate :math:`\sum_m \lambda_m \log p(x_m|z) - \beta KL(q(z|X) \| p(z))` for every term of a plan.

    Args:
        model: the networks; their mode (train or eval) is theirs.
        batch: values on the model's device, `present` on the CPU.
        plan: terms; what is absent is neither given nor a target, whatever the plan says.
        noise: standard normal, `(terms, batch, latent_dim)`, on the model's device.
        beta: weight of the KL, at least 0.

    Source:
        Wu & Goodman 2018, equation 4.
    """
    given, targets = plan.given & batch.present, plan.targets & batch.present
    observed = model.observed(batch)
    posterior = model.posterior(observed, batch.present, given)
    z, kl = posterior.rsample(noise), posterior.kl_to_prior()
    log_px, elbo = {}, -beta * kl
    for column, name in enumerate(model.names):
        log_px[name] = _score(model, name, z, observed[name], batch.present[:, column], targets[:, :, column])
        elbo = elbo + model.schemas[name].weight * log_px[name]
    return Elbo(Plan(plan.terms, given, targets), log_px, kl, elbo)


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
    # One call for all pairs at once, unless the decoder's rows depend on each other.
    calls = targets if model.mixes_rows[name] else targets.flatten()[None]
    draws = z if model.mixes_rows[name] else z.flatten(0, 1)[None]  # (1, terms * batch, latent_dim)
    scores = []
    for wanted, draw in zip(calls, draws, strict=True):
        pairs = wanted.nonzero().squeeze(1)
        if len(pairs):
            log_px = model.log_px(name, take(draw, pairs), _samples(observed, place[pairs % max(1, batch)]))
        else:
            log_px = z.new_zeros(0)
        scores.append(spread(log_px, pairs, len(draw)))
    return torch.stack(scores).reshape(terms, batch)


def _samples(observed: Tensor, places: Tensor) -> Tensor:
    """Return ``observed[places]``, without a copy where that is `observed` itself."""
    same = len(places) == len(observed) and torch.equal(places, torch.arange(len(observed)))
    return observed if same else observed.index_select(0, places.to(observed.device))
