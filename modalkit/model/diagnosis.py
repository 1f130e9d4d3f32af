"""The origin of a number that is not finite."""

from __future__ import annotations

from modalkit.model.engine import Elbo
from modalkit.model.vae import MultimodalVAE


def unsound(model: MultimodalVAE) -> str | None:
    """Return the name of the first parameter that holds NaN or infinity; None if all are finite."""
    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)


def where_not_finite(model: MultimodalVAE, elbo: Elbo) -> str:
    """Describe the first part that is not finite, of an ELBO that is not."""
    if (name := unsound(model)) is not None:
        return f"the weights {name}, since an earlier step"
    for modality, log_px in elbo.log_px.items():
        if not log_px.isfinite().all():
            return f"modality '{modality}': log p({modality}|z)"
    return "the KL term: an expert's precision or mean overflowed"
