"""Self-training: what a model is sure of stands in training for what a row does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.inference.prediction import Prediction, predict, probability_of, stores_bits
from modalkit.model import MultimodalVAE

_DRAWS = 5  # of z, over which a prediction is averaged


@torch.no_grad()
def check_guesses(model: MultimodalVAE, batch: Batch, names: Sequence[str]) -> None:
    """Check that what a model says of these modalities has a probability.

    Args:
        model: in eval mode.
        batch: any rows that have something.
        names: the modalities.

    Raises:
        InputError: the model has no decoder of one, or knows only how far off it may be, as of pictures.
    """
    if unknown := [name for name in names if name not in model.decoders]:
        raise InputError(f"train.self_training.modalities: this objective does not predict {', '.join(unknown)}")
    inputs = _draws(model, batch.to(model.device), 0)
    for name in names:
        prediction = predict(model, name, inputs, 0, noise=False)
        if _stored(prediction)[1] is None:
            raise InputError(
                f"train.self_training.modalities: '{name}' is of kind '{model.schemas[name].kind}', whose predictions "
                f"have no probability; name modalities of classes, bits or texts"
            )


@torch.no_grad()
def guess(model: MultimodalVAE, batch: Batch, names: Sequence[str], confidence: float, seed: int) -> Batch:
    """Return a batch in which what the model is sure of stands where a modality is absent.

    A row's absent modality is predicted from all that the row has, and taken if each of its parts is as probable as
    asked, the probability averaged over draws of z.

    Args:
        model: in eval mode.
        batch: the rows; not changed.
        names: the modalities that may be guessed.
        confidence: least probability, in (0, 1].
        seed: of the draws of z.

    Source:
        Lee 2013, Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks.
    """
    values, present = dict(batch.values), batch.present.clone()
    columns = [model.names.index(name) for name in names]
    rows = ~batch.present[:, columns].all(1) & batch.present.any(1) & model.allows(batch.present)
    rows = rows.nonzero().squeeze(1)  # those that have something and lack one of `names`
    if not len(rows):
        return batch
    some = Batch({n: v[rows.to(v.device)] for n, v in batch.values.items()}, batch.present[rows]).to(model.device)
    inputs = _draws(model, some, seed)
    for name, column in zip(names, columns, strict=True):
        lacking = ~some.present[:, column]
        at = rows[lacking]
        stored, probability = _stored(predict(model, name, inputs[:, lacking.to(inputs.device)], 0, noise=False))
        assert probability is not None, "check_guesses has seen to it"
        sure = (probability.flatten(1) >= confidence).all(1) if probability.ndim > 1 else probability >= confidence
        values[name] = values[name].clone()
        values[name][at[sure].to(values[name].device)] = stored[sure].to(values[name])
        present[at[sure], column] = True
    return Batch(values, present)


def _stored(prediction: Prediction) -> tuple[Tensor, Tensor | None]:
    """Return the likeliest values as they are stored, and their probabilities; None where there is but a scale."""
    value = prediction.value
    if prediction.scale is not None and not stores_bits(prediction.schema):
        return value, None
    stored = prediction.schema.pack(value.round() if value.is_floating_point() else value)  # a bit's is its probability
    return stored, probability_of(prediction, stored)


def _draws(model: MultimodalVAE, batch: Batch, seed: int) -> Tensor:
    """Return what decoders see for draws of z from q(z|all that a row has), `(draws, batch, …)`.

    One noise serves all rows, so that what a row's guess is does not depend on those beside it.
    """
    draws_of = torch.Generator().manual_seed(seed)
    noise = torch.randn(_DRAWS, 1, 1, model.latent_dim, generator=draws_of).to(model.device, model.dtype)
    choice = torch.rand(_DRAWS, 1, 1, generator=draws_of).to(model.device, model.dtype)
    observed = model.observed(batch)
    posterior = model.posterior(observed, batch.present, batch.present[None])
    z = posterior.sample(noise.expand(-1, -1, len(batch), -1), choice.expand(-1, -1, len(batch)))
    return model.decoder_inputs(z.squeeze(1), observed, batch.present)  # (draws, 1, batch, …) -> (draws, batch, …)
