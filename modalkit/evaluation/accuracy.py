"""Samples of posteriors, and predictions made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical

from modalkit.data import Batch
from modalkit.evaluation.likelihood import mask
from modalkit.model.vae import MultimodalVAE


def posterior_draws(
    model: MultimodalVAE, batch: Batch, given: Sequence[str], samples: int, seed: int, *, same_noise: bool = False
) -> Tensor:
    """Return what decoders see for draws of z from q(z|x_given), `(samples, batch, …)`.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        given: modalities; of them each row uses those that it has.
        samples: draws a row.
        seed: of the draws.
        same_noise: one noise for all rows, so that a row's draws do not depend on those beside it.
    """
    draws_of, rows = torch.Generator().manual_seed(seed), 1 if same_noise else len(batch)
    noise = torch.randn(samples, 1, rows, model.latent_dim, generator=draws_of).to(model.device, model.dtype)
    choice = torch.rand(samples, 1, rows, generator=draws_of).to(model.device, model.dtype)
    noise, choice = noise.expand(-1, -1, len(batch), -1), choice.expand(-1, -1, len(batch))
    observed, known = model.observed(batch), batch.present & mask(model, given)
    posterior = model.posterior(observed, known, known[None])  # which encodes nothing else
    z = posterior.sample(noise, choice).squeeze(1)  # (samples, batch, latent_dim)
    return model.decoder_inputs(z, observed, batch.present)


def predict(model: MultimodalVAE, name: str, inputs: Tensor) -> Tensor:
    """Return the value that stands for the predictive distribution, averaged over draws of z, `(batch, *event_shape)`.

    Reals: the mean of the likelihoods' means. Categories: the likeliest under the mean of their probabilities. Other
    integers: at each place of the sample, what the likelihoods' modes say most often.

    Args:
        model: in eval mode.
        name: the modality.
        inputs: what its decoder sees, `(samples, batch, …)`.
    """
    samples, batch = inputs.shape[:2]
    flat = inputs.flatten(0, 1)  # (samples, batch, …) -> (samples * batch, …)
    likelihood = model.likelihood(name, flat)
    if isinstance(likelihood, Categorical):
        return likelihood.probs.reshape(samples, batch, -1).mean(0).argmax(-1)
    value = model.predict(name, flat)
    value = value.reshape(samples, batch, *value.shape[1:])
    return value.mean(0) if value.is_floating_point() else value.mode(0).values
