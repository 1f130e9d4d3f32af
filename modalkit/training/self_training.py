"""Self-training: what a model is sure of (pseudo-labels) stands in training for what a row does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.model.prediction import Prediction, predict, probability_of
from modalkit.model.sampling import sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import Outcome

_DRAWS = 5  # of z, over which a prediction is averaged


@torch.no_grad()
def check_guesses(model: MultimodalVAE, batch: Batch, names: Sequence[str]) -> None:
    """Check that what a model says of these modalities has a probability.

    Args:
        model: put in eval mode meanwhile.
        batch: rows that have what the model can infer from, at least one.
        names: the modalities.

    Raises:
        InputError: the model has no decoder of one, or none of its predictions is a class or a bit.
    """
    if unknown := [name for name in names if name not in model.decoders]:
        raise InputError(f"train.self_training.modalities: this objective does not predict {', '.join(unknown)}")
    with evaluating(model):
        inputs = sample_posterior(model, batch.to(model.device), model.names, 1, 0)
        for name in names:
            if _stored(predict(model, name, inputs, 0, noise=False)) is None:
                raise InputError(
                    f"train.self_training.modalities: '{name}' is of kind '{model.schemas[name].kind}', of whose "
                    f"predictions no probability is known; name modalities of classes or bits"
                )


@torch.no_grad()
def guess(model: MultimodalVAE, batch: Batch, names: Sequence[str], confidence: float, seed: int) -> Batch:
    """Return a batch in which what the model is sure of stands where a modality is absent.

    A row's absent modality is predicted from all that the row has, and taken if it is as probable as asked, of several
    bits each; the probability is averaged over draws of z.

    Args:
        model: put in eval mode meanwhile.
        batch: the rows; not changed.
        names: the modalities that may be guessed.
        confidence: least probability, in (0, 1].
        seed: of the draws of z.

    Source:
        Lee 2013, Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks.
    """
    values, present = dict(batch.values), batch.present.clone()
    lacking = ~present[:, [model.names.index(name) for name in names]].all(1)
    rows = (lacking & present.any(1) & model.allows(present)).nonzero().squeeze(1)
    if not len(rows):
        return batch
    some = Batch({n: v[rows.to(v.device)] for n, v in values.items()}, present[rows]).to(model.device)
    with evaluating(model):
        inputs = sample_posterior(model, some, model.names, _DRAWS, seed, same_noise=True)
        for name in names:
            column = model.names.index(name)
            lacking = ~some.present[:, column]
            if not lacking.any():
                continue
            guessed = _stored(predict(model, name, inputs[:, lacking.to(inputs.device)], 0, noise=False))
            assert guessed is not None, "check_guesses has seen to it"
            stored, probability = guessed
            at = rows[lacking][probability >= confidence]
            values[name] = values[name].clone()
            values[name][at.to(values[name].device)] = stored[probability >= confidence].to(values[name])
            present[at, column] = True
    return Batch(values, present)


def _stored(prediction: Prediction) -> tuple[Tensor, Tensor] | None:
    """Return the likeliest values as they are stored, and the probability of each row's, of several bits the least.

    None of what is neither a class nor bits. (What is known of a text, how many draws agree on it, is no probability.)
    """
    if prediction.probabilities is None and prediction.outcome is not Outcome.BINARY:
        return None
    value = prediction.value.round() if prediction.value.is_floating_point() else prediction.value
    stored = prediction.schema.pack(value)
    probability = probability_of(prediction, stored)
    assert probability is not None, "classes and bits have one"
    return stored, probability.reshape(len(stored), -1).amin(1)  # (rows, *event_shape) -> (rows,)
