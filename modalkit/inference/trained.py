"""A trained model, loaded to be asked."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from modalkit.data import Batch, Dataset, check_manifest
from modalkit.data.arrays import packed
from modalkit.data.reading import draw
from modalkit.distributions import Posterior
from modalkit.errors import InputError
from modalkit.evaluation import likelihood
from modalkit.evaluation.likelihood import Estimate
from modalkit.evaluation.questions import Question, allows, check
from modalkit.inference.prediction import Prediction, predict, probability_of, stores_bits
from modalkit.inference.results import Embedding, Imputed, Inference, joined_embeddings, joined_predictions, moments
from modalkit.inference.scoring import score
from modalkit.inference.values import Given, as_batch, check_names
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Schema
from modalkit.recipe.loading import Recipe
from modalkit.runs.opened import load_model
from modalkit.util.randomness import derived_seed, generator

_NUMBERS = 1 << 23  # of a modality, over all draws and rows of a chunk: 32 MiB a tensor
_MOST_ROWS = 256
_PRIOR_DRAWS = 1000
"""At least so many draws make the mean of the prior, which fills every row that has nothing."""

_computing = threading.RLock()
"""Held for each chunk: some models keep what they are conditioned on while they compute, likelihoods draw from torch's
global generator, and the memory of one chunk is all that is needed at any time."""


class TrainedModel:
    """A trained model that answers for anything, given anything.

    Everything is computed without gradients, in chunks of rows that fit memory, and depends on the arguments and the
    seed alone. Results are on the CPU. May be used from several threads: a chunk of one is computed at a time.

    Args:
        model: in eval mode.
        recipe: what it was trained by.
        path: where it is from.
        weights: SHA-256 of its weights.

    Attributes:
        modalities: their names, in the recipe's order.
        schemas: of the modalities.
        latent_dim: size of z.
    """

    def __init__(self, model: MultimodalVAE, recipe: Recipe, path: Path, weights: str) -> None:
        self.model, self.recipe, self.path, self.weights = model, recipe, path, weights
        self.modalities: tuple[str, ...] = model.names
        self.schemas: dict[str, Schema] = model.schemas
        self.latent_dim: int = model.latent_dim

    @property
    def predictable(self) -> tuple[str, ...]:
        """The modalities that the model can predict: all, but for what a conditional model is only given."""
        return tuple(name for name in self.modalities if name in self.model.decoders)

    @cached_property
    def measures(self) -> dict[str, str]:
        """By modality that can be predicted what says how sure a filled entry is: ``scale`` or ``probability``."""
        found = self._infer(as_batch(self.schemas, {}), self.predictable, 0, 1, False, 0)
        measures = {}
        for name, prediction in found.items():
            if prediction.probability is not None or stores_bits(self.schemas[name]):
                measures[name] = "probability"
            elif prediction.scale is not None:
                measures[name] = "scale"
        return measures

    def allows(self, given: Sequence[str]) -> bool:
        """Tell whether the model has a posterior of just these modalities; of none, it is the prior."""
        check_names(given, self.modalities)
        return allows(self.model, given)

    def infer(
        self,
        given: Given,
        want: Sequence[str] | None = None,
        samples: int = 0,
        *,
        draws: int = 32,
        noise: bool = False,
        seed: int = 0,
    ) -> Inference:
        r"""Predict modalities from others: :math:`p(x_{want}|x_{given}) = E_{q(z|x_{given})} p(x_{want}|z)`.

        Args:
            given: what is known, as a person has it: see `modalkit.inference.as_batch`. Nothing (``{}``): the prior.
            want: what to predict; what is given may be among it. By default all that is not given.
            samples: how many to keep, at most `draws`, which are raised to that.
            draws: draws of z a row, over which predictions are averaged.
            noise: whether samples are drawn from the likelihoods, or are their means (of integers, modes), which is
                what pictures are best looked at by.
            seed: of every draw.

        Returns:
            Predictions of one row, or of as many as were given.

        Raises:
            InputError: an unknown modality, a value that does not fit, a subset of which the objective trains no
                posterior, or a modality that the model only conditions on.
        """
        batch = as_batch(self.schemas, given)
        known = batch.present.any(0)
        if want is None:
            want = [n for n in self.predictable if not known[self.modalities.index(n)]]
        self._check_want(want)
        self._check_given(batch.present)
        return self._infer(batch, want, samples, max(draws, samples, 1), noise, seed)

    def sample(self, n: int, want: Sequence[str] | None = None, *, noise: bool = False, seed: int = 0) -> Inference:
        """Draw from the prior: `n` rows, each of one draw of z, decoded into every modality.

        Args:
            n: how many.
            want: which modalities; all by default.
            noise: whether the one sample of each row is drawn from the likelihoods, or is their mean.
            seed: of the draws.

        Returns:
            `n` rows, with `value` what z decodes to, and one sample.

        Raises:
            InputError: the model has no prior without a condition.
        """
        if n < 1:
            raise InputError(f"cannot sample {n} rows; ask for 1 or more")
        batch = as_batch(self.schemas, {}, n)
        want = self.predictable if want is None else want
        self._check_want(want)
        self._check_given(batch.present)
        return self._infer(batch, want, 1, 1, noise, seed)

    def embed(self, given: Given) -> Embedding:
        """Return the posterior q(z|x_given) of each row: mean and standard deviation, `(rows, latent_dim)`.

        Args:
            given: see `infer`.

        Raises:
            InputError: see `infer`.
        """
        batch = as_batch(self.schemas, given)
        self._check_given(batch.present)
        parts = []
        for _, part in self._chunks(batch, 1, 1):
            with self._computing(0):
                parts.append(moments(self._posterior(part)[0]))
        return joined_embeddings(parts)

    def decode(
        self, z: Tensor, want: Sequence[str] | None = None, given: Given | None = None, *, seed: int = 0
    ) -> dict[str, Prediction]:
        """Decode points of the latent space: :math:`p(x_{want}|z)`.

        Args:
            z: `(rows, latent_dim)`.
            want: which modalities; all by default.
            given: what the decoders are conditioned on, where the model is a conditional one; see `infer`.
            seed: of what a kind draws of given values.

        Returns:
            By modality a prediction of each row, of this one z, with no samples.

        Raises:
            InputError: see `infer`; or `z` has another shape.
        """
        want = self.predictable if want is None else want
        self._check_want(want)
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise InputError(f"z: got the shape {tuple(z.shape)}; give (rows, {self.latent_dim})")
        batch = as_batch(self.schemas, given or {}, len(z))
        if len(batch) != len(z):
            raise InputError(f"the numbers of rows differ: {len(z)} of z, {len(batch)} given")
        self._check_given(batch.present)
        parts: dict[str, list[Prediction]] = {name: [] for name in want}
        for start, part in self._chunks(batch, 1, seed):
            with self._computing(derived_seed(seed, "decode", start)):
                observed = self.model.observed(part.to(self.model.device))
                here = z[None, start : start + len(part)].to(self.model.device, self.model.dtype)
                inputs = self.model.decoder_inputs(here, observed, part.present)
                for name, found in parts.items():
                    found.append(predict(self.model, name, inputs, 0, noise=False))
        return {name: joined_predictions(found) for name, found in parts.items()}

    def impute(
        self, data: Dataset | Given, rows: Tensor | None = None, *, sample: bool = False, draws: int = 32, seed: int = 0
    ) -> Imputed:
        """Fill every entry that is absent, from what its row has.

        What is filled is the mean of the prediction, to what the schema can store (a bit is the likelier of its
        values), or a sample. Numbers of an absent entry that a dataset knows (`Dataset.known`) stay as they are; the
        others are inferred from the row's other modalities alone. A row that has nothing is filled from the prior: its
        mean is the same for all such rows, whatever the seed. Where the model has no posterior of all that a row has,
        one modality alone stands for it, the first that can; where none can, entries stay absent.

        Args:
            data: a dataset with the model's modalities, or values as for `infer`.
            rows: of the dataset, int64 `(rows,)`; all by default.
            sample: fill with draws from the predictive distribution, in place of its mean.
            draws: draws of z a row that the mean is taken over.
            seed: of the draws.

        Raises:
            InputError: the dataset does not have the model's modalities.
        """
        partly: dict[str, tuple[Tensor, Tensor]] = {}
        if isinstance(data, Dataset):
            check_manifest(data.path, self.schemas)
            rows = torch.arange(len(data)) if rows is None else rows
            batch = as_batch(self.schemas, _only(data[rows], self.schemas))
            partly = {n: data.known(n, rows) for n in self.modalities if data.manifest.modalities[n].partly}
        else:
            batch = as_batch(self.schemas, data)
        given = self.usable(batch.present)
        can = self.model.allows(given)
        fill = ~batch.present & can[:, None] & torch.tensor([n in self.model.decoders for n in self.modalities])
        asked = Batch(batch.values, given)
        alike = can & ~given.any(1) & (not sample)  # what is expected of a row that has nothing is one answer
        apart, ours = fill & ~alike[:, None], derived_seed(seed, "impute")
        predictions = self._infer(asked, self._lacking(apart), int(sample), draws, sample, ours, apart)
        expected: Mapping[str, Prediction] = {}
        if alike.any():
            nothing, lacking = as_batch(self.schemas, {}), self._lacking(fill & alike[:, None])
            expected = self._infer(nothing, lacking, 0, max(draws, _PRIOR_DRAWS), False, 0)
        values, known = dict(batch.values), dict[str, Tensor]()
        scale: dict[str, Tensor] = {}
        probability: dict[str, Tensor] = {}
        for name in self._lacking(fill):
            schema, filling = self.schemas[name], fill[:, self.modalities.index(name)]
            found = [of[name] for of in (predictions, expected) if name in of]
            if name in expected:
                found += found[-1:] * (int((filling & alike).sum()) - 1)
            prediction = joined_predictions(found)
            filled = storable(schema, prediction.samples[0] if sample else prediction.value)
            sure = probability_of(prediction, filled)
            into, sure = (probability, sure) if sure is not None else (scale, prediction.scale)
            at = torch.cat([(filling & which).nonzero().squeeze(1) for which in (~alike, alike)])
            values[name] = values[name].index_copy(0, at, filled)
            if sure is not None:
                into[name] = sure.new_full((len(batch), *sure.shape[1:]), math.nan).index_copy(0, at, sure)
            if name in partly:
                here, own = partly[name]
                known[name] = here & filling.reshape(-1, *[1] * (here.ndim - 1))  # (rows,) -> (rows, 1, …)
                values[name] = values[name].where(~known[name], own)
                if sure is not None:
                    into[name] = into[name].masked_fill(known[name], math.nan)
        return Imputed(Batch(values, batch.present | fill), fill, known, given, scale, probability)

    def score(
        self,
        given: Given,
        targets: Given,
        *,
        particles: int = 1000,
        prior_particles: int | None = None,
        seed: int = 0,
    ) -> Estimate:
        r"""Estimate :math:`\log p(x_{targets} | x_{given})` in nats, by importance sampling.

        :math:`\log p(T, G) - \log p(G)`, each as `modalkit evaluate` estimates it: the proposal is the posterior of
        all that is named, as far as the model has one.

        Args:
            given: what is known, possibly nothing (``{}``); see `infer`.
            targets: values of the modalities whose probability is asked, a row for each that is given.
            particles: draws of z a row.
            prior_particles: estimate log p(G) with so many draws of the prior, in place of the posterior given G; by
                default 5000 where the model has no such posterior.
            seed: of the draws.

        Returns:
            For each row the estimate, with the variance and the effective sample size of its importance weights; NaN
            where a row has no target.

        Raises:
            InputError: see `infer`; or a modality is both given and a target.
        """
        known, asked = as_batch(self.schemas, given), as_batch(self.schemas, targets)
        names = [
            [n for n, there in zip(self.modalities, one.present.any(0), strict=True) if there] for one in (asked, known)
        ]
        question = check(self.model, Question(tuple(names[0]), tuple(names[1])))
        rows = max(len(known), len(asked))
        if {len(known), len(asked)} - {1, rows}:
            raise InputError(f"the numbers of rows differ: {len(known)} given, {len(asked)} of the targets")
        values = {n: (asked if n in names[0] else known).values[n] for n in self.modalities}
        batch = Batch(
            {n: value.expand(rows, *value.shape[1:]) for n, value in values.items()},
            known.present.expand(rows, -1) | asked.present.expand(rows, -1),
        )
        parts = []
        for start, at in likelihood.batches(torch.arange(rows), particles, self.latent_dim):
            part = draw(batch.part(slice(start, start + len(at))), self.schemas, generator(seed, "score data", start))
            with self._computing(derived_seed(seed, "score", start)):
                parts.append(
                    score(
                        self.model, part, question, particles, prior_particles, derived_seed(seed, "particles", start)
                    )
                )
        return Estimate(*(torch.cat(one) for one in zip(*(vars(part).values() for part in parts), strict=True)))

    def _lacking(self, fill: Tensor) -> list[str]:
        """Return the modalities of which some entry is to be filled."""
        return [name for name, some in zip(self.modalities, fill.any(0), strict=True) if some]

    def usable(self, present: Tensor) -> Tensor:
        """Return of which of its modalities each row has a posterior, bool `(rows, modalities)`.

        All of them where the model allows it; otherwise the first that it allows alone; otherwise none.
        """
        given, open_ = present & self.model.allows(present)[:, None], ~self.model.allows(present)
        for column in range(present.shape[1]):
            alone = torch.zeros_like(present)
            alone[:, column] = present[:, column]
            take = open_ & present[:, column] & self.model.allows(alone)
            given[take], open_ = alone[take], open_ & ~take
        return given

    def _infer(
        self,
        batch: Batch,
        want: Sequence[str],
        samples: int,
        draws: int,
        noise: bool,
        seed: int,
        targets: Tensor | None = None,
    ) -> Inference:
        """Predict what is wanted of each row; with `targets`, bool `(rows, modalities)`, of those rows alone."""
        parts: dict[str, list[Prediction]] = {name: [] for name in want}
        posteriors = []
        largest = max([self.latent_dim, *(math.prod(self.schemas[n].event_shape) for n in want)])
        for start, part in self._chunks(batch, draws * largest, seed):
            draws_of = generator(seed, "infer", start)
            shape = (draws, 1, len(part), self.latent_dim)
            normal, choice = torch.randn(shape, generator=draws_of), torch.rand(shape[:-1], generator=draws_of)
            with self._computing(derived_seed(seed, "values", start)):
                posterior, observed = self._posterior(part)
                noises = (one.to(self.model.device, self.model.dtype) for one in (normal, choice))
                z = posterior.sample(*noises).squeeze(1)  # (draws, rows, latent_dim)
                inputs = self.model.decoder_inputs(z, observed, part.present)
                posteriors.append(moments(posterior))
                for name, found in parts.items():
                    here = inputs
                    if targets is not None:
                        wanting = targets[start : start + len(part), self.modalities.index(name)]
                        here = inputs[:, wanting.to(inputs.device)]
                    if here.shape[1]:
                        found.append(predict(self.model, name, here, samples, noise=noise))
        return Inference(
            {name: joined_predictions(found) for name, found in parts.items()}, joined_embeddings(posteriors)
        )

    def _posterior(self, batch: Batch) -> tuple[Posterior, Mapping[str, Tensor]]:
        """Return q(z|X) of what a batch has, `(1, rows, latent_dim)`, and what the networks saw of it."""
        observed = self.model.observed(batch.to(self.model.device))
        return self.model.posterior(observed, batch.present, batch.present[None]), observed

    def _chunks(self, batch: Batch, numbers: int, seed: int) -> Iterator[tuple[int, Batch]]:
        """Cut a batch into parts of which each row may take so many numbers, and draw what is drawn of them."""
        size = max(1, min(_MOST_ROWS, _NUMBERS // numbers))
        for start in range(0, len(batch), size):
            part = batch.part(slice(start, start + size))
            yield start, draw(part, self.schemas, generator(seed, "given", start))

    @contextmanager
    def _computing(self, seed: int) -> Iterator[None]:
        """Compute alone, without gradients, with torch's global generator at a state of its own."""
        device = self.model.device
        with _computing, torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _check_want(self, want: Sequence[str]) -> None:
        if isinstance(want, str):
            raise InputError(f"want: give a list of modalities, such as ['{want}'], not a text")
        check_names(want, self.modalities)
        if conditions := [name for name in want if name not in self.model.decoders]:
            raise InputError(f"{', '.join(conditions)}: this run's objective does not model it, only conditions on it")
        if not want:
            raise InputError("everything is given, so there is nothing to predict; name what to predict all the same")

    def _check_given(self, present: Tensor) -> None:
        """Raise `InputError` unless the model has a posterior of what each row has."""
        wrong = (~self.model.allows(present)).nonzero().squeeze(1)
        if not len(wrong):
            return
        row, names = int(wrong[0]), self.modalities
        given = ", ".join(n for n, there in zip(names, present[row], strict=True) if there) or "nothing"
        can = [n for n in names if self.allows([n])] + (["all together"] if self.allows(names) else [])
        at = f"row {row}: " if len(present) > 1 else ""
        raise InputError(
            f"{at}this run's objective ({self.recipe.objective.name}) trains no posterior given {given}; it has those "
            f"given one of: {', '.join(can)}"
        )


def load(run: Path | str, *, device: str = "cpu") -> TrainedModel:
    """Load a trained model to be asked; its dataset is not needed.

    Args:
        run: a run folder, or one that `modalkit export` wrote.
        device: where to compute, such as ``cpu`` or ``cuda``.

    Raises:
        InputError: no run there, no weights yet, or no such device.
    """
    recipe, model, weights = load_model(Path(run), device=device)
    return TrainedModel(model, recipe, Path(run), weights)


def storable(schema: Schema, value: Tensor) -> Tensor:
    """Return predictions, `(rows, *event_shape)`, as a schema stores them; the likelier bit where it takes no mean."""
    try:
        return torch.from_numpy(packed(schema, value))
    except ValueError:
        return torch.from_numpy(packed(schema, value.round()))


def _only(batch: Batch, names: Mapping[str, Schema]) -> Batch:
    """Return some modalities of a batch."""
    columns = [list(batch.values).index(n) for n in names]
    return Batch({n: batch.values[n] for n in names}, batch.present[:, columns])
