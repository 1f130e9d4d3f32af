"""The Fréchet distance between generated and held-out rows, in the features of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from modalkit import registry
from modalkit.errors import InputError, guard
from modalkit.evaluation.metrics import jackknife
from modalkit.evaluation.metrics.coherence import Classifier, classifier_of
from modalkit.evaluation.questions import Asking, Question
from modalkit.generation.drawing import class_of, generate, groups_of, having, is_classified, real, sources
from modalkit.plugin import Display, Figure, Metric, Modality, Schema
from modalkit.runs.opened import Run

_log = logging.getLogger(__name__)

Features: TypeAlias = Callable[[Schema, Tensor], Tensor]
_Moments: TypeAlias = tuple[Tensor, Tensor]


def frechet_distance(one: Tensor, other: Tensor) -> float:
    r"""Return the Fréchet distance between the Gaussians with the moments of two samples, in float64.

    .. math:: |m_1 - m_2|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2})

    The eigenvalues of C_1 C_2 are those of the symmetric :math:`C_1^{1/2} C_2 C_1^{1/2}`.

    Args:
        one: features `(rows, features)`.
        other: the same features of other rows.

    Raises:
        InputError: the numbers of features differ, or there are fewer than two rows.

    Source:
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium".

    Example:
        >>> one = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(one, one + 3), round(frechet_distance(one, 2 * one), 6)
        (9.0, 3.0)
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise InputError(
            f"got features of the shapes {tuple(one.shape)} and {tuple(other.shape)}; give (rows, features) twice, "
            f"with the same features and two rows or more"
        )
    middle = other.double().mean(0)  # which rounding then does not depend on
    return _distance(*(_moments(_sums(each.double() - middle)) for each in (one, other)))


def frechet_of(
    features: Features, applies: Callable[[Modality[Any]], bool] = lambda kind: True
) -> Callable[[Run, Question, Asking], dict[str, Figure]]:
    """Return a metric's `measure`: the Fréchet distance in features of your own, such as those of a trained network.

    Args:
        features: `(schema, values) ->` features `(rows, features)` of values `(rows, *event_shape)`, on the CPU, as
            networks see them: intensities from 0 to 1 of pictures; `schema.pack` returns user's units.
        applies: `kind ->` whether targets of this kind have such features; others are left out.

    Returns:
        A function for a `Metric` with ``unconditional=True``. It returns figures as the metric ``frechet`` does.

    Example:
        >>> from modalkit.plugin import Metric, Outcome
        >>> def mean_colour(schema, values):
        ...     return values.mean((2, 3))  # (rows, channels, height, width) -> (rows, channels)
        >>> measure = frechet_of(mean_colour, lambda kind: kind.outcome is Outcome.PICTURE)
        >>> metric = Metric("colours", "Fréchet distance of mean colours", measure, unconditional=True)
    """

    def measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
        found: dict[str, Figure] = {}
        for target in question.targets:
            if applies(registry.modality((schema := run.model.schemas[target]).kind)):
                found |= _of_target(run, target, question, asking, _guarded(features, schema, target))
        return found

    return measure


def _measure(run: Run, question: Question, asking: Asking) -> dict[str, Figure]:
    """Measure the distance in the features of the classifiers that coherence uses."""
    found: dict[str, Figure] = {}
    predicted = class_of(run.model, question.targets) or class_of(run.model, run.model.names)
    for target in question.targets:
        if not is_classified(run.model.schemas[target]):
            continue
        if predicted is None:
            _log.warning(
                f"{target}: no Fréchet distance, because no modality is a class that a classifier could predict; "
                f"give features of your own with modalkit.generation.frechet_of (docs/evaluation.md)"
            )
            continue
        classifier = classifier_of(run, target, predicted, asking.seed)

        def features(values: Tensor, classifier: Classifier = classifier) -> Tensor:
            with torch.no_grad():
                return classifier.features(values.to(run.model.device)).cpu()

        found |= _of_target(run, target, question, asking, features)
    return found


