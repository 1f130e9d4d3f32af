"""Experts whose precision is a matrix: each modality measures some directions of z."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modalkit.distributions import CorrelatedGaussian
from modalkit.model.networks import ModalityNetworks
from modalkit.nn.patterns import Patterns
from modalkit.nn.precise import bounded_log


class Measurement(nn.Module):
    r"""What a modality's expert measures of z: r directions, the columns of U, the same for all rows.

    An expert has the precision matrix :math:`P = U U^\top` and the mean :math:`\mu` with :math:`P \mu = U b`. Here b
    are the r numbers that the modality's head returns for a row. This is the likelihood of z after r linear
    measurements :math:`b = U^\top z + \epsilon` with :math:`\epsilon \sim N(0, I)`.

    Args:
        latent_dim: size of z.
        rank: number r of directions, at most `latent_dim`.
        base: whether a learned diagonal matrix is added to P, so that the expert is a density even if r is small.
            Training begins at the identity, the prior's precision.

    Attributes:
        directions: U, `(latent_dim, rank)`; orthonormal before training.
    """

    def __init__(self, latent_dim: int, rank: int, *, base: bool) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.init.orthogonal_(torch.empty(latent_dim, rank)))
        self.log_base = nn.Parameter(torch.zeros(latent_dim)) if base else None

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.directions.shape[1]

    def precision(self) -> Tensor:
        """Return the precision matrix, `(latent_dim, latent_dim)`."""
        matrix = self.directions @ self.directions.mT
        return matrix if self.log_base is None else matrix + bounded_log(self.log_base).exp().diag()

    def weighted(self, measured: Tensor, *, train: bool = True) -> Tensor:
        """Return precision times mean, `(rows, rank) -> (rows, latent_dim)`; unless `train`, U gets no gradient."""
        return measured @ (self.directions if train else self.directions.detach()).mT


def correlate_experts(networks: ModalityNetworks, rank: int | None, *, full: bool, base: bool) -> None:
    """Give every modality an expert with a precision matrix instead of a diagonal one.

    Args:
        networks: of which each modality has a head; the heads are replaced.
        rank: the largest number of directions. A modality has at most as many as its samples have numbers, one for each
            class.
        full: use as many directions as latent dimensions instead.
        base: see `Measurement`.

    Raises:
        InputError: a plugin raised.
    """
    for name, head in list(networks.heads.items()):
        assert isinstance(head, nn.Linear)
        limit = networks.latent_dim if full else min(numbers(networks, name), rank or networks.latent_dim)
        measurement = Measurement(networks.latent_dim, min(limit, networks.latent_dim), base=base)
        networks.measurements[name] = measurement
        networks.heads[name] = nn.Linear(head.in_features, measurement.rank)


def numbers(networks: ModalityNetworks, name: str) -> int:
    """Return how many numbers a sample of a modality has: its columns, or its entries if its kind has no columns."""
    schema = networks.schemas[name]
    with networks.blame(name, "columns"):
        value = schema.unpack(schema.zeros(1))
        try:
            return max(1, schema.columns(value).shape[1])
        except TypeError:  # integers of a kind that does not say what they mean
            return max(1, value.numel())


def product_of_measurements(
    measurements: Sequence[Measurement], measured: Sequence[Tensor], given: Tensor, *, prior_expert: bool
) -> CorrelatedGaussian:
    r"""Return the posteriors :math:`q(z|X) \propto p(z) \prod_{m \in X} q(z|x_m)` for many subsets at once.

    The precision is :math:`I + \sum_m P_m`, and precision times mean is :math:`\sum_m U_m b_m`. The precision depends
    only on which modalities are given, so there is one matrix for each distinct subset. A measurement that is in no
    subset gets no gradient.

    Args:
        measurements: one for each modality.
        measured: by modality what the heads returned, `(batch, rank)`; zeros where it is absent.
        given: which modalities enter each product, bool `(terms, batch, modalities)`, on the CPU.
        prior_expert: see `modalkit.distributions.product_of_experts`.

    Returns:
        The posteriors, `(terms, batch, latent_dim)`.
    """
    pattern, subsets = Patterns.of(given)
    like = measurements[0].directions
    prior = torch.ones(len(subsets)) if prior_expert else 1 - subsets.any(1).float()
    precision = prior.to(like)[:, None, None] * torch.eye(len(like), dtype=like.dtype, device=like.device)
    used = subsets.any(0)
    # An encoder that ran enters even if no subset has it: its batch normalisation may wait for other processes in the
    # backward pass too.
    entering = [m for m, one in enumerate(measured) if used[m] or one.requires_grad]
    if not entering:
        return CorrelatedGaussian.from_natural(like.new_zeros(*given.shape[:2], len(like)), precision, pattern)
    if used.any():
        matrices = torch.stack([measurements[m].precision() for m in used.nonzero().squeeze(1).tolist()])
        chosen = subsets[:, used].to(like)  # (patterns, used)
        precision = precision + (chosen @ matrices.flatten(1)).reshape(-1, *matrices.shape[1:])
    each = [measurements[m].weighted(measured[m], train=bool(used[m])) for m in entering]  # (batch, latent_dim) each
    weighted = torch.einsum("tbm,bml->tbl", given[..., entering].to(like), torch.stack(each, 1))
    return CorrelatedGaussian.from_natural(weighted, precision, pattern)
