"""The multimodal VAE: experts, posteriors, likelihoods, and the engine that evaluates plans of ELBO terms."""

from modalkit.model.vae import MultimodalVAE, assemble

__all__ = ["MultimodalVAE", "assemble"]
