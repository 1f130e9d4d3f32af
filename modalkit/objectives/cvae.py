"""CVAE: one modality, with another as the condition of its encoder and its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modalkit.distributions import Gaussian
from modalkit.model.observed import Observed
from modalkit.model.rows import gaussian, of_rows, spread
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import CategoryEncoder
from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan, Schema

_condition: ContextVar[Tensor] = ContextVar("condition")
"""The condition's columns for the `ConditionedEncoder` that runs, one value per thread."""


class CvaeOptions(ObjectiveOptions):
    """Options of the `cvae` objective."""

    target: str | None = Field(
        None, description="The modality to model; the recipe's other one is the condition. null: the recipe's first."
    )


class _WithColumns(nn.Module):
    """A linear layer of its input joined with the condition's columns."""

    def __init__(self, linear: nn.Linear, width: int) -> None:
        super().__init__()
        self.linear, self.of_condition = linear, nn.Linear(width, linear.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.of_condition(_condition.get())  # type: ignore[no-any-return]


class ConditionedEncoder(nn.Module):
    """An encoder whose first linear layer also sees the columns of a condition.

    Several threads may call it at once: each call passes its condition to the layer in a context of its own.

    Args:
        encoder: `(rows, *event_shape) -> (rows, features)`.
        width: number of the condition's columns.

    Raises:
        ValueError: the encoder has no linear layer.
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        place = next((name for name, part in encoder.named_modules() if isinstance(part, nn.Linear)), None)
        if place is None:
            raise ValueError("has no dense layer that could see the condition; cvae does not support this kind")
        parent, _, last = place.rpartition(".")
        self.first = _WithColumns(encoder.get_submodule(place), width)  # type: ignore[arg-type]
        if place:
            setattr(encoder.get_submodule(parent), last, self.first)
        for part in encoder.modules():
            if isinstance(part, CategoryEncoder):
                part.apart = True  # rows of a category differ in their condition
        self.encoder = encoder if place else self.first  # an encoder that is one linear layer has no place for it

    def forward(self, value: Tensor, columns: Tensor) -> Tensor:
        """Return features of values `(rows, *event_shape)` with the condition's columns `(rows, width)`."""
        token = _condition.set(columns)
        try:
            features: Tensor = self.encoder(value)
        finally:
            _condition.reset(token)
        return features


class Conditional(MultimodalVAE):
    """q(z|x, y) and p(x|z, y) of a target x and a condition y, with prior N(0, I).

    Args:
        schemas: the two modalities by name.
        latent_dim: size of z.
        target: the name of x.
    """

    def __init__(self, schemas: Mapping[str, Schema], latent_dim: int, target: str) -> None:
        self.target, self.condition = target, next(name for name in schemas if name != target)
        schema = schemas[self.condition]
        value = schema.unpack(schema.zeros(1))
        self.width = schema.columns(value).shape[1]
        super().__init__(schemas, latent_dim)

    def add_networks(self, name: str, schema: Schema) -> None:
        """Build the target's networks; the condition has none."""
        if name != self.target:
            return
        encoder, features = self.make_encoder(name, schema)
        with self.blame(name, "encoder"):
            self.encoders[name] = ConditionedEncoder(encoder, self.width)
        self.decoders[name] = self.make_decoder(name, self.latent_dim + self.width)
        self.heads[name] = nn.Linear(features, 2 * self.latent_dim)

    def posterior(self, observed: Observed, present: Tensor, given: Tensor) -> Gaussian:
        """Return q(z|x, y) where both are given, else the prior; see `MultimodalVAE.posterior`."""
        prior = torch.zeros(*given.shape[:2], self.latent_dim, device=self.device, dtype=self.dtype)
        rows = present.all(1).nonzero().squeeze(1)
        encoder = self.encoders[self.target]

        def encode() -> tuple[Tensor, Tensor]:
            x, y = (of_rows(observed[n], present[:, self.names.index(n)], rows) for n in (self.target, self.condition))
            own = gaussian(self.heads[self.target](encoder(x, self._columns(y))))
            return own.loc, own.precision

        found = self.run_on_rows(self.target, "encoder", encoder, rows, len(present), encode)
        if found is None:
            return Gaussian(prior, prior + 1)
        chosen = given.all(-1, keepdim=True).to(self.device)
        loc, precision = found
        return Gaussian(torch.where(chosen, loc, prior), torch.where(chosen, precision, prior + 1))

    def allows(self, given: Tensor) -> Tensor:
        """Allow the subsets that have the condition."""
        return given[..., self.names.index(self.condition)]

    def decoder_inputs(self, z: Tensor, observed: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Join samples of z, `(..., batch, latent_dim)`, with the condition's columns, zeros where it is absent."""
        rows = present[:, self.names.index(self.condition)].nonzero().squeeze(1)
        columns = spread(self._columns(observed[self.condition]), rows, len(present))  # (batch, width)
        return torch.cat([z, columns.expand(*z.shape[:-1], -1)], -1)

    def _columns(self, value: Tensor) -> Tensor:
        return self.schemas[self.condition].columns(value).to(self.dtype)


def target_of(options: CvaeOptions, names: Any) -> str:
    """Return the modality that is modelled."""
    return options.target or str(next(iter(names)))


def plan_cvae(options: CvaeOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the one term :math:`E_{q(z|x,y)} \lambda \log p(x|z,y) - \beta KL(q(z|x,y) \| p(z))`.

    Rows that lack one of the two tell nothing about p(x|y) and take no part.

    Source:
        Sohn et al. 2015, equation 4, with the prior p(z|y) = N(0, I) of Kingma et al. 2014.
    """
    given = present & present.all(-1, keepdim=True)
    targets = given & torch.tensor([name == target_of(options, names) for name in names])
    return Plan(("all",), given[None], targets[None])


def check_cvae(options: CvaeOptions, names: tuple[str, ...]) -> None:
    """Refuse any number of modalities but two, and a target that is not one of them."""
    if len(names) != 2:
        raise ValueError(
            f"cvae takes two modalities, a target and its condition, and this recipe has {len(names)} "
            f"({', '.join(names)}); remove the others, or choose mvae"
        )
    if target_of(options, names) not in names:
        raise ValueError(f"the target '{options.target}' is none of the modalities; they are {', '.join(names)}")


CVAE = Objective(
    name="cvae",
    summary="one modality conditioned on another, in that direction only (Sohn et al. 2015)",
    options=CvaeOptions,
    plan=plan_cvae,
    check=check_cvae,
    model=lambda options, schemas, latent_dim: Conditional(schemas, latent_dim, target_of(options, schemas)),
)
