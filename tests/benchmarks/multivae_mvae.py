"""MultiVae's MVAE over the networks of a modalkit model, for the benchmark; `pip install -e ".[bench]"` brings it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from multivae.data.datasets.base import MultimodalBaseDataset
from multivae.models import MVAE, MVAEConfig
from multivae.models.base import BaseDecoder, BaseEncoder
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn

from modalkit.model.vae import MultimodalVAE


class _Expert(BaseEncoder):
    """An encoder and its head, giving loc and log-variance as MultiVae wants them."""

    def __init__(self, encoder: nn.Module, head: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.head, self.latent_dim = encoder, head, latent_dim

    def forward(self, value: Tensor) -> ModelOutput:
        loc, log_variance = self.head(self.encoder(value)).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class _Decoder(BaseDecoder):
    """A decoder that gives logits; one that writes strings is given the true ones, as in any training."""

    def __init__(self, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.decoder, self.latent_dim = decoder, latent_dim
        self.before: Tensor  # what comes before each character, for decoders of strings

    def forward(self, z: Tensor) -> ModelOutput:
        raw = self.decoder(z)
        return ModelOutput(reconstruction=raw if isinstance(raw, Tensor) else raw.step(z, self.before, None)[0])


class MultiVae(nn.Module):
    """MultiVae's MVAE with a copy's networks.

    Args:
        model: whose networks it takes.
        values: a complete batch, unpacked.
    """

    def __init__(self, model: MultimodalVAE, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        latent, schemas = model.latent_dim, model.schemas
        self.values, scores = {}, {}
        decoders = {name: _Decoder(model.decoders[name], latent) for name in model.names}
        for name, schema in schemas.items():
            self.values[name], scores[name] = values[name], _score_of(schema.kind)
            if schema.kind == "tokens":
                start = torch.full_like(values[name][:, :1], schema.start)  # type: ignore[attr-defined]
                decoders[name].before = torch.cat([start, values[name][:, :-2]], 1)
        config = MVAEConfig(
            n_modalities=len(schemas),
            latent_dim=latent,
            input_dims={n: s.event_shape or (1,) for n, s in schemas.items()},
            decoders_dist=dict.fromkeys(schemas, "bernoulli"),
            use_subsampling=len(schemas) > 1,
            warmup=0,
        )
        encoders = {name: _Expert(model.encoders[name], model.heads[name], latent) for name in model.names}
        self.model = MVAE(config, encoders=encoders, decoders=decoders)
        self.model.recon_log_probs = scores

    def loss(self, subset: list[str]) -> Tensor:
        """Return the loss of one step, with this subset beside the complete and the single terms; none if empty."""
        self.model.k, self.model.subsets = (1, [tuple(subset)]) if subset else (0, [])
        return self.model(MultimodalBaseDataset(data=self.values)).loss


def _score_of(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return log p of a kind as MultiVae's own functions compute it."""

    def bernoulli(raw: Tensor, value: Tensor) -> Tensor:
        return torch.distributions.Bernoulli(logits=raw, validate_args=False).log_prob(value)

    def categorical(raw: Tensor, value: Tensor) -> Tensor:
        value = value[:, : raw.shape[1]] if raw.ndim == 3 else value  # a string's last stop is certain
        return raw.log_softmax(-1).gather(-1, value.unsqueeze(-1))

    return categorical if kind in ("label", "tokens") else bernoulli
