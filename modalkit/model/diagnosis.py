"""Where a number that is not finite came from."""

from __future__ import annotations

from modalkit.model.engine import Elbo
from modalkit.model.vae import MultimodalVAE


def unsound(model: MultimodalVAE) -> str | None:
    """Return the name of the first parameter that is NaN or infinite, if one is."""
    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)


def where_not_finite(model: MultimodalVAE, elbo: Elbo) -> str:
    """Say in words which part of an ELBO that is not finite was the first to go wrong."""
    if (name := unsound(model)) is not None:
        return f"the weights {name}, since an earlier step"
    for modality, log_px in elbo.log_px.items():
        if not log_px.isfinite().all():
            return f"modality '{modality}': log p({modality}|z)"
    return "the KL term: an expert's precision or mean overflowed"
