"""Stored scores of the benchmarks of imputation, and what is printed of them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

ERROR, ACCURACY, COVERAGE, SECONDS = "rmse", "accuracy", "coverage", "cpu_s"
MEASURES = (ERROR, ACCURACY, COVERAGE, SECONDS)


@dataclass(frozen=True)
class Score:
    """What one method reached on one table with one choice of hidden cells; None where it does not apply."""

    data: str
    source: str
    mechanism: str
    seed: int
    method: str
    rmse: float | None
    accuracy: float | None
    coverage: float | None
    cpu_s: float


def path(folder: Path, data: str, mechanism: str, seed: int, method: str) -> Path:
    """Return where a score is stored; long names of methods are shortened with their digest."""
    name = re.sub(r"[^\w.=-]+", "_", method)
    if len(name) > 80:
        name = f"{name[:60]}-{hashlib.sha256(method.encode()).hexdigest()[:12]}"
    return folder / data / f"{mechanism}-{seed}" / f"{name}.json"


def store(folder: Path, score: Score) -> None:
    """Keep a score, and say on standard error what it is."""
    file = path(folder, score.data, score.mechanism, score.seed, score.method)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(score), indent=1) + "\n")
    shown = [f"{name} {x:.3f}" for name, x in ((ERROR, score.rmse), (ACCURACY, score.accuracy)) if x is not None]
    where = f"{score.data} {score.mechanism} {score.seed} {score.method}"
    print(f"{where}: {', '.join(shown)}, {score.cpu_s:.1f} s", file=sys.stderr, flush=True)


def stored(folder: Path) -> list[Score]:
    known = {field.name for field in fields(Score)}
    found = (json.loads(file.read_text()) for file in sorted(folder.glob("*/*/*.json")))
    return [Score(**{key: value for key, value in score.items() if key in known}) for score in found]


def report(scores: Iterable[Score], methods: Sequence[str]) -> str:
    """Return tables in Markdown: errors and accuracies by data, then ranks, coverage and time by method.

    Only the pairs of a mechanism and a seed that all methods have are averaged, so that methods are compared on the
    same hidden cells.
    """
    scores = [score for score in scores if score.method in methods]
    whole = _common(scores, methods)
    parts = []
    for mechanism in sorted({key[1] for key in whole}):
        rows = sorted({key[0] for key in whole if key[1] == mechanism})
        means = {row: [_mean(whole[row, mechanism], method) for method in methods] for row in rows}
        for measure, best in ((ERROR, min), (ACCURACY, max)):
            lines = [
                [f"{row} ({len(_seeds(whole[row, mechanism]))})", *_cells([m[measure] for m in means[row]], best)]
                for row in rows
                if means[row][0][measure] is not None
            ]
            if lines:
                parts.append(f"{mechanism}, {measure} (seeds)\n\n" + _markdown(["", *methods], lines))
        parts.append(f"{mechanism}, over all\n\n" + _summary(list(means.values()), methods))
    return "\n".join(parts)


Means = dict[str, float | None]


def _common(scores: Sequence[Score], methods: Sequence[str]) -> dict[tuple[str, str], list[Score]]:
    """Return the scores of each data set and mechanism, of those seeds that all methods have."""
    kept: dict[tuple[str, str], list[Score]] = {}
    for key in sorted({(score.data, score.mechanism, score.seed) for score in scores}):
        same = [score for score in scores if (score.data, score.mechanism, score.seed) == key]
        if {score.method for score in same} == set(methods):
            kept.setdefault(key[:2], []).extend(same)
    return kept


def _seeds(scores: Sequence[Score]) -> set[int]:
    return {score.seed for score in scores}


def _mean(scores: Sequence[Score], method: str) -> Means:
    found: Means = {}
    for measure in MEASURES:
        values = [getattr(score, measure) for score in scores if score.method == method]
        known = [value for value in values if value is not None]
        found[measure] = float(np.mean(known)) if known else None
    return found


def _summary(means: Sequence[Sequence[Means]], methods: Sequence[str]) -> str:
    """Average ranks (1 is best; equal scores share a rank), scores, coverage and time over data sets."""
    ranks = {measure: _ranks(means, measure) for measure in (ERROR, ACCURACY)}
    lines = []
    for i, method in enumerate(methods):
        both = [ranks[measure][i] for measure in ranks if ranks[measure]]
        averages = {m: [row[i][m] for row in means if row[i][m] is not None] for m in MEASURES}
        shown = {m: f"{np.mean(np.array(v, float)):.3f}" if v else "" for m, v in averages.items()}
        seconds = f"{float(shown[SECONDS]):.1f}" if shown[SECONDS] else ""
        rank = [f"{value:.2f}" for value in both] + [""] * (2 - len(both))
        lines.append([method, shown[ERROR], shown[ACCURACY], *rank, f"{np.mean(both):.2f}", shown[COVERAGE], seconds])
    header = ["", "RMSE", "accuracy", "rank by RMSE", "rank by accuracy", "mean rank", "within 2 sd", "CPU s"]
    return _markdown(header, lines)


def _ranks(means: Sequence[Sequence[Means]], measure: str) -> list[float]:
    rows = [[method[measure] for method in row] for row in means]
    known = np.array([row for row in rows if None not in row], dtype=float)
    if not len(known):
        return []
    cost = known if measure == ERROR else -known
    below = (cost[:, None, :] < cost[:, :, None]).sum(2)
    equal = (cost[:, None, :] == cost[:, :, None]).sum(2)
    return [float(rank) for rank in (below + (equal + 1) / 2).mean(0)]


def _cells(values: Sequence[float | None], best: object) -> list[str]:
    known = [value for value in values if value is not None]
    top = best(known) if known and callable(best) else None
    return ["" if v is None else f"**{v:.3f}**" if v == top else f"{v:.3f}" for v in values]


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
