"""Fitting a sampler of z to a trained model, which does not change."""

from __future__ import annotations

import copy
import logging
import math

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.weak import weaken
from modalkit.errors import InputError, RunError
from modalkit.inference.sampler import LatentSampler, SamplerSettings
from modalkit.inference.sampler_pairs import Pairs, make_pairs
from modalkit.model.vae import MultimodalVAE
from modalkit.nn.patterns import Patterns
from modalkit.recipe.loading import Recipe
from modalkit.training.average import WeightAverage
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed, generator

_log = logging.getLogger(__name__)

STEPS = 3000
_BATCH = 256
_LEARNING_RATE = 4e-3
_NARROW = 64  # the width whose learning rate this is; it falls as the width grows
_DECAY = 0.999
_VALIDATE_EVERY = 100
_PATIENCE = 20
_VALIDATED = 4096
_BLOCKS = 3


def fit_sampler(
    model: MultimodalVAE, recipe: Recipe, weights: str, dataset: Dataset, *, steps: int = STEPS, seed: int = 0
) -> LatentSampler:
    r"""Fit a sampler to the posteriors of a dataset's training rows, by conditional flow matching.

    It minimises :math:`E \| f(u_t, t, c_S) - (u - e) \|_w^2` with :math:`u_t = (1 - t) e + t u`, over t uniform in
    [0, 1], noise e, samples u of q(z | all that a row has), and random subsets S of that. The weight w of a
    dimension is the inverse of its mean variance in the posteriors. Validation rows choose the step whose network is
    kept, an average over the steps before; without such rows, a tenth of the training rows does.

    Args:
        model: the trained model, in eval mode.
        recipe: what it was trained by. Entries that its ``data.weak`` hid from the training are hidden here too.
        weights: SHA-256 of the model's weights.
        dataset: has the model's modalities, in its order.
        steps: the most steps, from 1.
        seed: seed of everything random. The same seed gives the same bits.

    Raises:
        InputError: the dataset has no training rows with a posterior, or too few of them, or `steps` is below 1.
        RunError: the loss is no number.

    Source:
        Lipman et al. 2023, Flow matching for generative modeling, equations 20 to 23.
    """
    if steps < 1:
        raise InputError(f"steps: {steps} is too few; give 1 or more")
    train, valid = _pairs(model, recipe, dataset, seed)
    sampler = _new(SamplerSettings(model.latent_dim, model.names, _width(model), _BLOCKS, weights), train, seed)
    noises, fixed = _Noises(train), _Fixed(valid, derived_seed(seed, "sampler validation"))
    rate = _LEARNING_RATE * _NARROW / sampler.settings.width
    optimizer = torch.optim.AdamW(sampler.field.parameters(), weight_decay=0.01)
    average, best, kept, since = WeightAverage(sampler.field, _DECAY), math.inf, {}, 0
    with bar(steps, "fitting", unit="step") as progress:
        for step in range(steps + 1):
            if step % _VALIDATE_EVERY == 0 or step == steps:
                with average.applied():
                    loss = fixed.loss(sampler)
                    if not math.isfinite(loss):
                        raise RunError(f"step {step}: the loss of the sampler is no number; fit it with another seed")
                    since += 1
                    if loss < best:
                        best, kept, since = loss, copy.deepcopy(sampler.state_dict()), 0
                progress.set_postfix_str(f"loss {loss:.4f}, best {best:.4f}")
                if since >= _PATIENCE:
                    break
            if step < steps:
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                _step(sampler, optimizer, train, noises, generator(seed, "sampler step", step))
                average.update(step)
                progress.update()
    sampler.load_state_dict(kept)
    return sampler.eval()


