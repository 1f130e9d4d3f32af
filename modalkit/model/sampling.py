"""Samples of z: the noise that they are made of, and what decoders see of samples from posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.distributions import Posterior
from modalkit.model.observed import Observed
from modalkit.model.vae import MultimodalVAE
from modalkit.plugin import Plan


@dataclass(frozen=True)
class Noise:
    """The random numbers that samples of z are made of.

    Attributes:
        normal: standard normal, `(samples, terms, rows, latent_dim)`.
        choice: uniform in [0, 1), `(samples, terms, rows)`; it picks the component of a posterior that is a mixture.
    """

    normal: Tensor
    choice: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Noise:
        """Return the same noise on a device and in a precision."""
        return Noise(self.normal.to(device, dtype), self.choice.to(device, dtype))

    def mirrored(self) -> Noise:
        """Return antithetic noise: the second half of the samples mirrors the first half, an odd last one stays.

        A mean over such samples of anything linear in z is exact, and other means have less variance.

        Source:
            Hammersley & Morton 1956, A new Monte Carlo technique: antithetic variates.
        """
        half = len(self.normal) // 2
        return Noise(torch.cat([self.normal[:half], -self.normal[:half], self.normal[2 * half :]]), self.choice)

    def matched(self) -> Noise:
        """Return mirrored noise whose variances are exactly 1 and covariances 0, over an even number of samples.

        Means and variances over such samples of anything linear in z are exact. There must be at least twice as many
        samples as latent dimensions.
        """
        half, size = len(self.normal) // 2, self.normal.shape[-1]
        if len(self.normal) % 2 or half < size:
            raise ValueError(f"{len(self.normal)} samples are not an even number from {2 * size}")
        rows = self.normal[:half].permute(1, 2, 0, 3)  # (terms, rows, half, latent_dim)
        exact = torch.linalg.qr(rows).Q.permute(2, 0, 1, 3) * ((2 * half - 1) / 2) ** 0.5
        return Noise(torch.cat([exact, -exact]), self.choice)

    def scaled(self, factor: float) -> Noise:
        """Return the noise of samples with other standard deviations."""
        return self if factor == 1 else Noise(self.normal * factor, self.choice)

    def shared_by(self, rows: int) -> Noise:
        """Return the noise of one row for each of several rows."""
        return Noise(self.normal.expand(-1, -1, rows, -1), self.choice.expand(-1, -1, rows))


@dataclass(frozen=True)
class Samples:
    """Samples of z, and the posteriors that they are from.

    Attributes:
        posterior: `(terms, rows, latent_dim)`.
        z: `(samples, terms, rows, latent_dim)`.
    """

    posterior: Posterior
    z: Tensor


def sample_noise(samples: int, terms: int, rows: int, latent_dim: int, generator: torch.Generator) -> Noise:
    """Sample the noise for `samples` samples of z of each term and row, on the CPU.

    Args:
        samples: number of samples.
        terms: number of posteriors for each row.
        rows: number of rows.
        latent_dim: size of z.
        generator: generator on the CPU.
    """
    normal = torch.randn(samples, terms, rows, latent_dim, generator=generator)
    return Noise(normal, torch.rand(samples, terms, rows, generator=generator))


def plan_noise(model: MultimodalVAE, plan: Plan, generator: torch.Generator) -> Tensor:
    """Sample the noise that `modalkit.model.engine.evaluate_plan` needs for a plan.

    Args:
        model: the model that the plan is evaluated with.
        plan: the plan, of all rows of the batch.
        generator: the noise is sampled on its device.

    Returns:
        Standard normal, `(draws * components * terms, rows, latent_dim)`, on the model's device and in its precision.
    """
    terms, rows, _ = plan.given.shape
    shape = (model.draws * model.components * terms, rows, model.latent_dim)
    return torch.randn(shape, generator=generator, device=generator.device).to(model.device, model.dtype)


def mask(model: MultimodalVAE, names: Sequence[str]) -> Tensor:
    """Return which of the model's modalities are in `names`, bool `(modalities,)`."""
    return torch.tensor([name in names for name in model.names], dtype=torch.bool)


def sample_z(model: MultimodalVAE, observed: Observed, present: Tensor, given: Tensor, noise: Noise) -> Samples:
    """Sample z from the posteriors q(z|X) of several subsets X of each row's modalities.

    Args:
        model: in eval mode.
        observed: the result of `model.observed`.
        present: bool `(rows, modalities)`, on the CPU; modalities outside of it are not encoded.
        given: the subsets, bool `(terms, rows, modalities)`, on the CPU.
        noise: of these terms and rows.
    """
    posterior = model.posterior(observed, present, given)
    noise = noise.to(model.device, model.dtype)
    return Samples(posterior, posterior.sample(noise.normal, noise.choice))


def sample_posterior(
    model: MultimodalVAE, batch: Batch, given: Sequence[str], samples: int, seed: int, *, same_noise: bool = False
) -> Tensor:
    """Sample z from q(z|x_given), and return what decoders see of it, `(samples, rows, …)`.

    Args:
        model: in eval mode.
        batch: the rows, on the model's device.
        given: names of modalities; each row uses those of them that it has.
        samples: number of samples of each row.
        seed: seed of the samples.
        same_noise: use the same noise for all rows, so that a row's samples do not depend on its place in the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = sample_noise(samples, 1, 1 if same_noise else len(batch), model.latent_dim, generator)
    observed, known = model.observed(batch), batch.present & mask(model, given)
    z = sample_z(model, observed, known, known[None], noise.shared_by(len(batch))).z
    return model.decoder_inputs(z.squeeze(1), observed, batch.present)
