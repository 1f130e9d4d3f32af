"""An objective: plans of ELBO terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import Field

from modalkit.plugin._schema import Schema, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class ObjectiveOptions(Settings):
    """What every objective can be told; an objective's own options add to it."""

    name: str = Field("mvae", description="Name of the objective (`modalkit list objectives`).")
    beta: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight of the KL term after the warm-up.")
    warmup_epochs: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="Epochs over which beta rises linearly from 0, step by step.",
    )


@dataclass(frozen=True)
class Plan:
    """Which ELBO terms a step evaluates: T terms over a batch of B rows and M modalities.

    Attributes:
        terms: T names, such as ``"all"``, ``"only:image"``, ``"random:0"``.
        given: which modalities each term's posterior is conditioned on, bool `(T, B, M)`.
        targets: which modalities each term must explain, bool `(T, B, M)`.
        weight: of each term's likelihoods, `(T, B)`; 1 by default.
        kl_weight: of each term's KL(q || p), beside beta, `(T, B)`; the same as `weight` by default.
        references: weights of KL(q || q(z|x_m)), the term's posterior against each modality's own, beside beta,
            `(T, B, M)`; none by default.
        trains_decoder: which targets a modality's decoder learns from, bool `(T, B, M)`; all by default. The experts
            learn from the others too.
        private: which modalities' private latents each term infers from the modality itself, beside those of what is
            given, bool `(T, B, M)`; none by default. All others are sampled from their prior.

    A row takes part in a term if it has a given or a target there; elsewhere it contributes nothing.
    """

    terms: tuple[str, ...]
    given: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor | None = None
    kl_weight: torch.Tensor | None = None
    references: torch.Tensor | None = None
    trains_decoder: torch.Tensor | None = None
    private: torch.Tensor | None = None

    def check(self, present: Tensor) -> None:
        """Raise `ValueError` if a mask or weight is not what these terms need over a batch with `present`."""
        terms = (len(self.terms), len(present))
        shapes = {"given": (*terms, present.shape[1]), "targets": (*terms, present.shape[1]), "weight": terms}
        shapes |= {"kl_weight": terms, "references": (*terms, present.shape[1])}
        shapes |= {name: (*terms, present.shape[1]) for name in ("trains_decoder", "private")}
        if not self.terms:
            raise ValueError("there are no terms")
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {shape}")
            if value is not None and value.device.type != "cpu":
                raise ValueError(f"{name} is on {value.device}; a plan is made on the CPU")
        for name in ("given", "targets", "trains_decoder", "private"):
            value = getattr(self, name)
            if value is not None and value.dtype is not present.dtype:
                raise ValueError(f"{name} is {value.dtype}, not {present.dtype}")

    def rows(self, rows: slice) -> Plan:
        """Return the plan of some of the rows."""
        optional = (self.weight, self.kl_weight, self.references, self.trains_decoder, self.private)
        parts = (None if one is None else one[:, rows] for one in optional)
        return Plan(self.terms, self.given[:, rows], self.targets[:, rows], *parts)


@dataclass(frozen=True)
class Draws:
    """When a plan is made, and what its random choices come from.

    Attributes:
        generator: of the CPU; a function of the seed and the step alone.
        epoch: whole epochs done; None for validation, whose plan must be the same in every epoch.
    """

    generator: torch.Generator
    epoch: int | None = None


OptionsT = TypeVar("OptionsT", bound=ObjectiveOptions)


@dataclass(frozen=True)
class Objective(Generic[OptionsT]):
    """An objective: a plan of ELBO terms for any pattern of presence, and the posteriors that it trains.

    Attributes:
        name: the name recipes use.
        summary: one line for `modalkit list objectives`.
        options: settings that a recipe's ``objective:`` section is validated by.
        plan: `(options, names, present, draws) ->` the step's `Plan`; `present` is bool `(B, M)` on the CPU,
            columns in the order of the M `names`; `draws` says in which epoch, and is where every random choice
            comes from.
        check: `(options, names)` raises `ValueError`, with a sentence, if these modalities cannot be trained so.
        model: `(options, schemas, latent_dim) ->` the `modalkit.model.MultimodalVAE` whose posteriors it trains; by
            default the product of experts with the prior expert.
        complete_rows: whether it is defined only where a row has every modality; a training row that lacks one is
            then refused.
        frozen: `(options, epoch) ->` the networks, as prefixes of parameters' names, that stay as they are in this
            epoch, a whole number counted from 0. None by default.
        correlated_experts: whether its `model` also works if `model.experts` is `low_rank` or `full`. It does if all
            posteriors come from `MultimodalVAE.products`. An objective without a `model` always works.
        covariates: whether its `model` also works if the recipe has covariates. It does if all posteriors come from
            `MultimodalVAE.products`, or from heads that are called by `ModalityNetworks.head_output` with
            `Observed.condition_of`. The plan, `check` and `model` never see covariates. An objective without a `model`
            always works.
        private: whether its `model` is a `modalkit.model.private.PrivateVAE`, so that modalities may have a
            `private_dim`. At least one then must.
    """

    name: str
    summary: str
    options: type[OptionsT]
    plan: Callable[[OptionsT, tuple[str, ...], Tensor, Draws], Plan]
    check: Callable[[OptionsT, tuple[str, ...]], None] = lambda options, names: None
    model: Callable[[OptionsT, Mapping[str, Schema], int], nn.Module] | None = None
    complete_rows: bool = False
    frozen: Callable[[OptionsT, int], tuple[str, ...]] = lambda options, epoch: ()
    correlated_experts: bool = False
    covariates: bool = False
    private: bool = False
