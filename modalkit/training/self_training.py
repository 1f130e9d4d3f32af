"""Self-training: confident predictions of the model (pseudo-labels) fill the absent entries of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.model.prediction import Prediction, predict, probability_of
from modalkit.model.sampling import sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import Outcome
from modalkit.recipe.train_section import SelfTrainingSettings
from modalkit.training.data import TrainingData
from modalkit.util.randomness import derived_seed

_SAMPLES = 5  # of z, over which a prediction is averaged


class SelfTraining:
    """Fills training batches as a recipe's ``train.self_training`` says.

    Args:
        settings: that section.
        model: on its device.
        data: the training rows; the first with something to predict from is used for the check.
        seed: the run's seed.

    Raises:
        InputError: see `check_guesses`.
    """

    def __init__(self, settings: SelfTrainingSettings, model: MultimodalVAE, data: TrainingData, seed: int) -> None:
        self.settings, self.model, self.seed = settings, model, seed
        if len(rows := data.train[model.allows(data.dataset.present[data.train])]):
            check_guesses(model, data.dataset[rows[:1]], settings.modalities)

    def fill(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Return a training batch with the guesses of a step.

        Args:
            batch: not changed.
            epoch: whole epochs done; before ``after_epochs``, nothing is guessed.
            number: the number of the step.
        """
        if epoch < self.settings.after_epochs:
            return batch
        seed = derived_seed(self.seed, "self-training", number)
        return guess(self.model, batch, self.settings.modalities, self.settings.confidence, seed)


@torch.no_grad()
def check_guesses(model: MultimodalVAE, batch: Batch, names: Sequence[str]) -> None:
    """Check that the model's predictions of some modalities have probabilities.

    Args:
        model: in eval mode meanwhile.
        batch: at least one row from which the model can infer.
        names: the modalities.

    Raises:
        InputError: the model has no decoder of one, or its predictions are neither classes nor bits.
    """
    if unknown := [name for name in names if name not in model.decoders]:
        raise InputError(f"train.self_training.modalities: this objective does not predict {', '.join(unknown)}")
    with evaluating(model):
        inputs = sample_posterior(model, batch.to(model.device), model.names, 1, 0)
        for name in names:
            if _likeliest(predict(model, name, inputs, 0, noise=False)) is None:
                raise InputError(
                    f"train.self_training.modalities: '{name}' is of kind '{model.schemas[name].kind}', whose "
                    f"predictions have no probability; name modalities of classes or bits"
                )


@torch.no_grad()
def guess(model: MultimodalVAE, batch: Batch, names: Sequence[str], confidence: float, seed: int) -> Batch:
    """Return a batch in which confident predictions fill absent entries.

    An absent modality of a row is predicted from all modalities that the row has. The prediction is used if its
    probability, averaged over samples of z, is high enough; of several bits, the least probable one counts.

    Args:
        model: in eval mode meanwhile.
        batch: the rows; not changed.
        names: the modalities that may be filled.
        confidence: least probability, in (0, 1].
        seed: of the samples of z.

    Source:
        Lee 2013, Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks.
    """
    values, present = dict(batch.values), batch.present.clone()
    lacking = ~present[:, [model.names.index(name) for name in names]].all(1)
    rows = (lacking & present.any(1) & model.allows(present)).nonzero().squeeze(1)
    if not len(rows):
        return batch
    some = replace(batch, present=present).take(rows).to(model.device)
    with evaluating(model):
        # One noise for all rows, so that a row's guess depends neither on the other rows nor on the processes.
        inputs = sample_posterior(model, some, model.names, _SAMPLES, seed, same_noise=True)
        for name in names:
            column = model.names.index(name)
            lacking = ~some.present[:, column]
            if not lacking.any():
                continue
            guessed = _likeliest(predict(model, name, inputs[:, lacking.to(inputs.device)], 0, noise=False))
            assert guessed is not None, "check_guesses accepts classes and bits only"
            stored, probability = guessed
            at = rows[lacking][probability >= confidence]
            values[name] = values[name].clone()
            values[name][at.to(values[name].device)] = stored[probability >= confidence].to(values[name])
            present[at, column] = True
    return replace(batch, values=values, present=present)


def _likeliest(prediction: Prediction) -> tuple[Tensor, Tensor] | None:
    """Return the likeliest values as they are stored, and each row's probability, the least of several bits.

    None for other modalities: for texts, the share of samples that agree is not a probability.
    """
    if prediction.probabilities is None and prediction.outcome is not Outcome.BINARY:
        return None
    value = prediction.value.round() if prediction.value.is_floating_point() else prediction.value
    stored = prediction.schema.pack(value)
    probability = probability_of(prediction, stored)
    assert probability is not None, "classes and bits have one"
    return stored, probability.reshape(len(stored), -1).amin(1)  # (rows, *event_shape) -> (rows,)
