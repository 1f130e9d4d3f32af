"""What simple predictions achieve on the same rows as a model: the training mean, and a linear model of its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Batch, Dataset
from modalkit.data.reading import draw, evenly, several
from modalkit.evaluation.linear import LinearModel, Ridge, chosen_strength, principal_components
from modalkit.evaluation.measures import Errors, Measure, inputs
from modalkit.plugin import Schema
from modalkit.util.progress import bar
from modalkit.util.randomness import generator

ALL = "all"
_MOST_ROWS = 5000
_MOST_NUMBERS = 1 << 26  # of training rows in memory, in single precision: 256 MiB
_LEAST_ROWS = 10  # of training rows that have what is given and what is wanted

Cell = tuple[str, str]
"""What is given (a modality, or ``"all"``) and what is wanted."""


@dataclass(frozen=True)
class Columns:
    """Some rows of a dataset as columns of numbers.

    Attributes:
        inputs: by modality what a linear model sees, `(rows, width)`; texts are left out.
        targets: by modality what is predicted, `(rows, width)`.
        present: by modality which rows have it, bool `(rows,)`.
        covariates: what a linear model sees beside any inputs, `(rows, width)`; None if there are no covariates.
    """

    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    covariates: Tensor | None = None


def columns_of(
    batch: Batch,
    schemas: Mapping[str, Schema],
    wanted: Mapping[str, Measure],
    covariates: Mapping[str, Schema] | None = None,
) -> Columns:
    """Return a batch as columns of numbers.

    Args:
        batch: on the CPU.
        schemas: its modalities.
        wanted: the measures of those that are predicted.
        covariates: the schemas of its covariates.
    """
    seen, targets = {}, {}
    for name, schema in schemas.items():
        values = schema.unpack(batch.values[name])
        if (found := inputs(schema, values)) is not None:
            seen[name] = found
        if name in wanted:
            same = found is not None and values.is_floating_point() and torch.equal(found, wanted[name].columns(values))
            targets[name] = found if same and found is not None else wanted[name].columns(values)
    present = dict(zip(batch.values, batch.present.unbind(1), strict=True))
    return Columns(seen, targets, present, _conditions(batch.covariates, covariates or {}))


def _conditions(batch: Batch | None, schemas: Mapping[str, Schema]) -> Tensor | None:
    """Return covariates as columns, each with zeros where it is absent, and with a column that tells where it is."""
    if batch is None:
        return None
    parts = []
    for (name, schema), there in zip(schemas.items(), batch.present.unbind(1), strict=True):
        found = schema.columns(schema.unpack(batch.values[name]))
        parts += [found.where(there.unsqueeze(1), 0), there.unsqueeze(1).to(found)]
    return torch.cat(parts, 1)


def training_columns(
    dataset: Dataset,
    schemas: Mapping[str, Schema],
    wanted: Mapping[str, Measure],
    seed: int,
    most: int | None = None,
    covariates: Mapping[str, Schema] | None = None,
) -> Columns:
    """Return evenly spread training rows as columns.

    Rows with several modalities come first, because only they show how one follows from another.

    Args:
        dataset: the dataset.
        schemas: the modalities of the model.
        wanted: the measures of those that are predicted.
        seed: of the values that are stored as probabilities.
        most: most rows; None: 5,000, and at most 256 MiB of inputs.
        covariates: the schemas of the dataset's covariates.
    """
    rows = dataset.rows("train")
    if most is None:
        width = sum(one.shape[1] for one in columns_of(dataset[rows[:1]], schemas, {}, covariates).inputs.values())
        most = max(_LEAST_ROWS, min(_MOST_ROWS, _MOST_NUMBERS // max(1, width)))
    paired = several(dataset.present[rows])
    kept = evenly(rows[paired], most)
    kept = torch.cat([kept, evenly(rows[~paired], most - len(kept))]) if len(kept) < most else kept
    return columns_of(draw(dataset[kept], schemas, generator(seed, "reference data")), schemas, wanted, covariates)


def constant_errors(
    train: Columns, test: Columns, wanted: Mapping[str, Measure], rows: Mapping[Cell, Tensor]
) -> dict[Cell, Errors]:
    """Measure the prediction of the training mean; of texts, of the most frequent characters.

    Args:
        train: the training rows.
        test: the rows to predict.
        wanted: the measures of what is predicted.
        rows: by cell which of the rows to predict count, bool `(rows,)`.

    Returns:
        Errors by cell; cells whose target no training row has are left out.
    """
    known: dict[tuple[str, bytes], Errors] = {}
    for (_, want), kept in rows.items():
        key = want, kept.numpy().tobytes()
        if key not in known and bool(train.present[want].any()):
            truth = test.targets[want][kept]
            constant = wanted[want].constant(train.targets[want][train.present[want]])
            known[key] = wanted[want].errors(constant.expand_as(truth), truth)
    by_cell = {cell: known.get((cell[1], kept.numpy().tobytes())) for cell, kept in rows.items()}
    return {cell: errors for cell, errors in by_cell.items() if errors is not None}


def linear_errors(
    train: Columns, test: Columns, wanted: Mapping[str, Measure], rows: Mapping[Cell, Tensor], rank: int | None
) -> dict[Cell, Errors]:
    """Measure what linear models of a rank predict, each fitted to the training rows that have both modalities.

    Given a modality itself, the model is its principal components; otherwise a reduced-rank ridge regression. Given
    all, the columns of all modalities count side by side, and absent ones are filled with their training mean.
    Covariates count beside whatever else is given.

    Args:
        train: the training rows.
        test: the rows to predict.
        wanted: the measures of what is predicted.
        rows: by cell which of the rows to predict count, bool `(rows,)`.
        rank: how many numbers a prediction passes through, such as the size of z; None: no limit.

    Returns:
        Errors by cell. Cells with texts, those with fewer than 10 training rows, and those whose target is given
        itself without a limit of the rank are left out.
    """
    found, givens = {}, list(dict.fromkeys(given for given, _ in rows))
    with bar(len(givens), "linear models", unit="modality", leave=False) as progress:
        for given in givens:
            wants = [want for one, want in rows if one == given and wanted[want].is_linear]
            for names, fit_rows in _alike(train, given, wants):
                seen, asked = _side_by_side(train, train, given), _side_by_side(train, test, given)
                models = _models(train, given, names, [one[fit_rows] for one in seen], fit_rows, rank)
                together = torch.cat(asked, 1)
                for want, model in models:
                    kept, measure = rows[given, want], wanted[want]
                    about = test.targets[want] if given == want else together
                    predicted = measure.bounded(model(about[kept]))
                    found[given, want] = measure.errors(predicted, test.targets[want][kept])
            progress.update()
    return found


def _alike(train: Columns, given: str, wants: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
    """Group targets that are fitted on the same training rows, and leave out those that cannot be fitted."""
    if given != ALL and given not in train.inputs:
        return
    groups: dict[bytes, tuple[list[str], Tensor]] = {}
    for want in wants:
        rows = train.present[want] if given == ALL else train.present[want] & train.present[given]
        if int(rows.sum()) >= _LEAST_ROWS:
            groups.setdefault(rows.numpy().tobytes(), ([], rows))[0].append(want)
    yield from groups.values()


def _side_by_side(train: Columns, of: Columns, given: str) -> list[Tensor]:
    """Return the inputs of what is given, with the training mean where a modality is absent."""
    blocks = []
    for name in train.inputs if given == ALL else [given]:
        there, has = of.present[name].unsqueeze(1), train.present[name]
        mean = train.inputs[name][has].mean(0) if bool(has.any()) else train.inputs[name].new_zeros(1)
        blocks.append(of.inputs[name] if bool(there.all()) else of.inputs[name].where(there, mean))
    return blocks if of.covariates is None else [*blocks, of.covariates]


def _models(
    train: Columns, given: str, wants: Sequence[str], blocks: Sequence[Tensor], rows: Tensor, rank: int | None
) -> Iterator[tuple[str, LinearModel]]:
    """Fit a model for each target to these rows, one at a time, because the models are large."""
    others = [want for want in wants if want != given]
    if given in wants and rank is not None:
        yield given, principal_components(train.targets[given][rows], rank)
    if not others:
        return
    targets = [train.targets[want][rows] for want in others]
    strengths, ridge = chosen_strength(blocks, targets, rank), Ridge(blocks)
    for want, target, strength in zip(others, targets, strengths, strict=True):
        yield want, ridge.fit(target, rank, strength)