def _pairs(model: MultimodalVAE, recipe: Recipe, dataset: Dataset, seed: int) -> tuple[Pairs, Pairs]:
    """Return the pairs that are learned from, and those that choose when to stop."""
    dataset = weaken(dataset, dataset.rows("train"), recipe.data.weak, recipe.seed)
    train, valid = dataset.rows("train"), dataset.rows("valid")
    if len(train) + len(valid) < 2 or not len(train):
        raise InputError(
            f"{dataset.path}: has {len(train)} training and {len(valid)} validation rows; a sampler needs one to learn "
            f"from and one more to choose when to stop"
        )
    if not len(valid):
        held_out = torch.arange(len(train)) % 10 == 1
        train, valid = train[~held_out], train[held_out]
    found = make_pairs(model, dataset, train, seed, "sampling training rows")
    return found, make_pairs(model, dataset, valid, seed, "sampling validation rows")


def _width(model: MultimodalVAE) -> int:
    return max(_NARROW, min(256, 2 * model.latent_dim))


def _new(settings: SamplerSettings, train: Pairs, seed: int) -> LatentSampler:
    """Return an untrained sampler, which standardises z by the moments of training rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "sampler weights"))
        sampler = LatentSampler(settings)
    sampler.loc.copy_(train.z.mean(0))
    sampler.scale.copy_(train.z.std(0).nan_to_num(1).clamp(min=1e-3))
    return sampler


def _loss(sampler: LatentSampler, pairs: Pairs, noise: Tensor, t: Tensor) -> Tensor:
    """Return the loss of flow matching, a mean over pairs, weighted over dimensions.

    A dimension's weight is the inverse of its variance in the posteriors, because decoders tell small steps apart where
    the posteriors are narrow.

    Args:
        sampler: whose field is scored.
        pairs: the samples of z and their conditions.
        noise: where the paths begin, `(pairs, latent_dim)`.
        t: times, `(pairs, 1)`.
    """
    u = sampler.standardised(pairs.z)
    velocity = sampler.field((1 - t) * noise + t * u, t, *sampler.condition(pairs.posterior, pairs.given))
    weight = sampler.scale.square() / pairs.variance.to(u).clamp(min=1e-12)
    error: Tensor = (velocity - (u - noise)).square() @ weight
    return error.mean() / weight.sum()


def _step(
    sampler: LatentSampler, optimizer: torch.optim.Optimizer, train: Pairs, noises: _Noises, random: torch.Generator
) -> None:
    """Make one step of the optimiser."""
    rows = torch.randint(len(train), (_BATCH,), generator=random)
    noise = noises.sample(rows, random)
    optimizer.zero_grad()
    _loss(sampler, train[rows], noise, torch.rand(_BATCH, 1, generator=random)).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(sampler.field.parameters(), 1.0)
    optimizer.step()


class _Noises:
    """Noise for pairs: standard normal, or that of any pair with the same subset, and so the same correlations.

    Args:
        pairs: the pairs.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.group = Patterns.of(pairs.given)[0].index
        self.order, self.count = self.group.argsort(stable=True), torch.bincount(self.group)
        self.start = self.count.cumsum(0) - self.count

    def sample(self, rows: Tensor, random: torch.Generator) -> Tensor:
        """Return noise for some of the pairs, `(rows, latent_dim)`."""
        if self.pairs.noise is None:
            return torch.randn(len(rows), self.pairs.z.shape[1], generator=random)
        group = self.group[rows]
        place = (torch.rand(len(rows), generator=random) * self.count[group]).long()
        return self.pairs.noise[self.order[self.start[group] + place.clamp(max=self.count[group] - 1)]]


class _Fixed:
    """The loss on validation pairs, with the same noise at every call.

    Args:
        pairs: the pairs; at most 4,096 are taken.
        seed: seed of the choice, the noise and the times.
    """

    def __init__(self, pairs: Pairs, seed: int) -> None:
        random = generator(seed, "pairs")
        rows = torch.randperm(len(pairs), generator=random)[:_VALIDATED]
        self.pairs, self.noise = pairs[rows], _Noises(pairs).sample(rows, random)
        self.t = torch.rand(len(rows), 1, generator=random)

    @torch.no_grad()
    def loss(self, sampler: LatentSampler) -> float:
        """Return the loss of a sampler."""
        return float(_loss(sampler, self.pairs, self.noise, self.t))
