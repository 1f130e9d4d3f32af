"""Diagonal Gaussian experts, their product with the prior expert, and the KL divergence to the prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    r"""A diagonal Gaussian in the form in which products are taken, :math:`N(loc, 1 / precision)`.

    Attributes:
        loc: mean, `(*batch_shape, latent_dim)`.
        precision: inverse variance, above 0, same shape.
    """

    loc: Tensor
    precision: Tensor

    @property
    def scale(self) -> Tensor:
        """Standard deviation, `(*batch_shape, latent_dim)`."""
        return self.precision.rsqrt()

    def rsample(self, noise: Tensor) -> Tensor:
        r"""Return the reparameterised draw :math:`loc + scale \cdot noise`.

        Args:
            noise: standard normal, broadcastable to `(*batch_shape, latent_dim)`.
        """
        return self.loc + self.scale * noise

    def kl_to_prior(self) -> Tensor:
        r"""Return :math:`KL(N(loc, 1/T) \| N(0, I)) = \frac12 \sum (loc^2 + 1/T - 1 + \log T)`, `(*batch_shape,)`.

        Example:
            >>> Gaussian(torch.zeros(3), torch.ones(3)).kl_to_prior().item()
            0.0
        """
        return 0.5 * (self.loc.square() + self.precision.reciprocal() - 1 + self.precision.log()).sum(-1)


def product_of_experts(experts: Gaussian, given: Tensor) -> Gaussian:
    r"""Return the posteriors :math:`q(z|X) \propto p(z) \prod_{m \in X} q(z|x_m)` for many subsets at once.

    A product of Gaussians has precision :math:`T = 1 + \sum_m T_m` and mean :math:`\sum_m T_m \mu_m / T`; the 1
    is the prior expert :math:`N(0, I)`. With nothing given it is the prior.

    Args:
        experts: one expert a row and modality, `(batch, modalities, latent_dim)`; a precision of 0 says absent.
        given: which experts enter each product, 0 or 1, `(terms, batch, modalities)`.

    Returns:
        The posteriors, `(terms, batch, latent_dim)`.

    Source:
        Wu & Goodman 2018, equation 3 and section 2.3.

    Example:
        >>> experts = Gaussian(torch.full((1, 2, 1), 3.0), torch.ones(1, 2, 1))
        >>> posterior = product_of_experts(experts, torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]))
        >>> posterior.loc.flatten().tolist(), posterior.precision.flatten().tolist()
        ([2.0, 0.0], [3.0, 1.0])
    """
    given = given.to(experts.precision)
    precision = 1 + torch.einsum("tbm,bml->tbl", given, experts.precision)
    weighted = torch.einsum("tbm,bml->tbl", given, experts.precision * experts.loc)
    return Gaussian(weighted / precision, precision)
