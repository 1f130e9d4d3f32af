"""What `modalkit evaluate` prints and keeps: likelihoods, accuracies, coherence, parameters."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modalkit import registry
from modalkit.errors import InputError
from modalkit.evaluation.accuracy import accuracy, coherence, mean_and_error, reconstruction, train_classifier
from modalkit.evaluation.questions import Answer, Asking, Question, allows, ask, check, table, usual_questions
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import CustomNetwork
from modalkit.runs.opened import Run
from modalkit.util.files import write_json

_log = logging.getLogger(__name__)

_SAMPLES = 20  # draws of z for a prediction
_CLASSIFIER_EPOCHS = 5
_MOST_PARTS = 20
Figures = dict[str, tuple[float, float]]


def questions_of(model: MultimodalVAE, targets: str | None, given: str | None, proposal: str | None) -> list[Question]:
    """Return the question that three lists, each separated by commas, ask; without targets the usual ones.

    Raises:
        InputError: something is given for no target, or the question cannot be answered.
    """

    def names(text: str | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in (text or "").split(",") if name.strip())

    if not names(targets):
        if given or proposal:
            raise InputError("--given and --proposal need --targets: what is to be predicted from it")
        return usual_questions(model)
    return [check(model, Question(names(targets), names(given), names(proposal)))]


def evaluate(run: Run, questions: Sequence[Question], asking: Asking, cohering: str | None = None) -> str:
    """Answer questions, add them to the run's ``evaluation.json``, and return them as text.

    Beside log-likelihoods: how well each modality is explained by the posterior that has seen it; how often each
    target whose kind can be right or wrong is predicted right from what is given; with `cohering`, ``SOURCE:TARGET``,
    how often what is generated is classified as what it was generated from.
    """
    path = run.path / "evaluation.json"
    _kept(path)  # what cannot be added to, or is asked wrongly, is said before the work
    if cohering:
        _check_coherence(run.model, cohering)
    answers = ask(run, questions, asking)
    accuracies = {str(q): _accuracies(run, q, asking) for q in (a.question for a in answers) if q.given}
    coherences = {cohering: _coherence(run, cohering, asking)} if cohering else {}
    explained = reconstruction(run.model, run.dataset, run.dataset.rows(asking.split)[: asking.rows], asking.seed)
    counts = run.model.parameter_counts()
    settings = asdict(asking) | {"data": str(run.dataset.path), "weights": run.weights}
    kept = _kept(path)
    for answer in answers:
        key = f"{answer.question} by q(z|{', '.join(answer.question.proposal)})"
        kept.setdefault("log_likelihoods", {})[key] = asdict(answer) | {"settings": settings}
    for what, figures in accuracies.items():
        kept.setdefault("accuracies", {})[what] = figures | {"settings": settings}
    for what, shares in coherences.items():
        kept.setdefault("coherence", {})[what] = shares | {"settings": settings}
    kept["reconstruction"] = explained | {"settings": settings}
    write_json(path, _finite(kept | {"parameters": counts}))
    return _text(run, answers, accuracies, coherences, explained, counts, asking)


def _kept(path: Path) -> dict[str, Any]:
    """Return what earlier evaluations left in a file.

    Raises:
        InputError: it is damaged.
    """
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(kept, dict) or not all(isinstance(part, dict) for part in kept.values()):
            raise ValueError("not what `modalkit evaluate` writes")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, or move it away") from None
    return kept


def _finite(value: Any) -> Any:
    """Return what JSON can hold: null in the place of a number that is none."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _accuracies(run: Run, question: Question, asking: Asking) -> Figures:
    """Return the share of right predictions of a question's targets, by target and part, with its standard error."""
    found: Figures = {}
    rows = run.dataset.rows(asking.split)[: asking.rows]
    if not allows(run.model, question.given):
        return found
    for target in question.targets:
        if registry.modality(run.model.schemas[target].kind).correct is not None:
            parts = accuracy(run.model, run.dataset, rows, target, question.given, _SAMPLES, asking.seed)
            found |= {f"{target}: {part}": mean_and_error(right.double()) for part, right in parts.items()}
    return found


def _check_coherence(model: MultimodalVAE, asked: str) -> tuple[str, str]:
    """Return the source and the target of ``SOURCE:TARGET``.

    Raises:
        InputError: they are not two of the modalities, or the model or the target's kind cannot do it.
    """
    source, _, target = asked.partition(":")
    if source == target or not {source, target} <= set(model.names):
        raise InputError(f"--coherence {asked}: write SOURCE:TARGET, two of {', '.join(model.names)}")
    if source not in model.decoders or not allows(model, (target,)):
        raise InputError(f"--coherence {asked}: this run's objective does not generate {source} from {target}")
    if registry.modality(kind := model.schemas[target].kind).correct is None:
        raise InputError(f"--coherence {asked}: {target}'s kind, '{kind}', does not say when a prediction is right")
    for name in (source, target):
        if isinstance(getattr(model.schemas[name], "network", None), CustomNetwork):
            raise InputError(
                f"--coherence {asked}: {name} has networks of your own; the classifier is made of those of its kind"
            )
    return source, target


def _coherence(run: Run, asked: str, asking: Asking) -> Figures:
    source, target = _check_coherence(run.model, asked)
    about = f"{_CLASSIFIER_EPOCHS} {asking.seed} {[shard.sha256 for shard in run.dataset.manifest.shards]}"
    digest = hashlib.sha256(about.encode()).hexdigest()[:8]
    path = run.path / "evaluation" / f"classifier-{target}-from-{source}-{digest}.safetensors"
    classifier = train_classifier(
        run.dataset, run.model.schemas, source, target, path, epochs=_CLASSIFIER_EPOCHS, seed=asking.seed
    ).to(run.model.device)
    rows = run.dataset.rows(asking.split)[: asking.rows]
    return coherence(run.model, classifier, run.dataset, rows, source, target, asking.seed)


def _text(
    run: Run,
    answers: Sequence[Answer],
    accuracies: dict[str, Figures],
    coherences: dict[str, Figures],
    explained: Figures,
    counts: dict[str, int],
    asking: Asking,
) -> str:
    lines = [
        f"{run.path} on {run.dataset.path}, {asking.split} rows, {asking.particles} particles "
        f"(± standard error over rows)\n",
        table(answers),
    ]
    for what, figures in accuracies.items():
        if figures:
            lines += ["", f"right, predicted as {what.removeprefix('log ')}:"]
            shown = list(figures.items())[:_MOST_PARTS]
            lines += [f"  {part:<24} {100 * mean:.2f} % ± {100 * error:.2f}" for part, (mean, error) in shown]
    for what, shares in coherences.items():
        source, _, target = what.partition(":")
        lines += ["", f"{source} generated from {target}, classified as that {target}:"]
        lines += [f"  {name:<24} {100 * mean:.2f} % ± {100 * error:.2f}" for name, (mean, error) in shares.items()]
    lines += ["", "reconstruction, log p(x|z) of each modality in nats, z given all:"]
    lines += [f"  {name:<24} {mean:.3f} ± {error:.3f}" for name, (mean, error) in explained.items()]
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return "\n".join([*lines, "", f"parameters: {parts}", f"kept in {run.path / 'evaluation.json'}"])
