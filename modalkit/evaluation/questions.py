"""Questions of the form log p(targets | given), asked of a run: planned, computed in resumable passes, tabulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modalkit.errors import InputError, did_you_mean
from modalkit.evaluation.accuracy import mean_and_error
from modalkit.evaluation.likelihood import Estimate, PriorDraws, batches, evidence_by_prior, fetch, importance
from modalkit.model.vae import MultimodalVAE
from modalkit.runs.opened import Run
from modalkit.util.files import write_atomic
from modalkit.util.progress import bar
from modalkit.util.randomness import generator
from modalkit.util.text import columns

_SAVE_EVERY = 10  # batches
Names = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    r"""What is log p(targets | given), with the posterior of `proposal` as importance distribution?

    By :math:`\log p(T|G) = \log p(T, G) - \log p(G)` (Wu & Goodman 2018, equation 7, for any sets): the first is
    estimated with q(z|proposal), the second with q(z|G) or with the prior.
    """

    targets: Names
    given: Names = ()
    proposal: Names = ()

    def __str__(self) -> str:
        behind = f" | {', '.join(self.given)}" if self.given else ""
        return f"log p({', '.join(self.targets)}{behind})"


@dataclass(frozen=True)
class Answer:
    """A question's answer, averaged over rows; each figure with its standard error over rows.

    Attributes:
        question: what was asked.
        rows: how many rows count.
        log_p: nats, mean and standard error.
        variance: of the log importance weights over particles.
        ess: effective sample size of the particles.
    """

    question: Question
    rows: int
    log_p: tuple[float, float]
    variance: tuple[float, float]
    ess: tuple[float, float]


@dataclass(frozen=True)
class Asking:
    """How questions are answered.

    Attributes:
        split: whose rows.
        rows: at most so many, the first; None for all.
        particles: draws of z a row for what is proposed by a posterior.
        prior_particles: draws of the prior for log p(given); None: proposed by q(z|given) with `particles` instead.
        seed: of the draws.
    """

    split: str = "test"
    rows: int | None = None
    particles: int = 1000
    prior_particles: int | None = None
    seed: int = 0


def ask(run: Run, questions: Sequence[Question], asking: Asking) -> list[Answer]:
    """Answer questions; work that was interrupted goes on where it was.

    Passes over the rows that are finished are kept in the run's folder ``evaluation``, and serve whatever question
    needs the same.

    Raises:
        InputError: an unknown modality, a subset that the model has no posterior of, or no rows.
    """
    checked = [check(run.model, question) for question in questions]
    for question in checked:
        if not asking.prior_particles and question.given and not allows(run.model, question.given):
            raise InputError(
                f"{question}: there is no posterior of {', '.join(question.given)} to estimate log p(given) with; "
                f"draw from the prior instead: --prior-particles 5000"
            )
    rows = run.dataset.rows(asking.split)[: asking.rows]
    if not len(rows):
        raise InputError(f"{run.dataset.path}: no rows in the {asking.split} split; choose another --split")
    passes = _Passes(run, rows, asking)
    for question in checked:  # plan first, so that questions share passes
        passes.want(question.proposal, passes.explained(question))
        if evidence := passes.decoded(question.given):
            passes.want(None if asking.prior_particles else question.given, evidence)
    return [passes.answer(question) for question in checked]


def check(model: MultimodalVAE, question: Question) -> Question:
    """Return a question in the model's order, its proposal by default all that it names as far as the model allows.

    Raises:
        InputError: see `ask`.
    """
    names = model.names
    for name in (*question.targets, *question.given, *question.proposal):
        if name not in names:
            raise InputError(f"no modality '{name}'{did_you_mean(name, names)}; this run has {', '.join(names)}")
    if not question.targets:
        raise InputError("name at least one target")
    if both := set(question.targets) & set(question.given):
        raise InputError(f"{', '.join(sorted(both))}: is given, so it is no target")
    if missing := [name for name in question.targets if name not in model.decoders]:
        raise InputError(f"{', '.join(missing)}: this run's objective does not model it, only conditions on it")
    everything = (*question.given, *question.targets)
    first = [question.proposal] if question.proposal else [everything, question.targets, question.given]
    allowed = [proposal for proposal in first if proposal and allows(model, proposal)]
    conditions = [name for name in names if name not in model.decoders and name not in everything]
    if conditions or not allowed:
        of = ", ".join(question.proposal or everything)
        what = f"it must be given {', '.join(conditions)}" if conditions else f"there is no posterior of {of}"
        raise InputError(f"{question}: this run's objective cannot answer it: {what}")
    parts = (question.targets, question.given, allowed[0])
    return Question(*(tuple(n for n in names if n in part) for part in parts))


def allows(model: MultimodalVAE, names: Sequence[str]) -> bool:
    """Tell whether a model has a posterior of these modalities."""
    return bool(model.allows(torch.tensor([[name in names for name in model.names]]))[0])


def usual_questions(model: MultimodalVAE) -> list[Question]:
    """Return what one asks first: the joint, each marginal, and up to 6 modalities each given the others."""
    names = tuple(n for n in model.names if n in model.decoders)
    conditions = tuple(n for n in model.names if n not in model.decoders)
    found = [Question(names, conditions)] if allows(model, model.names) else []
    if len(names) > 1 and len(names) <= 6:
        found += [Question((n,), (), (n,)) for n in names if allows(model, (n,))]
        if allows(model, model.names):
            others = {n: tuple(o for o in names if o != n) for n in names}
            found += [Question((n,), others[n]) for n in names if allows(model, others[n])]
    return found or [Question((n,), (), (n,)) for n in names if allows(model, (n,))]


def table(answers: Sequence[Answer]) -> str:
    """Lay answers out as text."""
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
    """Passes over the rows, each with one proposal (None: the prior) for several sets of explained modalities."""

    run: Run
    rows: Tensor
    asking: Asking
    wanted: dict[Names | None, list[Names]] = field(default_factory=dict)
    found: dict[tuple[Names | None, Names], Tensor] = field(default_factory=dict)

    def decoded(self, names: Sequence[str]) -> Names:
        """Return those of some modalities that the model decodes, in its order."""
        return tuple(n for n in self.run.model.names if n in names and n in self.run.model.decoders)

    def explained(self, question: Question) -> Names:
        """Return what log p(targets, given) sums over."""
        return self.decoded((*question.targets, *question.given))

    def want(self, proposal: Names | None, explained: Names) -> None:
        """Note that a pass must explain a set."""
        sets = self.wanted.setdefault(proposal, [])
        if explained not in sets:
            sets.append(explained)

    def answer(self, question: Question) -> Answer:
        """Average a question's estimates over the rows that have a target, and something given if it asks for that."""
        log_p, variance, ess = self._of(question.proposal, self.explained(question)).unbind(1)
        if evidence := self.decoded(question.given):
            first = None if self.asking.prior_particles else question.given
            log_p = log_p - self._of(first, evidence)[:, 0]
        there = self._has_any(question.targets)
        if question.given:
            there &= self._has_any(question.given)
        log_p, variance, ess = (one.masked_fill(~there, torch.nan) for one in (log_p, variance, ess))
        each = (mean_and_error(log_p), mean_and_error(variance), mean_and_error(ess))
        return Answer(question, int((~log_p.isnan()).sum()), *each)

    def _has_any(self, names: Names) -> Tensor:
        """Tell which rows have at least one of some modalities."""
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
        """Do a pass, or what is left of it, and return `(rows, sets, 3)`."""
        run, asking = self.run, self.asking
        path, about, found, done = self._resume(proposal, sets)
        particles = asking.particles if proposal is not None else asking.prior_particles or 0
        prior = None if proposal else PriorDraws(run.model, particles, generator(asking.seed, "prior"))
        what = f"q(z|{'+'.join(proposal)})" if proposal else "prior"
        with bar(len(self.rows), what, unit="row", initial=done) as progress:
            # Draws of the prior are shared, and rows that agree are computed once a batch.
            each = particles if prior is None else 1
            for number, (start, rows) in enumerate(batches(self.rows, each, run.model.latent_dim)):
                if start + len(rows) <= done:
                    continue
                batch = fetch(run.dataset, run.model.schemas, rows, asking.seed)
                if prior is not None:
                    evidence = [evidence_by_prior(run.model, batch, names, prior) for names in sets]
                    estimates = [Estimate(log_p, *torch.full((2, len(rows)), torch.nan)) for log_p in evidence]
                else:
                    draws_of = generator(asking.seed, f"particles {what}", start)
                    estimates = importance(run.model, batch, proposal or (), sets, particles, draws_of)
                for i, e in enumerate(estimates):
                    found[start : start + len(rows), i] = torch.stack([e.log_p, e.variance, e.ess], 1).double()
                progress.update(len(rows))
                if number % _SAVE_EVERY == _SAVE_EVERY - 1 or start + len(rows) == len(self.rows):
                    self._save(path, about, found, start + len(rows))
        return found

    def _resume(self, proposal: Names | None, sets: list[Names]) -> tuple[Path, str, Tensor, int]:
        """Return where a pass is kept, what it is, and its estimates as far as they are there."""
        asking = asdict(self.asking)
        about = json.dumps(
            {"proposal": proposal, "explained": sets, "rows": len(self.rows), "weights": self.run.weights}
            | {"data": str(self.run.dataset.path), "shards": [s.sha256 for s in self.run.dataset.manifest.shards]}
            | {key: asking[key] for key in ("split", "seed", "prior_particles" if proposal is None else "particles")}
        )
        name = hashlib.sha256(about.encode()).hexdigest()[:16]
        path = self.run.path / "evaluation" / f"{name}.safetensors"
        found = torch.full((len(self.rows), len(sets), 3), torch.nan, dtype=torch.double)
        if path.exists():
            try:
                with safe_open(path, framework="pt") as kept:
                    if json.loads((kept.metadata() or {})["modalkit"])["about"] == about:
                        part = kept.get_tensor("estimates")
                        found[: len(part)] = part
                        return path, about, found, len(part)
            except (SafetensorError, OSError, KeyError, ValueError):
                pass  # a damaged file is no more than work to be done again
        return path, about, found, 0

    @staticmethod
    def _save(path: Path, about: str, found: Tensor, done: int) -> None:
        metadata = {"modalkit": json.dumps({"about": about})}
        kept = {"estimates": found[:done].contiguous()}
        write_atomic(path, lambda temporary: save_file(kept, temporary, metadata=metadata))
