"""How often predictions are right, how well what was seen is explained, and whether what is generated coheres."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from modalkit import registry
from modalkit.data import Batch, Dataset
from modalkit.data.reading import draw
from modalkit.errors import InputError, guard
from modalkit.evaluation.likelihood import fetch, mask
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.runs.checkpoint import load_weights, save_weights
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed, generator

_log = logging.getLogger(__name__)

_ROWS = 200


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


@torch.no_grad()
def accuracy(
    model: MultimodalVAE, dataset: Dataset, rows: Tensor, target: str, given: Sequence[str], samples: int, seed: int
) -> dict[str, Tensor]:
    """Tell which parts of a modality are predicted right from others.

    Args:
        model: put in eval mode here.
        dataset: where the rows are.
        rows: int64 `(rows,)`; those without the target, or without anything given, are left out.
        target: the modality; its kind must have `correct`.
        given: the modalities that it is predicted from.
        samples: draws of z a row.
        seed: of the draws.

    Returns:
        By part, bool `(rows that count,)`.
    """
    model.eval()
    schema = model.schemas[target]
    correct = registry.modality(schema.kind).correct
    if correct is None:
        raise InputError(f"modality '{target}': kind '{schema.kind}' does not say when a prediction is right")
    column = model.names.index(target)
    usable = dataset.present[rows, column] & (dataset.present[rows] & mask(model, given)).any(1)
    rows, parts = rows[usable], []
    with bar(len(rows), f"{target} from {'+'.join(given)}", unit="row", leave=False) as progress:
        for start in range(0, len(rows), _ROWS):
            batch = fetch(dataset, model.schemas, rows[start : start + _ROWS], seed).to(model.device)
            inputs = posterior_draws(model, batch, given, samples, derived_seed(seed, "accuracy", start))
            with guard(f"kind '{schema.kind}': its correct"):
                parts.append(correct(schema, predict(model, target, inputs), schema.unpack(batch.values[target])))
            progress.update(len(batch))
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]} if parts else {}


@torch.no_grad()
def reconstruction(model: MultimodalVAE, dataset: Dataset, rows: Tensor, seed: int) -> dict[str, tuple[float, float]]:
    """Return how well each modality is explained by a draw of the posterior that has seen it, in nats.

    The mean over rows of log p(x_m|z), z drawn once from the posterior of all that the row has, or of x_m alone where
    the model has no joint one; and its standard error.

    Args:
        model: put in eval mode here.
        dataset: where the rows are.
        rows: int64 `(rows,)`.
        seed: of the draws.
    """
    model.eval()
    joint = bool(model.allows(torch.ones(1, len(model.names), dtype=torch.bool))[0])
    found: dict[str, list[Tensor]] = {name: [] for name in model.decoders}
    with bar(len(rows), "reconstruction", unit="row", leave=False) as progress:
        for start in range(0, len(rows), _ROWS):
            batch = fetch(dataset, model.schemas, rows[start : start + _ROWS], seed).to(model.device)
            observed, seed_here = model.observed(batch), derived_seed(seed, "reconstruction", start)
            shared = posterior_draws(model, batch, model.names, 1, seed_here)[0] if joint else None
            for name, scores in found.items():
                own = batch.present[:, model.names.index(name)].nonzero().squeeze(1).to(model.device)
                inputs = posterior_draws(model, batch, (name,), 1, seed_here)[0] if shared is None else shared
                if len(own):
                    scores.append(model.log_px(name, inputs[own], observed[name]).double().cpu())
            progress.update(len(batch))
    return {name: mean_and_error(torch.cat(scores)) for name, scores in found.items() if scores}


class Classifier(nn.Module):
    """A network that predicts one modality from another, made of those that their kinds provide.

    Args:
        source: schema of what it sees.
        target: schema of what it predicts.
    """

    def __init__(self, source: Schema, target: Schema) -> None:
        super().__init__()
        self.source, self.target, self.kind = source, target, registry.modality(target.kind)
        self.encoder = registry.modality(source.kind).encoder(source)
        value = source.unpack(source.zeros(2))
        with torch.no_grad():
            features = self.encoder.eval()(value).shape[1]
        self.decoder = self.kind.decoder(target, features)
        self.train()

    def forward(self, value: Tensor) -> torch.distributions.Distribution:
        """Return p(target|source)."""
        return self.kind.likelihood(self.target, self.decoder(self.encoder(value)))


def train_classifier(
    dataset: Dataset, schemas: dict[str, Schema], source: str, target: str, path: Path, *, epochs: int, seed: int
) -> Classifier:
    """Return a classifier of one modality from another, trained on a dataset's training rows; kept at `path`.

    Args:
        dataset: real data.
        schemas: of its modalities.
        source: what it sees.
        target: what it predicts.
        path: where its weights are kept; read if they are there.
        epochs: passes over the training rows.
        seed: determines the classifier.
    """
    torch.manual_seed(derived_seed(seed, "classifier"))
    classifier = Classifier(schemas[source], schemas[target])
    if path.exists():
        load_weights(path, classifier)
        return classifier.eval()
    names = dataset.names
    rows = dataset.rows("train")
    rows = rows[dataset.present[rows][:, [names.index(source), names.index(target)]].all(1)]
    if not len(rows):
        raise InputError(f"{dataset.path}: no training row has both {source} and {target} to train a classifier on")
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    with bar(epochs * len(rows), f"classifier of {target} from {source}", unit="row", leave=False) as progress:
        for epoch in range(epochs):
            order = torch.randperm(len(rows), generator=generator(seed, "classifier order", epoch))
            for part in torch.split(rows[order], 100):
                batch = draw(dataset[part], schemas, generator(seed, "classifier data", epoch, int(part[0])))
                log_p = classifier(schemas[source].unpack(batch.values[source])).log_prob(
                    schemas[target].unpack(batch.values[target])
                )
                optimizer.zero_grad()
                (-log_p.mean()).backward()
                optimizer.step()
                progress.update(len(part))
    save_weights(path, classifier)
    return classifier.eval()


@torch.no_grad()
def coherence(
    model: MultimodalVAE,
    classifier: Classifier,
    dataset: Dataset,
    rows: Tensor,
    source: str,
    target: str,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Say how often what is generated from a target is classified as that target, and how often real samples are.

    A row's target is given, z drawn from q(z|x_target), the source modality decoded to its mean, and classified.

    Args:
        model: put in eval mode here.
        classifier: of the target from the source.
        dataset: where the rows are.
        rows: int64 `(rows,)`; those that lack one of the two are left out.
        source: the modality that is generated.
        target: the modality that is given.
        seed: of the draws.

    Returns:
        ``generated`` and ``real``: the share that is right in all its parts, and its standard error.
    """
    model.eval()
    schema = model.schemas[target]
    correct = registry.modality(schema.kind).correct
    if correct is None:
        raise InputError(f"modality '{target}': kind '{schema.kind}' does not say when a prediction is right")
    both = [model.names.index(source), model.names.index(target)]
    rows = rows[dataset.present[rows][:, both].all(1)]
    right: dict[str, list[Tensor]] = {"generated": [], "real": []}
    for start in range(0, len(rows), _ROWS):
        batch = fetch(dataset, model.schemas, rows[start : start + _ROWS], seed).to(model.device)
        inputs = posterior_draws(model, batch, [target], 1, derived_seed(seed, "coherence", start))
        truth = schema.unpack(batch.values[target])
        real = model.schemas[source].unpack(batch.values[source])
        for what, value in (("generated", model.predict(source, inputs[0])), ("real", real)):
            likelihood = classifier(value.to(real.dtype) if real.is_floating_point() else value)
            guess = likelihood.mean if truth.is_floating_point() else likelihood.mode
            right[what].append(torch.stack(list(correct(schema, guess, truth).values())).double().mean(0))
    return {what: mean_and_error(torch.cat(parts)) for what, parts in right.items() if parts}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of the values that are not NaN and its standard error, NaN where there are too few.

    >>> mean_and_error(torch.tensor([1.0, 3.0, torch.nan]))
    (2.0, 1.0)
    """
    kept = values[~values.isnan()]
    error = float(kept.std() / len(kept) ** 0.5) if len(kept) > 1 else math.nan
    return (float(kept.mean()) if len(kept) else math.nan), error
