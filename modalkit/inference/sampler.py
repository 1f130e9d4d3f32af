"""A sampler of z that is fitted after training: a flow from noise to z, given any subset of the modalities."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modalkit.distributions import CorrelatedGaussian, Posterior
from modalkit.errors import InputError
from modalkit.inference.results import Embedding
from modalkit.nn.flow import VelocityField
from modalkit.runs import sealed
from modalkit.util.files import write_atomic

_log = logging.getLogger(__name__)

_STEPS = 30
_ABOUT = "sampler"


@dataclass(frozen=True)
class SamplerSettings:
    """What a sampler's file states beside its numbers.

    Attributes:
        latent_dim: size of z.
        modalities: the model's modalities, in order.
        width: width of the network.
        blocks: number of its residual blocks.
        weights: SHA-256 of the file of weights that it was fitted to.
    """

    latent_dim: int
    modalities: tuple[str, ...]
    width: int
    blocks: int
    weights: str


class LatentSampler(nn.Module):
    r"""Samples of z given any subset S of the modalities, distributed as the posteriors of data rows that agree with S.

    A sample is the end of the path :math:`du/dt = f(u, t, c_S)` that starts at noise of
    standard deviation 1 (see `shaped`). The condition
    :math:`c_S` holds the mean and the standard deviation of q(z|x_S), and which modalities S holds. Given nothing, it
    samples from the aggregate posterior, the mean of q(z|x) over rows x. z is standardised by the moments of that.

    Args:
        settings: sizes and names.

    Attributes:
        loc: mean of the aggregate posterior, `(latent_dim,)`.
        scale: its standard deviation, `(latent_dim,)`.
        field: the velocity field f.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, settings: SamplerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("loc", torch.zeros(settings.latent_dim))
        self.register_buffer("scale", torch.ones(settings.latent_dim))
        self.field = VelocityField(settings.latent_dim, len(settings.modalities), settings.width, settings.blocks)

    def standardised(self, z: Tensor) -> Tensor:
        """Return points of the latent space, `(..., latent_dim)`, in the units of the field."""
        return (z - self.loc) / self.scale

    def condition(self, posterior: Embedding, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the field sees of each row's posterior: mean, standard deviation, and what is given.

        Args:
            posterior: moments of q(z|x_S), `(rows, latent_dim)`.
            given: the subset S, bool `(rows, modalities)`.

        Returns:
            `(rows, latent_dim)` twice, in the field's units, 0 and 1 if nothing is given; and `(rows, modalities)`.
        """
        device, dtype = self.loc.device, self.loc.dtype
        given = given.to(device)
        nothing = ~given.any(1, keepdim=True)
        loc = self.standardised(posterior.loc.to(device, dtype)).masked_fill(nothing, 0)
        scale = (posterior.scale.to(device, dtype) / self.scale).masked_fill(nothing, 1)
        return loc, scale, given.to(dtype)

    @torch.no_grad()
    def sample(self, posterior: Embedding, given: Tensor, noise: Tensor) -> Tensor:
        """Sample z for each row, by the midpoint method.

        Args:
            posterior: moments of q(z|x_S), `(rows, latent_dim)`.
            given: the subset S, bool `(rows, modalities)`.
            noise: what `shaped` returned of these posteriors, `(samples, rows, latent_dim)`.

        Returns:
            `(samples, rows, latent_dim)`, on the sampler's device.
        """
        u = noise.to(self.loc).flatten(0, 1)  # (samples, rows, latent_dim) -> (samples * rows, latent_dim)
        condition = [one.repeat(len(noise), 1) for one in self.condition(posterior, given)]
        for step in range(_STEPS):
            t = u.new_full((len(u), 1), step / _STEPS)
            middle = u + self.field(u, t, *condition) / (2 * _STEPS)
            u = u + self.field(middle, t + 1 / (2 * _STEPS), *condition) / _STEPS
        return torch.unflatten(self.loc + self.scale * u, 0, noise.shape[:2])  # -> (samples, rows, latent_dim)


def shaped(posterior: Posterior, normal: Tensor) -> Tensor:
    """Return noise with the correlations of a posterior, and mean 0 and standard deviation 1 in each dimension.

    A flow that starts at such noise needs to learn only what differs from the posterior.

    Args:
        posterior: `(terms, rows, latent_dim)`. Only a `CorrelatedGaussian` shapes the noise.
        normal: standard normal, `(..., terms, rows, latent_dim)`.
    """
    if not isinstance(posterior, CorrelatedGaussian):
        return normal
    return (posterior.rsample(normal) - posterior.loc) / posterior.scale


def save_sampler(path: Path, sampler: LatentSampler, weights: str) -> None:
    """Write a sampler, whole or not at all.

    Args:
        path: the file.
        sampler: what to write.
        weights: SHA-256 of the file of weights that it belongs to.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    about = json.dumps(asdict(sampler.settings) | {"weights": weights}, ensure_ascii=False)
    tensors = {name: value.contiguous().cpu() for name, value in sampler.state_dict().items()}

    def write(temporary: Path) -> None:
        save_file(tensors, str(temporary), {_ABOUT: about, sealed.KEY: sealed.EMPTY})
        sealed.seal(temporary)

    write_atomic(path, write)


def load_sampler(path: Path, weights: str) -> LatentSampler | None:
    """Read the sampler that `save_sampler` wrote.

    Args:
        path: the file, which need not exist.
        weights: SHA-256 of the weights that are in use.

    Returns:
        The sampler; None if there is none, or if it was fitted to other weights, which is logged.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        sealed.check(path)
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
        settings = SamplerSettings(**about | {"modalities": tuple(about["modalities"])})
        sampler = LatentSampler(settings)
        sampler.load_state_dict(load_file(str(path)))
    except (InputError, SafetensorError, RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: this sampler cannot be read ({' '.join(str(error).split())[:200]}); delete the file, or replace "
            f"it with: modalkit fit-sampler {path.parent}"
        ) from None
    if settings.weights != weights:
        _log.warning(
            f"{path}: this sampler was fitted to other weights and is not used; to fit one to the run's best weights: "
            f"modalkit fit-sampler {path.parent}"
        )
        return None
    return sampler.eval()
