"""The multimodal VAE: experts, posteriors, likelihoods, and the engine that evaluates plans of ELBO terms."""

from modalkit.model.assembly import assemble
from modalkit.model.observed import Observed
from modalkit.model.rows import gaussian, of_rows
from modalkit.model.vae import MultimodalVAE

__all__ = ["MultimodalVAE", "Observed", "assemble", "gaussian", "of_rows"]
