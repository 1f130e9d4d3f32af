"""The MVAE's objective in its plain form: the whole model runs once per ELBO term, and everything is decoded.

It shares no code with the engine. Tests compare the engine's loss and gradients with it, and the benchmark compares the
speed. It encodes and decodes anew in each term, and adds up experts one at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan


def once_per_term_loss(
    model: MultimodalVAE, batch: Batch, plan: Plan, noise: Tensor, beta: float, *, decode_all_rows: bool = True
) -> Tensor:
    """Return the loss of a plan.

    Args:
        model: the networks, in training mode; without dropout if the loss is compared with another evaluation.
        batch: the rows.
        plan: the terms.
        noise: `(terms, batch, latent_dim)`.
        beta: weight of the KL.
        decode_all_rows: decode every modality for every row in every term; otherwise only the rows that are scored.
            If modalities are missing and a decoder has BatchNorm, the two are different objectives, and the engine
            evaluates the second.
    """
    total = noise.new_zeros(())
    for term in range(len(plan.terms)):
        given = plan.given[term] & batch.present
        targets = plan.targets[term] & batch.present
        precision = torch.ones_like(noise[term])
        weighted = torch.zeros_like(noise[term])
        for m, name in enumerate(model.names):
            if not given[:, m].any():
                continue
            here = batch.present[:, m]
            value = model.schemas[name].unpack(batch.values[name][here])
            value = value.to(noise.dtype) if value.is_floating_point() else value
            loc, log_variance = model.heads[name](model.encoders[name](value)).chunk(2, dim=1)
            for expert, row in enumerate(here.nonzero().flatten().tolist() if not here.all() else []):
                if given[row, m]:
                    t = torch.exp(-log_variance[expert])
                    precision = precision.index_add(0, torch.tensor([row]), t[None])
                    weighted = weighted.index_add(0, torch.tensor([row]), (t * loc[expert])[None])
            if here.all():
                t = torch.exp(-log_variance) * given[:, m, None]
                precision = precision + t
                weighted = weighted + t * loc
        mean, variance = weighted / precision, 1 / precision
        z = mean + noise[term] * variance.sqrt()
        kl = -0.5 * (1 + variance.log() - mean**2 - variance).sum(1)
        total = total + beta * kl.sum()
        for m, name in enumerate(model.names):
            rows = torch.ones(len(z), dtype=torch.bool) if decode_all_rows else targets[:, m]
            if not rows.any():
                continue
            raw = model.decoders[name](z[rows])
            if not targets[:, m].any():
                continue
            value = model.schemas[name].unpack(batch.values[name][rows])
            value = value.to(noise.dtype) if value.is_floating_point() else value
            log_px = model.kinds[name].likelihood(model.schemas[name], raw).log_prob(value)
            total = total - model.schemas[name].weight * (log_px * targets[rows, m]).sum()
    return total / len(batch)
