"""Log-likelihoods log p(targets | given) of a run, computed in passes that can be resumed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modalkit.errors import InputError
from modalkit.evaluation.likelihood import Estimate, PriorDraws, batches, evidence_by_prior, fetch, importance
from modalkit.evaluation.metrics._means import mean_and_error
from modalkit.evaluation.questions import Asking, Names, Question, allows, check
from modalkit.plugin import Display, Figure, Metric
from modalkit.runs.folder import RunFolder
from modalkit.util.files import write_atomic
from modalkit.util.progress import bar
from modalkit.util.randomness import generator
from modalkit.util.text import columns

if TYPE_CHECKING:
    from modalkit.runs.opened import Run

_log = logging.getLogger(__name__)

_SAVE_EVERY = 10  # batches
_LEAST_SHARE = 0.01
"""Effective sample sizes below this share of the particles bring a warning."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question: means over rows with their standard errors.

    Attributes:
        question: the question.
        rows: how many rows count.
        log_p: the log-likelihood in nats.
        variance: of the log importance weights over particles.
        ess: effective sample size of the particles.
    """

    question: Question
    rows: int
    log_p: Figure
    variance: Figure
    ess: Figure


def ask(run: Run, questions: Sequence[Question], asking: Asking) -> list[Answer]:
    """Answer questions; interrupted work resumes where it stopped.

    The run's folder ``evaluation`` keeps each pass over the rows, for every question that needs the same pass.

    Raises:
        InputError: a modality is unknown, the model has no posterior given a subset, or there are no rows.
    """
    checked = [check(run.model, question) for question in questions]
    for question in checked:
        if not asking.prior_particles and question.given and not allows(run.model, question.given):
            raise InputError(
                f"{question}: there is no posterior of {', '.join(question.given)} to estimate log p(given) with; "
                f"sample the prior instead: --prior-particles 5000"
            )
    rows = asking.rows_of(run.dataset)
    if not len(rows):
        raise InputError(f"{run.dataset.path}: no rows in the {asking.split} split; choose another --split")
    passes = _Passes(run, rows, asking)
    for question in checked:  # plan all first, so that questions share passes
        passes.want(question.proposal, passes.explained(question))
        if evidence := passes.decoded(question.given):
            passes.want(None if asking.prior_particles else question.given, evidence)
    answers = [passes.answer(question) for question in checked]
    for question in checked:
        if left_out := passes.left_out[question]:
            _log.warning(
                f"{question}: {left_out} of {len(rows)} rows are left out, because they lack a modality and this run's "
                f"objective has no posterior of the others"
            )
    few = [answer for answer in answers if answer.ess[0] < _LEAST_SHARE * asking.particles]
    if few:
        worst = min(few, key=lambda answer: answer.ess[0])
        _log.warning(
            f"{worst.question}: the effective sample size is {worst.ess[0]:.1f} of {asking.particles} particles on "
            f"average, so log p is probably too low{_others(len(few) - 1)}; use more --particles, or --proposal"
        )
    return answers


def _others(count: int) -> str:
    return f" (and that of {count} more question{'' if count == 1 else 's'})" if count else ""


def in_columns(answers: Sequence[Answer]) -> str:
    """Return answers as text, a line each."""
    head = ("", "proposal", "nats", "var log w", "ESS", "rows")
    lines = [
        (
            str(a.question),
            f"q(z|{','.join(a.question.proposal)})",
            f"{a.log_p[0]:.3f} ± {a.log_p[1]:.3f}",
            f"{a.variance[0]:.3f} ± {a.variance[1]:.3f}",
            f"{a.ess[0]:.1f} ± {a.ess[1]:.1f}",
            str(a.rows),
        )
        for a in answers
    ]
    return columns([head, *lines])


@dataclass
class _Passes:
    """Passes over the rows: each has one proposal and explains several sets of modalities.

    Attributes:
        run: the run.
        rows: int64 `(rows,)`.
        asking: how many samples, and their seed.
        wanted: the sets of modalities that each pass explains, by its proposal; None is the prior.
        found: estimates `(rows, 3)`, log_p, variance and ESS, by proposal and set of modalities.
        left_out: of each answered question, how many rows that have its modalities have no estimate.
    """

    run: Run
    rows: Tensor
    asking: Asking
    wanted: dict[Names | None, list[Names]] = field(default_factory=dict)
    found: dict[tuple[Names | None, Names], Tensor] = field(default_factory=dict)
    left_out: dict[Question, int] = field(default_factory=dict)

    def decoded(self, names: Sequence[str]) -> Names:
        """Return those of these modalities that the model decodes, in its order."""
        return tuple(n for n in self.run.model.names if n in names and n in self.run.model.decoders)

    def explained(self, question: Question) -> Names:
        """Return the modalities that log p(targets, given) sums over."""
        return self.decoded((*question.targets, *question.given))

    def want(self, proposal: Names | None, explained: Names) -> None:
        """Plan that the pass with this proposal explains a set of modalities."""
        sets = self.wanted.setdefault(proposal, [])
        if explained not in sets:
            sets.append(explained)

    def answer(self, question: Question) -> Answer:
        """Average estimates over the rows that have a target and, if the question gives any, a given modality."""
        log_p, variance, ess = self._of(question.proposal, self.explained(question)).unbind(1)
        if evidence := self.decoded(question.given):
            first = None if self.asking.prior_particles else question.given
            log_p = log_p - self._of(first, evidence)[:, 0]
        counts = self._has_any(question.targets)
        if question.given:
            counts &= self._has_any(question.given)
        self.left_out[question] = int((counts & log_p.isnan()).sum())
        log_p, variance, ess = (one.masked_fill(~counts, torch.nan) for one in (log_p, variance, ess))
        each = (mean_and_error(log_p), mean_and_error(variance), mean_and_error(ess))
        return Answer(question, int((~log_p.isnan()).sum()), *each)

    def _has_any(self, names: Names) -> Tensor:
        """Return which rows have at least one of these modalities, bool `(rows,)`."""
        columns = [self.run.dataset.names.index(n) for n in names]
        return self.run.dataset.present[self.rows][:, columns].any(1)

    def _of(self, proposal: Names | None, explained: Names) -> Tensor:
        """Return estimates, `(rows, 3)`: log_p, variance, ess."""
        if (proposal, explained) not in self.found:
            sets = self.wanted[proposal]
            for names, estimates in zip(sets, self._compute(proposal, sets).unbind(1), strict=True):
                self.found[proposal, names] = estimates
        return self.found[proposal, explained]

    def _compute(self, proposal: Names | None, sets: list[Names]) -> Tensor:
        """Compute a pass, or the rest of an interrupted one, and return its estimates, `(rows, sets, 3)`."""
        run, asking = self.run, self.asking
        path, about, found, done = self._resume(proposal, sets)
        particles = asking.particles if proposal is not None else asking.prior_particles or 0
        prior = None if proposal else PriorDraws(run.model, particles, generator(asking.seed, "prior"))
        what = f"q(z|{'+'.join(proposal)})" if proposal else "prior"
        with bar(len(self.rows), what, unit="row", initial=done) as progress:
            # All rows share the samples of the prior, and equal rows are computed once a batch.
            each = particles if prior is None else 1
            for number, (start, rows) in enumerate(batches(self.rows, each, run.model.latent_dim)):
                if start + len(rows) <= done:
                    continue
                batch = fetch(run.dataset, run.model.schemas, rows, asking.seed)
                if prior is not None:
                    evidence = [evidence_by_prior(run.model, batch, names, prior) for names in sets]
                    estimates = [Estimate(log_p, *torch.full((2, len(rows)), torch.nan)) for log_p in evidence]
                else:
                    samples_of = generator(asking.seed, f"particles {what}", start)
                    estimates = importance(run.model, batch, proposal or (), sets, particles, samples_of)
                for i, e in enumerate(estimates):
                    found[start : start + len(rows), i] = torch.stack([e.log_p, e.variance, e.ess], 1).double()
                progress.update(len(rows))
                if number % _SAVE_EVERY == _SAVE_EVERY - 1 or start + len(rows) == len(self.rows):
                    self._save(path, about, found, start + len(rows))
        return found

    def _resume(self, proposal: Names | None, sets: list[Names]) -> tuple[Path, str, Tensor, int]:
        """Return a pass's file, what it depends on, its estimates as far as they are kept, and of how many rows."""
        asking = asdict(self.asking)
        about = json.dumps(
            {"proposal": proposal, "explained": sets, "rows": len(self.rows), "weights": self.run.weights}
            | {"data": str(self.run.dataset.path), "shards": [s.sha256 for s in self.run.dataset.manifest.shards]}
            | {key: asking[key] for key in ("split", "seed", "prior_particles" if proposal is None else "particles")}
        )
        name = hashlib.sha256(about.encode()).hexdigest()[:16]
        path = RunFolder(self.run.path).passes / f"{name}.safetensors"
        found = torch.full((len(self.rows), len(sets), 3), torch.nan, dtype=torch.double)
        if path.exists():
            try:
                with safe_open(path, framework="pt") as kept:
                    if json.loads((kept.metadata() or {})["modalkit"])["about"] == about:
                        part = kept.get_tensor("estimates")
                        found[: len(part)] = part
                        return path, about, found, len(part)
            except (SafetensorError, OSError, KeyError, ValueError):
                pass  # a damaged file only means that its rows are computed again
        return path, about, found, 0

    @staticmethod
    def _save(path: Path, about: str, found: Tensor, done: int) -> None:
        metadata = {"modalkit": json.dumps({"about": about})}
        kept = {"estimates": found[:done].contiguous()}
        write_atomic(path, lambda temporary: save_file(kept, temporary, metadata=metadata))


def measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    """Return the log-likelihood of a question."""
    return {"": ask(run, [question], asking)[0].log_p}


METRIC = Metric(
    name="log-likelihood",
    summary="Log-likelihoods by importance sampling",
    measure=measure,
    display=Display("nats"),
)
