"""How likely values are given others, row by row."""

from __future__ import annotations

import math

import torch

from modalkit.data import Batch
from modalkit.evaluation.likelihood import Estimate, PriorDraws, evidence_by_prior, importance, mask
from modalkit.evaluation.questions import Question, allows
from modalkit.model.vae import MultimodalVAE
from modalkit.util.randomness import generator

_PRIOR_PARTICLES = 5000


def score(
    model: MultimodalVAE, batch: Batch, question: Question, particles: int, prior_particles: int | None, seed: int
) -> Estimate:
    """Estimate log p(targets | given) of each row.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        question: as `modalkit.evaluation.questions.check` completes it.
        particles: draws of z a row.
        prior_particles: draws of the prior for log p(given); None: where there is no posterior given that.
        seed: of the draws.
    """
    given = tuple(name for name in question.given if name in model.decoders)
    joint = (*given, *question.targets)
    whole = importance(model, batch, question.proposal, [joint], particles, generator(seed, "joint"))[0]
    evidence = torch.zeros(len(batch), dtype=torch.double)
    if given and (prior_particles or not allows(model, question.given)):
        prior = PriorDraws(model, prior_particles or _PRIOR_PARTICLES, generator(seed, "prior"))
        evidence = evidence_by_prior(model, batch, given, prior)
    elif given:
        first = importance(model, batch, question.given, [given], particles, generator(seed, "evidence"))[0]
        evidence = first.log_p.masked_fill(~(batch.present & mask(model, given)).any(1), 0)
    nothing = ~(batch.present & mask(model, question.targets)).any(1)
    log_p = (whole.log_p - evidence).masked_fill(nothing, math.nan)
    return Estimate(log_p, whole.variance, whole.ess)