def _guarded(features: Features, schema: Schema, target: str) -> Callable[[Tensor], Tensor]:
    """Return an author's features as a function of values alone; whatever it raises names the modality."""

    def call(values: Tensor) -> Tensor:
        what = f"modality '{target}' (kind '{schema.kind}'): its features"
        with guard(what), torch.no_grad():
            seen = features(schema, values)
            if seen.ndim != 2 or len(seen) != len(values):
                raise InputError(f"{what}: returned the shape {tuple(seen.shape)}; return ({len(values)}, features)")
            return seen.cpu()

    return call


def _of_target(
    run: Run, target: str, question: Question, asking: Asking, features: Callable[[Tensor], Tensor]
) -> dict[str, Figure]:
    """Return the distances of one target: generated from all that is given and from each alone, and of real rows."""

    def featured(parts: Iterable[Tensor]) -> Tensor:
        found = torch.cat([features(part).double() for part in parts])
        if not bool(found.isfinite().all()):
            raise InputError(f"modality '{target}': features are infinite or no numbers, so there is no distance")
        return found

    found: dict[str, Figure] = {}
    each = [(name,) for name in question.given] if len(question.given) > 1 else []
    for given in (question.given, *each):
        rows = having(run, asking.rows_of(run.dataset), {target, *given})
        if len(rows) < 2:
            continue
        truth = featured(one[target] for one in real(run, (target,), rows, asking.seed))
        if not _enough(truth, target, given):
            continue
        named = target if given == question.given else f"{target} from {given[0]}"
        for source, sampler in sources(run, given).items():
            made = generate(run, given, (target,), rows, sampler, asking.seed)
            found[f"{named}: {source}"] = _figure(featured(one[target][0] for one in made), truth)
        if given == question.given and asking.split != "train":
            training = having(run, run.dataset.rows("train"), (target,))
            if len(training) >= len(rows):  # as many, evenly spread, since the distance depends on their number
                training = training[torch.arange(len(rows)) * len(training) // len(rows)]
                others = (one[target] for one in real(run, (target,), training, asking.seed))
                found[f"{target}: real"] = _figure(featured(others), truth)
    return found


def _enough(features: Tensor, target: str, given: tuple[str, ...]) -> bool:
    """Tell whether there are more rows than features, and log if not."""
    rows, width = features.shape
    if rows <= width:
        behind = f" given {', '.join(given)}" if given else ""
        _log.warning(
            f"{target}{behind}: no Fréchet distance, because {rows} rows are "
            f"too few for the covariance of {width} features; use more --rows, or another --split"
        )
    return rows > width


def _figure(made: Tensor, truth: Tensor) -> Figure:
    """Return the distance between two samples of equally many rows, with its standard error."""
    groups, middle = groups_of(len(truth)), truth.mean(0)
    kept = [groups == group for group in range(int(groups.max()) + 1)]
    first, second = (
        [torch.stack(sums) for sums in zip(*(_sums(one[rows] - middle) for rows in kept), strict=True)]
        for one in (made, truth)
    )  # of each sum (groups, …)

    def distance(counts: Tensor) -> float:
        return _distance(*(_moments([torch.tensordot(counts, sums, 1) for sums in one]) for one in (first, second)))

    return jackknife(distance, len(kept))


def _sums(features: Tensor) -> list[Tensor]:
    """Return the number of rows, the sum of their features, and that of the products of these, in float64."""
    return [torch.tensor(float(len(features)), dtype=torch.double), features.sum(0), features.mT @ features]


def _moments(sums: list[Tensor]) -> _Moments:
    """Return mean `(features,)` and covariance `(features, features)`."""
    rows, total, products = sums
    mean = total / rows
    return mean, (products - rows * torch.outer(mean, mean)) / (rows - 1)


def _distance(one: _Moments, other: _Moments) -> float:
    (mean, covariance), (other_mean, other_covariance) = one, other
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    crossed = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    spread = covariance.trace() + other_covariance.trace() - 2 * crossed
    return float(((mean - other_mean).square().sum() + spread).clamp(min=0))


METRIC = Metric(
    name="frechet",
    summary="Fréchet distance of samples, in a classifier's features",
    measure=_measure,
    display=Display(higher_is_better=False, pages=("report", "compare")),
    unconditional=True,
)
