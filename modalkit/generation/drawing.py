"""Samples that a run generates, and what classifies them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch
from modalkit.evaluation.likelihood import fetch
from modalkit.evaluation.questions import allows
from modalkit.inference.conditions import sampled_rows
from modalkit.inference.predicting import infer
from modalkit.inference.sampler import LatentSampler, load_sampler
from modalkit.model.sampling import mask
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import CustomNetwork, Outcome, Schema
from modalkit.runs.opened import Run
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed

ROWS = 200
"""Rows at a time."""
GROUPS = 10
"""Groups of rows that standard errors leave out one at a time."""


def sources(run: Run, given: Sequence[str]) -> dict[str, LatentSampler | None]:
    """Return where samples of z come from: the prior or the posterior, and the sampler if one was fitted; by name.

    Empty if the model has no posterior of what is given.
    """
    if not allows(run.model, given):
        return {}
    found: dict[str, LatentSampler | None] = {"posterior" if given else "prior": None}
    if (sampler := load_sampler(run.folder.sampler, run.weights)) is not None:
        found["sampler"] = sampler.to(run.model.device).eval()
    return found


def having(run: Run, rows: Tensor, names: Iterable[str]) -> Tensor:
    """Return the rows that have all of these modalities, int64 `(rows,)`."""
    columns = [run.dataset.names.index(name) for name in names]
    return rows[run.dataset.present[rows][:, columns].all(1)]


def generate(
    run: Run,
    given: Sequence[str],
    want: Sequence[str],
    rows: Tensor,
    sampler: LatentSampler | None,
    seed: int,
    samples: int = 1,
) -> Iterator[Mapping[str, Tensor]]:
    """Generate modalities for each row, and yield them batch by batch.

    Each sample of z is decoded to the mean of the likelihood, or to its mode for integers.

    Args:
        run: the run.
        given: what z is sampled given; nothing for as many unconditional samples as there are rows.
        want: the modalities to generate.
        rows: int64 `(rows,)`, which have what is given.
        sampler: makes the samples of z, instead of the posterior or the prior.
        seed: of the samples.
        samples: independent samples a row.

    Yields:
        By modality `(samples, batch, *event_shape)`, as networks see values, on the CPU.
    """
    model, what = run.model, f"{'+'.join(want)} from {'+'.join(given) or 'nothing'}"
    with evaluating(model), bar(len(rows), what, unit="row", leave=False) as progress:
        for start in range(0, len(rows), ROWS):
            part, seed_here = rows[start : start + ROWS], derived_seed(seed, "generated", start)
            if given:
                batch = fetch(run.dataset, model.schemas, part, seed)
                batch = replace(batch, present=batch.present & mask(model, given))
            else:
                batch = sampled_rows(model, None, len(part), seed_here)
            made = infer(
                model, batch, want, draws=samples, samples=samples, seed=seed_here, sampler=sampler, only_samples=True
            )
            yield {name: made[name].samples for name in want}
            progress.update(len(part))


def real(run: Run, want: Sequence[str], rows: Tensor, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield the rows' own values batch by batch, by modality `(batch, *event_shape)`, as networks see them."""
    for start in range(0, len(rows), ROWS):
        batch: Batch = fetch(run.dataset, run.model.schemas, rows[start : start + ROWS], seed)
        yield {name: run.model.schemas[name].unpack(batch.values[name]) for name in want}


def is_class(schema: Schema) -> bool:
    """Tell whether a modality is a class, a level or bits, which samples of others can agree with."""
    kind = registry.modality(schema.kind)
    return kind.correct is not None and kind.outcome in (Outcome.BINARY, Outcome.CATEGORICAL, Outcome.ORDERED)


def is_classified(schema: Schema) -> bool:
    """Tell whether a classifier can be made that sees a modality: it is no class, and has its kind's networks."""
    return not is_class(schema) and not isinstance(getattr(schema, "network", None), CustomNetwork)


def class_of(model: MultimodalVAE, names: Iterable[str]) -> str | None:
    """Return the first of these modalities that a classifier can predict; None if there is none."""
    usable = (n for n in names if not isinstance(getattr(model.schemas[n], "network", None), CustomNetwork))
    return next((name for name in usable if is_class(model.schemas[name])), None)


def groups_of(rows: int) -> Tensor:
    """Return the group of each row, int64 `(rows,)`: neighbours, in groups of nearly equal size."""
    return torch.arange(rows) * min(GROUPS, rows) // max(rows, 1)
