"""A trained model that answers questions: predictions, samples, posteriors, filled gaps, likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from modalkit.data import Batch, Dataset
from modalkit.errors import InputError
from modalkit.evaluation.likelihood import Estimate
from modalkit.inference import conditions, predicting
from modalkit.inference.fitted import FittedModel
from modalkit.inference.frames import impute
from modalkit.inference.results import Embedding, Imputed, Inference
from modalkit.inference.scoring import score
from modalkit.inference.styles import style_rows
from modalkit.inference.subsets import check_given, check_want
from modalkit.inference.values import Given
from modalkit.model.prediction import Prediction


class TrainedModel(FittedModel):
    """A trained model that predicts any modalities from any others.

    All computations run without gradients, in chunks of rows that fit memory. Results depend only on the arguments and
    the seed, and are on the CPU. A model may be used from several threads; they compute one chunk at a time.

    Args:
        model: in eval mode.
        recipe: the recipe that it was trained with.
        path: the folder that it was loaded from.
        weights: SHA-256 of its weights.
        trusted: whether the URL of the recipe's dataset may be contacted.
        sampler: makes samples, if one was fitted to these weights (`fit_sampler`).

    Attributes:
        modalities: their names, in the recipe's order.
        schemas: the modalities' schemas.
        covariates: those of the covariates, whose values may be given beside those of modalities.
        latent_dim: size of z, private latents included.
        shared_dim: size of z without them.
    """

    def infer(
        self,
        given: Given,
        want: Sequence[str] | None = None,
        samples: int = 0,
        *,
        draws: int = 32,
        noise: bool = False,
        seed: int = 0,
        sampler: bool = True,
        as_if: Given | None = None,
        style: Given | None = None,
    ) -> Inference:
        r"""Predict modalities from others: :math:`p(x_{want}|x_{given}) = E_{q(z|x_{given})} p(x_{want}|z)`.

        Args:
            given: the known values, in any form that `modalkit.inference.as_batch` takes. Nothing (``{}``) stands for
                the prior.
            want: the modalities to predict, which may include given ones. By default all that are not given.
            samples: how many samples to return; `draws` is raised to this number if it is smaller.
            draws: number of samples of z for each row, over which predictions are averaged.
            noise: sample from the likelihoods. By default samples are the likelihoods' means (of integers, their
                modes), which is better for looking at pictures.
            seed: seed of everything random.
            sampler: whether samples come from the fitted sampler, if there is one; nothing else depends on it.
            as_if: covariates under which to predict, such as another site; by default those that are given.
            style: values of wanted modalities, of one row or as many as are given. Their private latents are inferred
                from these values: what is given in this style.

        Returns:
            Predictions of one row, or of as many rows as were given.

        Raises:
            InputError: a modality is unknown, a value does not fit, the objective trains no posterior of what is given,
                or the model only conditions on a wanted modality.
        """
        batch = conditions.model_batch(self.model, given, as_if=as_if)
        if want is None:
            want = [n for n in self.predictable if not batch.present[:, self.modalities.index(n)].any()]
        check_want(self.model, want)
        self._check_given(batch)
        draws = max(draws, samples, 1)
        return predicting.infer(
            self.model,
            batch,
            want,
            draws=draws,
            samples=samples,
            noise=noise,
            seed=seed,
            mirrored=samples <= draws // 2,  # what is returned as samples is independent
            sampler=self.sampler if sampler else None,
            style=None
            if style is None
            else style_rows(self.model, style, len(batch), want, self.recipe.objective.name),
        )

    def sample(
        self,
        n: int,
        want: Sequence[str] | None = None,
        *,
        given: Given | None = None,
        noise: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
        sampler: bool = True,
    ) -> Inference:
        """Sample `n` rows: each is one sample of z from the sampler or the prior, decoded into every modality.

        Args:
            n: number of rows.
            want: the modalities to decode; all by default.
            given: values of covariates, one for all rows or one for each. Of the others, each row has those of a
                training row.
            noise: whether the sample of each row is sampled from the likelihoods, or is their mean.
            temperature: factor of the standard deviation of the prior, or of the sampler's noise, from 0; below 1,
                more typical samples.
            seed: seed of the samples.
            sampler: whether to use the fitted sampler, if there is one, or the prior.

        Returns:
            `n` rows, each with one sample; `value` is the point that z decodes to.

        Raises:
            InputError: the model has no prior without a condition, or a number is out of its range.
        """
        if n < 1:
            raise InputError(f"cannot sample {n} rows; ask for 1 or more")
        if not 0 <= temperature < math.inf:
            raise InputError(f"the temperature must be a number from 0, not {temperature}")
        batch = conditions.sampled_rows(self.model, given, n, seed)
        want = self.predictable if want is None else want
        check_want(self.model, want)
        self._check_given(batch)
        own = self.sampler if sampler else None
        return predicting.sample(self.model, batch, want, noise=noise, seed=seed, temperature=temperature, sampler=own)

    def embed(self, given: Given, *, private: bool = False) -> Embedding:
        """Return the posterior q(z|x_given) of each row: mean and standard deviation, `(rows, shared_dim)`.

        Args:
            given: see `infer`.
            private: return all `latent_dim` columns; those of a modality's private latent are ``model.own[name]``.

        Raises:
            InputError: see `infer`.
        """
        batch = conditions.model_batch(self.model, given)
        self._check_given(batch)
        return predicting.embed(self.model, batch, private=private)

    def decode(
        self, z: Tensor, want: Sequence[str] | None = None, given: Given | None = None, *, seed: int = 0
    ) -> dict[str, Prediction]:
        """Decode points of the latent space: :math:`p(x_{want}|z)`.

        Args:
            z: `(rows, latent_dim)`.
            want: the modalities to decode; all by default.
            given: the condition, if the model is a conditional one, or covariates; see `infer`.
            seed: seed of the given values that a kind resamples, such as binarised pictures.

        Returns:
            For each modality a prediction of each row from its z, without samples.

        Raises:
            InputError: see `infer`; or `z` has another shape.
        """
        want = self.predictable if want is None else want
        check_want(self.model, want)
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise InputError(f"z: got the shape {tuple(z.shape)}; give (rows, {self.latent_dim})")
        batch = conditions.model_batch(self.model, given or {}, len(z))
        if len(batch) != len(z):
            raise InputError(f"the numbers of rows differ: {len(z)} of z, {len(batch)} given")
        self._check_given(batch)
        return predicting.decode(self.model, z, batch, want, seed)

    def impute(
        self,
        data: Dataset | Given,
        rows: Tensor | None = None,
        *,
        sample: bool = False,
        draws: int = 32,
        seed: int = 0,
        sampler: bool = True,
        as_if: Given | None = None,
    ) -> Imputed | Any:
        """Fill every absent entry from what its row has.

        An entry is filled with the mean of its prediction as the schema stores it (for bits, the more probable one), or
        with a sample. If a dataset knows some numbers of an absent entry (`Dataset.known`), these stay as they are, and
        the others are predicted from the row's other modalities alone. A row that has nothing is filled from the prior,
        whose mean is the same for all such rows and all seeds. If the model has no posterior of all that a row has, the
        first modality that it has a posterior of alone is used. If there is none, the entries stay absent.

        Of a table (pandas, polars or Arrow), the missing cells of the model's columns are filled. The result is a table
        of the same type, with the same rows, index, columns and types; only missing cells change.

        Args:
            data: a dataset with the model's modalities, a table, or values as for `infer`.
            rows: rows of the dataset, int64 `(rows,)`; all by default.
            sample: fill with samples from the predictive distribution instead of its mean.
            draws: number of samples of z for each row, over which the mean is taken.
            seed: seed of the samples.
            sampler: whether samples come from the fitted sampler, if there is one, or from the posterior.
            as_if: covariates under which to predict the absent entries; by default those of the row.

        Returns:
            The same kind of table, or `modalkit.inference.Imputed` for anything else.

        Raises:
            InputError: the dataset does not have the model's modalities, or the table none of its columns.
        """
        own = self.sampler if sampler else None
        return impute(self.model, data, rows, sample=sample, draws=draws, seed=seed, sampler=own, as_if=as_if)

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

        The estimate is :math:`\log p(T, G) - \log p(G)`, each computed as in `modalkit evaluate`. The proposal is the
        posterior given all of these modalities, as far as the model has one.

        Args:
            given: the known values, possibly none (``{}``); see `infer`.
            targets: the values to score, with as many rows as are given.
            particles: number of samples of z for each row.
            prior_particles: estimate log p(G) with this many samples from the prior instead of the posterior given G.
                By default 5000 if the model has no posterior given G.
            seed: seed of the samples.

        Returns:
            An estimate for each row, with the variance and the effective sample size of its importance weights; NaN for
            rows without targets.

        Raises:
            InputError: see `infer`; or a modality is both given and a target.
        """
        known, asked = (conditions.model_batch(self.model, one) for one in (given, targets))
        return score(self.model, known, asked, particles, prior_particles, seed)

    def _check_given(self, batch: Batch) -> None:
        """Raise `InputError` unless the model has a posterior of what each row has."""
        check_given(self.model, batch.present, self.recipe.objective.name)
