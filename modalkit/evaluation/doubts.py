"""What translations show to be wrong with a trained model, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modalkit.evaluation.measures import ACCURACY
from modalkit.evaluation.reference import ALL
from modalkit.evaluation.translation import Translation
from modalkit.util.text import listed

_NOTHING = 0.02  # of the error of the training mean; less is not told apart from chance on a few hundred rows


def doubts(results: Sequence[Translation]) -> list[str]:
    """Return warnings about a trained model, from how well it predicts held-out rows.

    A prediction is worth nothing if it removes less than 2 % of the error of the training mean (of the mean squared
    error, or of the wrong answers).

    - The posterior equals the prior: nothing is predicted, whatever is given.
    - A modality is not learned: it is not predicted, not even given itself or all.
    - An expert carries nothing: given this modality alone, nothing is predicted, although all together predict it.

    Args:
        results: the translations, of one split.

    Example:
        >>> def cell(given, want, value):
        ...     return Translation(given, want, 90, 0, 0, 0, "rmse", value, mean_value=1.0)
        >>> found = doubts([cell("all", "a", 0.5), cell("a", "a", 0.5), cell("all", "b", 1.0), cell("b", "b", 1.0)])
        >>> [one.split(".")[0] for one in found]
        ['b: not learned']
    """
    gains = {(one.given, one.want): gain for one in results if (gain := _gain(one)) is not None}
    if not gains:
        return []
    if max(gains.values()) < _NOTHING:
        return [
            "The posterior equals the prior: no prediction is better than the training mean, whatever is given. Try a "
            "lower objective.beta, a longer objective.warmup_epochs, more epochs, or another train.learning_rate."
        ]
    wants = list(dict.fromkeys(want for _, want in gains))
    lost = [want for want in wants if max(_all_of(gains, want=want, given={ALL, want})) < _NOTHING]
    silent = [
        given
        for given in dict.fromkeys(given for given, _ in gains if given != ALL)
        if given not in lost and max(_all_of(gains, given={given}), default=1.0) < _NOTHING
    ]
    found = []
    if lost:
        found.append(
            f"{listed(lost, 6)}: not learned. Even given the value itself, the prediction is no better than the "
            "training mean. Other modalities may outweigh it: raise its `weight`, or use objective.targets: present."
        )
    if silent:
        found.append(
            f"{listed(silent, 6)}: says nothing about z. Given this modality alone, no prediction is better than the "
            "training mean. Use objective.targets: present, or raise its `weight`."
        )
    return found


def _gain(one: Translation) -> float | None:
    """Return the share of the training mean's error that a prediction removes; None if that error is 0 or unknown."""
    if one.value is None or one.mean_value is None:
        return None
    if one.measure == ACCURACY:
        wrong, mean = 1 - one.value, 1 - one.mean_value
    else:
        wrong, mean = one.value**2, one.mean_value**2
    return 1 - wrong / mean if mean > 0 else None


def _all_of(gains: dict[tuple[str, str], float], given: Iterable[str], want: str = "") -> list[float]:
    return [gain for (one, target), gain in gains.items() if one in given and want in ("", target)]
