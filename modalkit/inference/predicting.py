"""Predictions and posteriors of many rows, computed chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modalkit import registry
from modalkit.data import Batch
from modalkit.inference.chunks import chunks, computing
from modalkit.inference.conditions import model_batch
from modalkit.inference.results import Embedding, Inference, joined_embeddings, joined_predictions, moments
from modalkit.inference.sampler import LatentSampler, shaped
from modalkit.inference.styles import restyled
from modalkit.model.prediction import Prediction, predict
from modalkit.model.sampling import Noise, sample_noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Outcome
from modalkit.util.randomness import derived_seed, generator


def infer(
    model: MultimodalVAE,
    batch: Batch,
    want: Sequence[str],
    *,
    draws: int,
    samples: int = 0,
    noise: bool = False,
    seed: int = 0,
    targets: Tensor | None = None,
    mirrored: bool = False,
    temperature: float = 1.0,
    alike: bool = False,
    sampler: LatentSampler | None = None,
    only_samples: bool = False,
    style: Batch | None = None,
) -> Inference:
    """Predict modalities from all that each row has.

    Args:
        model: in eval mode.
        batch: the rows, on the CPU; the model has a posterior of what each has.
        want: the modalities to predict.
        draws: number of samples of z for each row, over which predictions are averaged.
        samples: how many of them to keep as samples.
        noise: see `modalkit.model.prediction.predict`.
        seed: seed of everything random.
        targets: bool `(rows, modalities)`: of each modality in `want`, predict only these rows; by default all rows.
        mirrored: use antithetic samples, see `modalkit.model.sampling.Noise.mirrored`. The first half of the draws is
            independent.
        temperature: factor of the standard deviations of the posteriors, or of the sampler's noise.
        alike: use the same noise for every row, so that a row's prediction does not depend on the rows beside it. The
            noise is `modalkit.model.sampling.Noise.matched`, which needs enough draws.
        sampler: makes the samples, instead of the posterior.
        only_samples: predict from the sampler's samples alone, as many as draws. Otherwise predictions are averaged
            over the posterior's, with and without a sampler.
        style: as many rows, whose values private latents are inferred from instead; see `style_rows`.
    """
    parts: dict[str, list[Prediction]] = {name: [] for name in want}
    posteriors = []
    largest = max([model.latent_dim, *(math.prod(model.schemas[n].event_shape) for n in want)])
    looks = iter(()) if style is None else chunks(model, style, draws * largest, derived_seed(seed, "style"))
    for start, part in chunks(model, batch, draws * largest, seed):
        random = _noise_of(model, start, len(part), draws, seed, mirrored=mirrored, alike=alike).scaled(temperature)
        with computing(model, derived_seed(seed, "values", start)):
            observed = model.observed(part.to(model.device))
            found = sample_z(model, observed, part.present, part.present[None], random)
            look = next(looks, None)
            z = found.z.squeeze(1)  # (draws, rows, latent_dim)
            z = z if look is None else restyled(model, z, look[1], random)
            inputs = model.decoder_inputs(z, observed, part.present)  # (draws, rows, …)
            posteriors.append(moments(found.posterior))
            drawn = None
            if sampler is not None and samples:
                normal = sample_noise(samples, 1, len(part), model.latent_dim, generator(seed, "sampler", start))
                own = shaped(found.posterior, normal.scaled(temperature).to(model.device, model.dtype).normal)
                z = sampler.sample(posteriors[-1], part.present, own.squeeze(1))
                z = z.to(model.device, model.dtype)
                z = z if look is None else restyled(model, z, look[1], random)
                drawn = model.decoder_inputs(z, observed, part.present)
                inputs, drawn = (drawn, None) if only_samples else (inputs, drawn)
            wanted = None if targets is None else targets[start : start + len(part)]
            for name, predictions in parts.items():
                predictions += _predictions(model, name, inputs, drawn, wanted, samples, noise)
    return Inference({name: joined_predictions(found) for name, found in parts.items()}, joined_embeddings(posteriors))


def _noise_of(
    model: MultimodalVAE, start: int, rows: int, draws: int, seed: int, *, mirrored: bool, alike: bool
) -> Noise:
    """Return the noise of a chunk of rows that begins at row `start`; see `infer`."""
    if alike:
        noise = sample_noise(draws, 1, 1, model.latent_dim, generator(seed, "infer")).matched().shared_by(rows)
    else:
        noise = sample_noise(draws, 1, rows, model.latent_dim, generator(seed, "infer", start))
    return noise.mirrored() if mirrored else noise


def _predictions(
    model: MultimodalVAE,
    name: str,
    inputs: Tensor,
    drawn: Tensor | None,
    wanted: Tensor | None,
    samples: int,
    noise: bool,
) -> list[Prediction]:
    """Return the prediction of a modality for the rows in `wanted`, or none if these are no rows; see `infer`.

    Args:
        model: in eval mode.
        name: the modality.
        inputs: what its decoder sees of the posteriors' samples, `(draws, rows, …)`.
        drawn: what it sees of a sampler's samples, `(samples, rows, …)`; None to keep the posteriors'.
        wanted: bool `(rows, modalities)`; None for all.
        samples: how many samples to keep.
        noise: see `modalkit.model.prediction.predict`.
    """
    if wanted is not None:
        rows = wanted[:, model.names.index(name)].to(inputs.device)
        inputs, drawn = inputs[:, rows], None if drawn is None else drawn[:, rows]
    if not inputs.shape[1]:
        return []
    found = predict(model, name, inputs, samples, noise=noise)
    if drawn is None:
        return [found]
    return [replace(found, samples=predict(model, name, drawn, samples, noise=noise).samples)]


def measures(model: MultimodalVAE) -> dict[str, str]:
    """Return what says how certain a prediction is; see `modalkit.TrainedModel.measures`."""
    names = [name for name in model.names if name in model.decoders]
    outcomes = {name: registry.modality(model.schemas[name].kind).outcome for name in names}
    found = {name: "probability" if outcome.has_classes else "scale" for name, outcome in outcomes.items()}
    if reals := [name for name, outcome in outcomes.items() if outcome is Outcome.REAL]:
        # The likelihood of a real kind may lack a variance, and a kind without a declared outcome may be integer.
        origin, nothing = torch.zeros(1, model.latent_dim), model_batch(model, {})
        for name, prediction in decode(model, origin, nothing, reals, 0).items():
            if prediction.probability is not None:
                found[name] = "probability"
            elif prediction.scale is None:
                del found[name]
    return found


def sample(
    model: MultimodalVAE,
    batch: Batch,
    want: Sequence[str],
    *,
    noise: bool,
    seed: int,
    temperature: float,
    sampler: LatentSampler | None,
) -> Inference:
    """Return one sample of z for each row of a batch, from the sampler if there is one, decoded; see `infer`."""
    return infer(
        model,
        batch,
        want,
        draws=1,
        samples=1,
        noise=noise,
        seed=seed,
        temperature=temperature,
        sampler=sampler,
        only_samples=True,
    )


def embed(model: MultimodalVAE, batch: Batch, *, private: bool) -> Embedding:
    """Return the posterior of each row of a batch, given all that the row has, with or without private latents."""
    parts = []
    for _, part in chunks(model, batch, 1, 1):
        with computing(model, 0):
            observed = model.observed(part.to(model.device))
            parts.append(moments(model.posterior(observed, part.present, part.present[None])))
    found = joined_embeddings(parts)
    return found if private else Embedding(found.loc[:, : model.shared_dim], found.scale[:, : model.shared_dim])


def decode(model: MultimodalVAE, z: Tensor, batch: Batch, want: Sequence[str], seed: int) -> dict[str, Prediction]:
    """Decode points of the latent space into modalities.

    Args:
        model: in eval mode.
        z: `(rows, latent_dim)`.
        batch: as many rows, which a conditional model conditions on.
        want: the modalities to decode.
        seed: seed of everything random.
    """
    parts: dict[str, list[Prediction]] = {name: [] for name in want}
    for start, part in chunks(model, batch, 1, seed):
        with computing(model, derived_seed(seed, "decode", start)):
            observed = model.observed(part.to(model.device))
            here = z[None, start : start + len(part)].to(model.device, model.dtype)
            inputs = model.decoder_inputs(here, observed, part.present)
            for name, found in parts.items():
                found.append(predict(model, name, inputs, 0, noise=False))
    return {name: joined_predictions(found) for name, found in parts.items()}
