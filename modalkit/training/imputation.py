"""The error of imputation on validation rows: known entries are hidden, predicted, and compared with what they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modalkit import registry
from modalkit.data import Dataset
from modalkit.data.reading import draw, evenly, several
from modalkit.errors import InputError, guard
from modalkit.model.engine import Sums, means
from modalkit.model.marginals import marginal
from modalkit.model.sampling import Noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import Outcome
from modalkit.recipe.loading import Recipe
from modalkit.training.data import TrainingData
from modalkit.util.processes import Processes
from modalkit.util.randomness import generator

_ROWS = 1000  # most rows that are asked about
_PAIRS = 2000  # of rows and what is hidden of them, roughly
_MOST_TERMS = 8  # times that a row is asked about, each time with other entries hidden
_FEW = 8  # most modalities of which each is also left out, and given alone, in turn
_REFERENCE_ROWS = 1000  # training rows that variances are taken from
_NUMBERS = 1 << 21  # that are decoded at once
_WIDTH = 512  # of a decoder's layers, roughly
_LEAST_LOSS = 0.005  # nats; a modality whose training frequencies lose less is almost constant


class ImputationError:
    r"""How far predictions of hidden entries are from their values, relative to the best constant prediction.

    Known entries of validation rows are hidden, the same ones at every epoch, and predicted from the mean of the
    posterior given the rest of their row. The error of a modality is a mean over its hidden entries:

    - numbers and pictures: the squared error divided by the variance of the training rows. Each number of a vector is
      divided by its own variance; a picture's sum of squares is divided by the sum of the variances.
    - classes, levels, bits and texts: the log-loss, :math:`-\log p(x)`, divided by that of the training frequencies.

    The whole error is the mean over modalities. It is 1 for a model that predicts the training mean and frequencies,
    and 0 for perfect predictions. The weight of the KL plays no part in it.

    Args:
        recipe: names the objective, the modalities and the seed.
        model: on its device.
        data: the rows.
        processes: each process takes its share of the rows.

    Attributes:
        rows: the validation rows that are asked about, at most 1,000, evenly spread; each has two modalities or more.
        given: what is known of them, bool `(terms, rows, modalities)`.
        targets: what is predicted, bool `(terms, rows, modalities)`.

    Raises:
        InputError: nothing can be hidden and predicted.
    """

    def __init__(self, recipe: Recipe, model: MultimodalVAE, data: TrainingData, processes: Processes) -> None:
        self.model, self.dataset, self.seed, self.processes = model, data.dataset, recipe.seed, processes
        self.rows = evenly(data.valid[several(data.dataset.present[data.valid])], _ROWS)
        self.references = _references(model, data.dataset)
        present = data.dataset.present[self.rows]
        terms = max(1, min(_MOST_TERMS, _PAIRS // max(1, len(self.rows))))
        given = hidden_subsets(present, terms, recipe.seed)
        self.given = given & model.allows(given).unsqueeze(-1)
        scored = torch.tensor([name in self.references for name in model.names])
        self.targets = present & ~self.given & self.given.any(-1, keepdim=True) & scored
        if not self.targets.any():
            raise InputError(
                f"train.choose: imputation needs a validation row of {data.dataset.path} with two modalities, of which "
                f"objective '{recipe.objective.name}' predicts one from the other, and which vary among the training "
                f"rows; use train.choose: elbo"
            )

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the error of each modality, ``imputation_error/NAME``, and their mean, ``imputation_error``."""
        sums: Sums = {}
        with evaluating(self.model):
            for index, places in enumerate(torch.split(torch.arange(len(self.rows)), self._rows_at_a_time())):
                for name, (error, count) in self._part(index, places).items():
                    before, seen = sums.get(name, (0.0, 0))
                    sums[name] = (before + error, seen + count)
        found = means(self.processes.gather(sums))
        found = {name: found[name] for name in self.model.names if name in found}
        if not found:
            raise InputError("train.choose: imputation: no modality's prediction has a mean; use train.choose: elbo")
        each = {f"imputation_error/{name}": error for name, error in found.items()}
        return {"imputation_error": sum(found.values()) / len(found)} | each

    def _rows_at_a_time(self) -> int:
        largest = max(_WIDTH, *(math.prod(schema.event_shape) for schema in self.model.schemas.values()))
        return max(1, _NUMBERS // (largest * len(self.given)))

    def _part(self, index: int, places: Tensor) -> Sums:
        """Return the errors of this process's share of some rows, summed over hidden entries."""
        model, share = self.model, slice(self.processes.rank, None, self.processes.size)
        source = generator(self.seed, "imputation", index)
        stored = self.dataset[self.rows[places]]
        seen = draw(stored, model.schemas, source).part(share)
        given, targets = self.given[:, places[share]], self.targets[:, places[share]]
        choice = torch.rand(1, len(given), len(places), generator=source)[:, :, share]
        if not len(seen):
            return {}
        noise = Noise(torch.zeros(*choice.shape, model.latent_dim), choice)  # the means; of a mixture, one component's
        observed = model.observed(seen.to(model.device))
        z = sample_z(model, observed, seen.present, given, noise).z.squeeze(0)  # (terms, rows, latent_dim)
        inputs = model.decoder_inputs(z, observed, seen.present)
        sums: Sums = {}
        for column, name in enumerate(model.names):
            term, row = targets[:, :, column].nonzero(as_tuple=True)
            if not len(row):
                continue
            truth = model.unpack(name, stored.part(share).values[name][row].to(model.device))
            errors = self._errors(name, inputs[term.to(inputs.device), row.to(inputs.device)], truth)
            if errors is not None:
                sums[name] = (float(errors.double().sum()), len(row))
        return sums

    def _errors(self, name: str, inputs: Tensor, truth: Tensor) -> Tensor | None:
        """Return the relative error of each prediction, `(rows,)`; None if a likelihood has no mean to compare."""
        reference = self.references[name]
        if _has_log_loss(self.model, name):
            return -self.model.log_px(name, inputs, truth) / reference.to(inputs.device)
        try:
            mean = self.model.likelihood(name, inputs).mean
        except (NotImplementedError, AttributeError):
            return None
        square = (mean - truth).square().flatten(1)  # (rows, *event_shape) -> (rows, numbers)
        variance = reference.to(square)
        if registry.modality(self.model.schemas[name].kind).outcome is Outcome.PICTURE:
            return square.sum(1) / variance.sum()
        varies = variance > 0
        return (square[:, varies] / variance[varies]).mean(1)


def hidden_subsets(present: Tensor, terms: int, seed: int) -> Tensor:
    """Return which modalities of each row stay known while the others are hidden.

    Each row keeps a random subset, whose size is uniform from one modality to all but one. If there are few modalities,
    a third of the subsets instead leave out one modality, and a third keep only one, each modality in turn.

    Args:
        present: bool `(rows, modalities)`, two modalities or more in each row.
        terms: how many subsets of each row.
        seed: of the subsets.

    Returns:
        bool `(terms, rows, modalities)`.
    """
    rows, count = present.shape
    source = generator(seed, "imputation subsets")
    order = torch.rand(terms, rows, count, generator=source).masked_fill(~present, 2).argsort(-1).argsort(-1)
    most = present.sum(1) - 1
    kept = 1 + torch.minimum((torch.rand(terms, rows, generator=source) * most).long(), most - 1)
    given = order < kept.unsqueeze(-1)
    if count <= _FEW:
        turn = torch.arange(rows * terms).reshape(rows, terms).T  # (rows * terms,) -> (terms, rows)
        one = one_hot(turn // 3 % count, count).bool() & present
        there = one.any(-1, keepdim=True)
        way = (turn % 3).unsqueeze(-1)
        given = torch.where(there & (way == 1), present & ~one, torch.where(there & (way == 2), one, given))
    return given


def _has_log_loss(model: MultimodalVAE, name: str) -> bool:
    return registry.modality(model.schemas[name].kind).outcome.has_classes


def _references(model: MultimodalVAE, dataset: Dataset) -> dict[str, Tensor]:
    """Return what the errors are divided by, without modalities that hardly vary among the training rows.

    Returns:
        For each modality that the model decodes: of numbers and pictures the variances, `(numbers,)`; of the others the
        mean log-loss of the training frequencies, a scalar.
    """
    found, train = dict[str, Tensor](), dataset.rows("train")
    for name in (name for name in model.names if name in model.decoders):
        schema, classes = model.schemas[name], _has_log_loss(model, name)
        rows = evenly(train[dataset.present[train, dataset.names.index(name)]], _REFERENCE_ROWS)
        if len(rows) < 2:
            continue
        values = schema.unpack(dataset.values(name, rows))
        if not classes:
            variance = values.double().flatten(1).var(0, correction=0)  # (rows, *event_shape) -> (numbers,)
            if variance.sum() > 0:
                found[name] = variance
        elif (raw := marginal(dataset, name, schema)) is not None:
            with guard(f"modality '{name}' (kind '{schema.kind}'): its marginal"):
                loss = -registry.modality(schema.kind).likelihood(schema, raw).log_prob(values).double().mean()
            if loss > _LEAST_LOSS:
                found[name] = loss
    return found
