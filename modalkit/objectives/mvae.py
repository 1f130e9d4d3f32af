"""MVAE, the paper's objective: terms of the complete set, of single modalities and of random subsets."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from modalkit.plugin import Draws, Objective, ObjectiveOptions, Plan

_MOST_FOR_ALL = 12


class MvaeOptions(ObjectiveOptions):
    """Options of the `mvae` objective."""

    singles: int | None = Field(
        None,
        ge=0,
        description="Single modalities a step, sampled anew and weighted for those left out; null: all; 0: none.",
    )
    k: int = Field(
        1, ge=0, description="Number of random subsets a step, in addition to the complete and the single terms."
    )
    subsets: Literal["sampled", "all"] = Field(
        "sampled", description="sampled: complete, singles and k random; all: every one of the 2^M - 1 subsets."
    )
    targets: Literal["subset", "present"] = Field(
        "present",
        description="What a term must explain: all modalities that the row has, or only those that are given "
        "(`subset`, eq. 4 of the paper).",
    )
    decoder_gradients: Literal["all", "given"] = Field(
        "all",
        description="The terms that a modality's decoder learns from: all, or only those that are given the modality. "
        "Experts learn from all terms.",
    )


def plan_mvae(options: MvaeOptions, names: tuple[str, ...], present: Tensor, draws: Draws) -> Plan:
    r"""Return the sub-sampled training plan of the MVAE.

    Each term is :math:`E_{q(z|X)} \sum_{m \in T} \lambda_m \log p(x_m|z) - \beta KL(q(z|X) \| p(z))`. T is all that the
    row has, or X with ``targets: subset``, the paper's equation. There is the complete term, one term for each modality
    alone, and `k` terms for random subsets of sizes 2 to M - 1. The size is uniform, then the subset; if k is above 1,
    a subset may occur twice. A row with a single modality present takes part in the complete term alone, which then is
    that modality's own. Two modalities have no random subset.

    If `singles` n is below the number M of modalities, n single terms stand for all M. They are sampled uniformly and
    without replacement, and each is weighted M/n, so that the expectation of a row's sum is the sum of all its terms.
    With ``singles: 0`` there is no single term.

    With `decoder_gradients: given`, a decoder learns only from the terms that are given its modality.

    Args:
        options: see `MvaeOptions`.
        names: the modalities.
        present: bool `(batch, modalities)`.
        draws: its generator samples the random subsets, then the single terms.

    Source:
        Wu & Goodman 2018, equation 4 and section 2.4.
    """
    weight = None
    if options.subsets == "all":
        terms, given = _all_subsets(names, present)
    else:
        several = present.sum(1, keepdim=True) > 1  # (batch, 1)
        random = [_random_subset(present, draws.generator) for _ in range(options.k if len(names) > 2 else 0)]
        count = len(names) if len(names) > 1 else 0  # of the single terms; a lone modality has the complete term
        some = count if options.singles is None else min(options.singles, count)
        order = torch.arange(count) if some == count else torch.randperm(count, generator=draws.generator)
        chosen = order[:some].sort().values
        alone = torch.eye(len(names), dtype=torch.bool)[chosen, None] & present & several  # (some, batch, modalities)
        given = torch.stack([present, *alone, *random])
        singles = [f"only:{names[i]}" if some == count else f"single:{at}" for at, i in enumerate(chosen.tolist())]
        terms = ("all", *singles, *(f"random:{i}" for i in range(len(random))))
        if 0 < some < count:
            weight = torch.ones(given.shape[:2])  # (terms, batch)
            weight[1 : 1 + some] = count / some
    targets = given if options.targets == "subset" else present & given.any(-1, keepdim=True)
    # Where only what is given is explained, the two choices are the same.
    apart = options.decoder_gradients == "given" and options.targets == "present"
    return Plan(terms, given, targets, weight, trains_decoder=given if apart else None)


def _random_subset(present: Tensor, generator: torch.Generator) -> Tensor:
    """Sample one subset for the step: bool `(batch, modalities)`, empty for a row with fewer than 3 modalities.

    The whole batch shares one order of the modalities and one fraction that sets the size. A row takes the first of its
    present modalities in that order. So complete rows share one subset a step, as in the paper. If modalities are
    missing, each row's subset is still uniform among its own, first by size and then by content.
    """
    order = torch.randperm(present.shape[1], generator=generator)
    count = present.sum(1)
    size = 2 + (torch.rand((), generator=generator, dtype=torch.float64) * (count - 2)).long()  # 2 to count - 1
    rank = torch.empty_like(present, dtype=torch.long)
    rank[:, order] = present[:, order].long().cumsum(1)  # 1 for a row's first present modality
    return present & (rank <= size[:, None]) & (count > 2)[:, None]


def _all_subsets(names: tuple[str, ...], present: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Return every non-empty subset; a row takes part in a subset if it has all of its modalities."""
    codes = torch.arange(2 ** len(names) - 1, 0, -1)  # the complete one first
    members = (codes[:, None] >> torch.arange(len(names))) & 1 == 1  # (2^M - 1, modalities)
    whole = (present | ~members[:, None]).all(-1, keepdim=True)  # (2^M - 1, batch, 1)
    terms = ["+".join(n for n, m in zip(names, row, strict=True) if m) for row in members.tolist()]
    return ("all", *terms[1:]), members[:, None] & whole


def check_mvae(options: MvaeOptions, names: tuple[str, ...]) -> None:
    """Refuse `subsets: all` for too many modalities, and more single terms than modalities."""
    if options.singles is not None and options.singles > len(names):
        raise ValueError(f"singles: {options.singles} is more than the {len(names)} modalities that there are")
    if options.singles is not None and options.subsets == "all":
        raise ValueError("singles: is for subsets: sampled; subsets: all has every single modality")
    if options.subsets == "all" and len(names) > _MOST_FOR_ALL:
        raise ValueError(
            f"subsets: all means 2^{len(names)} terms a step; use subsets: sampled above {_MOST_FOR_ALL} modalities"
        )


MVAE = Objective(
    name="mvae",
    summary="product of experts, trained on the complete, single and k random subsets (Wu & Goodman 2018)",
    options=MvaeOptions,
    plan=plan_mvae,
    check=check_mvae,
)
