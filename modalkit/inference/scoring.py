"""Log-likelihoods of values given others, row by row."""

from __future__ import annotations

import math

import torch

from modalkit.data import Batch
from modalkit.data.reading import draw
from modalkit.errors import InputError
from modalkit.evaluation.likelihood import Estimate, PriorDraws, batches, evidence_by_prior, importance
from modalkit.evaluation.questions import Question, allows, check
from modalkit.inference.chunks import computing
from modalkit.model.sampling import mask
from modalkit.model.vae import MultimodalVAE
from modalkit.util.randomness import derived_seed, generator

_PRIOR_PARTICLES = 5000


def score(
    model: MultimodalVAE, known: Batch, asked: Batch, particles: int, prior_particles: int | None, seed: int
) -> Estimate:
    """Estimate log p(targets | given) of each row, by importance sampling.

    Args:
        model: in eval mode.
        known: the given values, on the CPU.
        asked: the targets, on the CPU, with as many rows; a single row of either stands beside every row of the other.
        particles: number of samples of z for each row.
        prior_particles: number of samples from the prior for log p(given); None uses the posterior given that, or 5000
            samples from the prior if there is no such posterior.
        seed: seed of the samples.

    Raises:
        InputError: the model cannot answer the question, or the numbers of rows differ.
    """
    targets, given = (
        tuple(n for n, there in zip(model.names, one.present.any(0), strict=True) if there) for one in (asked, known)
    )
    if asked.covariates is not None and bool(asked.covariates.present.any()):
        raise InputError("targets: has a covariate, which the model does not predict; put it into what is given")
    question = check(model, Question(targets, given))
    batch = _joined(known, asked, targets)
    parts = []
    for start, rows in batches(torch.arange(len(batch)), particles, model.latent_dim):
        part = draw(batch.part(slice(start, start + len(rows))), model.schemas, generator(seed, "score data", start))
        with computing(model, derived_seed(seed, "score", start)):
            particle_seed = derived_seed(seed, "particles", start)
            parts.append(_estimate(model, part, question, particles, prior_particles, particle_seed))
    return Estimate(*(torch.cat(one) for one in zip(*(vars(part).values() for part in parts), strict=True)))


def _joined(known: Batch, asked: Batch, targets: tuple[str, ...]) -> Batch:
    """Return rows that have both what is known and the targets."""
    rows = max(len(known), len(asked))
    if {len(known), len(asked)} - {1, rows}:
        raise InputError(f"the numbers of rows differ: {len(known)} given, {len(asked)} of the targets")
    values = {n: (asked if n in targets else known).values[n] for n in known.values}
    return Batch(
        {n: value.expand(rows, *value.shape[1:]) for n, value in values.items()},
        known.present.expand(rows, -1) | asked.present.expand(rows, -1),
        None if known.covariates is None else _repeated(known.covariates, rows),
    )


def _repeated(batch: Batch, rows: int) -> Batch:
    """Return a batch of one row, or of as many as asked for, with that many rows."""
    values = {n: value.expand(rows, *value.shape[1:]) for n, value in batch.values.items()}
    return Batch(values, batch.present.expand(rows, -1))


def _estimate(
    model: MultimodalVAE, batch: Batch, question: Question, particles: int, prior_particles: int | None, seed: int
) -> Estimate:
    """Estimate log p(targets | given) of each row of a batch.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU.
        question: a question that `modalkit.evaluation.questions.check` returned.
        particles: see `score`.
        prior_particles: see `score`.
        seed: seed of the samples.
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
