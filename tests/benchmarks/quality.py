"""Compares the predictions of a trained run with linear models, cell by cell.

    python tests/benchmarks/quality.py RUN [--rows test] [--data FOLDER] [--train-rows N] [--ranks R …]

It prints the errors of each modality given each single one and given all: those of the run, of reduced-rank ridge
regressions of the size of z and of other ranks (one for each cell; 0 is without a limit), of one factor
analysis of all modalities of the size of z, and of the training mean. Then it counts the cells in which the run is
better. Errors are root mean squared ones, or for classes and bits the share of wrong answers, so that lower is better.
The linear models see at most 5,000 training rows, fewer if they are wide (`modalkit/evaluation/reference.py`), or as
many as `--train-rows` says. OMP_NUM_THREADS sets the number of threads, 1 by default.
The factor analysis ignores training rows that lack a modality, and covers those given as the run is asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modalkit.evaluation.measures import ACCURACY, Errors, Measure, measure_of
from modalkit.evaluation.predicted import predicted_errors
from modalkit.evaluation.reference import (
    ALL,
    Cell,
    Columns,
    columns_of,
    constant_errors,
    linear_errors,
    training_columns,
)
from modalkit.evaluation.translation import single_and_all_plan
from modalkit.runs.opened import Run, load_run

ITERATIONS, FLOOR = 50, 1e-5


def factor_analysis(values: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit x = mean + W z + noise of variance psi to `(rows, columns)` by EM.

    Returns:
        The mean, W `(columns, rank)` and psi `(columns,)`.
    """
    mean = values.mean(0)
    centered, rows = values - mean, len(values)
    total = centered.square().mean(0)
    rank = min(rank, *values.shape)
    _, lengths, directions = torch.svd_lowrank(centered, q=min(rank + 10, *values.shape), niter=4)
    variances = lengths[:rank].square() / rows
    rest = ((total.sum() - variances.sum()) / max(1, values.shape[1] - rank)).clamp(min=1e-6)
    loading = directions[:, :rank] * (variances - rest).clamp(min=1e-6).sqrt()
    psi = (total - loading.square().sum(1)).clamp(min=FLOOR)
    for _ in range(ITERATIONS):
        # In double precision: columns that hardly vary make the precision of z nearly singular.
        precise = loading.double() / psi[:, None]
        covariance = torch.linalg.inv(torch.eye(rank) + loading.T.double() @ precise)
        z = centered @ (precise @ covariance).float()
        cross = centered.T @ z
        loading = cross @ torch.linalg.inv(z.T.double() @ z.double() + rows * covariance).float()
        psi = (total - (loading * cross).sum(1) / rows).clamp(min=FLOOR)
    return mean, loading, psi


def factor_errors(
    train: Columns, test: Columns, measures: Mapping[str, Measure], rows: Mapping[Cell, Tensor], rank: int
) -> dict[Cell, Errors]:
    """Predict each cell by the posterior mean of z given the columns that are given; absent ones are not used."""
    names = [name for name in measures if measures[name].is_linear]
    whole = torch.stack([train.present[name] for name in names]).all(0)
    if int(whole.sum()) < 10:
        return {}
    mean, loading, psi = factor_analysis(torch.cat([train.targets[name][whole] for name in names], 1), rank)
    widths = [train.targets[name].shape[1] for name in names]
    parts = {
        n: (m, w, p)
        for n, m, w, p in zip(names, mean.split(widths), loading.split(widths), psi.split(widths), strict=True)
    }
    scores, precisions = {}, {}
    for name, (m, w, p) in parts.items():
        there = test.present[name].float()
        precise = w.double() / p[:, None]
        scores[name] = ((test.targets[name] - m).double() @ precise) * there[:, None]
        precisions[name] = (w.T.double() @ precise) * there[:, None, None]
    found = {}
    for (given, want), kept in rows.items():
        known = names if given == ALL else [given]
        if want not in parts or not set(known) <= set(names):
            continue
        precision = torch.eye(loading.shape[1]) + torch.stack([precisions[n][kept] for n in known]).sum(0)
        score = torch.stack([scores[n][kept] for n in known]).sum(0).unsqueeze(-1)
        z = torch.cholesky_solve(score, torch.linalg.cholesky(precision)).squeeze(-1).float()
        m, w, _ = parts[want]
        found[given, want] = measures[want].errors(measures[want].bounded(m + z @ w.T), test.targets[want][kept])
    return found


def errors(
    run: Run, split: str, most: int | None, ranks: Sequence[int], measures: Mapping[str, Measure]
) -> Iterator[tuple[str, dict[Cell, Errors]]]:
    """Yield the errors of the run and of every other model, by name, as they are computed."""
    model, dataset, rank = run.model, run.dataset, run.model.latent_dim
    rows = dataset.rows(split)
    plan = single_and_all_plan(model, dataset.present[rows], len(model.names))
    batch = dataset[rows]
    train, test = (
        training_columns(dataset, model.schemas, measures, 0, most),
        columns_of(batch, model.schemas, measures),
    )
    found = predicted_errors(model, batch, plan, measures, test.targets, seed=0)
    kept = {(g, w): plan.targets[plan.terms.index(g), :, model.names.index(w)] for g, w in found}
    yield "run", found
    yield "mean", constant_errors(train, test, measures, kept)
    yield f"factors {rank}", factor_errors(train, test, measures, kept, rank)
    for each in dict.fromkeys((rank, *ranks)):
        yield f"rank {each}" if each else "ridge", linear_errors(train, test, measures, kept, each or None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", default="test", help="the split")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--train-rows", type=int, default=None, help="most training rows of the linear models")
    parser.add_argument(
        "--ranks", type=int, nargs="*", default=[32, 64, 0], help="beside the size of z; 0: without a limit"
    )
    parser.add_argument("--epsilon", type=float, default=0.0005, help="differences below it count as equal")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run = load_run(options.run, data=options.data)
    model = run.model
    measures = {n: m for n, s in model.schemas.items() if n in model.decoders and (m := measure_of(s)) is not None}
    wants, givens = list(measures), [ALL, *model.names]
    wide, head = max(9, *map(len, wants)) + 1, max(map(len, givens)) + 1
    found: dict[str, dict[Cell, Errors]] = {}

    def lost(name: str, cell: Cell) -> float | None:
        if (one := found[name].get(cell)) is None:
            return None
        return 1 - one.value if measures[cell[1]].kind == ACCURACY else one.value

    with torch.inference_mode():
        for name, cells in errors(run, options.rows, options.train_rows, options.ranks, measures):
            found[name] = cells
            print(f"\n{name:{head}}" + "".join(want.rjust(wide) for want in wants))
            for given in givens:
                line = (lost(name, (given, want)) for want in wants)
                print(
                    f"{given:{head}}" + "".join(("-" if x is None else f"{x:.4f}").rjust(wide) for x in line),
                    flush=True,
                )
    print("\nCells in which the run is better, equal, worse:")
    for name in list(found)[1:]:
        pairs = [(lost("run", c), lost(name, c)) for c in found["run"]]
        gaps = [b - a for a, b in pairs if a is not None and b is not None]
        better, worse = sum(g > options.epsilon for g in gaps), sum(g < -options.epsilon for g in gaps)
        print(f"  {name:12} {better:3} {len(gaps) - better - worse:3} {worse:3}  of {len(gaps)}")


if __name__ == "__main__":
    main()
