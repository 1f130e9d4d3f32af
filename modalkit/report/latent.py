"""The latent space: the KL of each dimension, which modalities determine it, and a map of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from modalkit.errors import InputError
from modalkit.inference import Embedding
from modalkit.report import svg
from modalkit.report.colours import colours
from modalkit.report.page import Section, figure, grid, heat, note, side_by_side, table
from modalkit.report.sources import Source, only, take_rows

_ACTIVE = 0.01  # nats; a dimension with a smaller KL is unused
_MOST_DIMS, _MOST_EXPERTS, _MOST_MAPS = 64, 40, 9


@dataclass(frozen=True)
class Latent:
    """Posteriors of held-out rows, each given the modalities that `TrainedModel.usable` returns.

    Attributes:
        rows: which of the held-out rows have a posterior, int64 `(rows,)`.
        posterior: the posteriors of these rows.
        kl: KL(q(z|X) || p(z)) of each dimension, nats, mean over rows, `(latent_dim,)`.
    """

    rows: Tensor
    posterior: Embedding
    kl: Tensor

    @property
    def order(self) -> list[int]:
        """The dimensions, those with the largest KL first."""
        return self.kl.argsort(descending=True).tolist()


def divergence(posterior: Embedding) -> Tensor:
    r"""Return :math:`KL(N(\mu, \sigma^2) \| N(0, 1)) = (\mu^2 + \sigma^2 - 1 - \log \sigma^2) / 2`.

    Returns:
        `(rows, latent_dim)`.

    Example:
        >>> divergence(Embedding(torch.tensor([[0.0, 1.0]]), torch.ones(1, 2))).tolist()
        [[0.0, 0.5]]
    """
    variance = posterior.scale.square()
    return 0.5 * (posterior.loc.square() + variance - 1 - variance.log())


def embedded(source: Source) -> Latent | None:
    """Embed the held-out rows."""
    if source.model is None or source.held_out is None:
        return None
    batch = source.held_out.batch
    given = source.model.usable(batch.present)
    rows = (given.any(1) & source.model.model.allows(given)).nonzero().squeeze(1)
    if not len(rows):
        return None
    posterior = source.model.embed(take_rows(batch, rows, given[rows]), private=True)
    if not bool((posterior.loc.isfinite() & posterior.scale.isfinite()).all()):
        weights = source.folder.weights
        raise InputError(f"{weights}: the posteriors of these weights are NaN or infinite; train again")
    return Latent(rows, posterior, divergence(posterior).mean(0))


def dimensions(source: Source, latent: Latent | None) -> Section | None:
    """Show the KL of each latent dimension, and how precisely each modality alone determines it."""
    if latent is None:
        return None
    order, active = latent.order[:_MOST_DIMS], int((latent.kl > _ACTIVE).sum())
    names = [f"z{dim}" for dim in order]
    chart = svg.bars("KL per latent dimension, nats", latent.kl[order].tolist(), names)
    caption = f"Sorted. {active} of {len(latent.kl)} dimensions have a KL of more than {_ACTIVE:g} nats."
    experts = _experts(source)
    parts = [side_by_side([figure(chart, caption), *([_expert_table(experts)] if experts else [])])]
    if experts:
        parts.append(_matrix({name: one.precision for name, one in experts.items()}, order))
    if len(source.recipe.explained) > _MOST_EXPERTS:
        parts.append(note(f"The first {_MOST_EXPERTS} of {len(source.recipe.explained)} modalities are shown."))
    if len(latent.kl) > _MOST_DIMS:
        parts.append(note(f"The {_MOST_DIMS} of {len(latent.kl)} dimensions with the largest KL are shown."))
    lead = (
        "The KL of a dimension measures how much the posterior given all modalities differs from the prior. The matrix "
        "shows the precision (inverse variance) of the posterior given each modality alone; the prior's is 1."
    )
    if source.recipe.model.experts != "diagonal":
        lead += (
            " Dimensions are correlated in this run's posteriors. Both figures describe each dimension alone, so the "
            "KLs of the dimensions add up to less than the KL of the posterior."
        )
    return Section("Who tells what", lead, parts)


@dataclass(frozen=True)
class _Expert:
    """The posterior of z given one modality alone.

    Attributes:
        precision: its precision, mean over rows, `(latent_dim,)`.
        kl: KL(q(z|x_m) || p(z)) of each dimension, nats, mean over rows, `(latent_dim,)`.
    """

    precision: Tensor
    kl: Tensor


def _experts(source: Source) -> dict[str, _Expert]:
    """Return the posterior given each modality that has one alone."""
    assert source.model is not None and source.held_out is not None  # there is a Latent, so there are both
    asked, batch = source.model, source.held_out.batch
    experts = {}
    for column, name in enumerate(asked.modalities[:_MOST_EXPERTS]):
        rows = batch.present[:, column].nonzero().squeeze(1)
        if len(rows) and asked.allows([name]):
            found = asked.embed(take_rows(batch, rows, only(batch.present[rows], [column])), private=True)
            experts[name] = _Expert(found.scale.pow(-2).mean(0), divergence(found).mean(0))
    return experts


def _expert_table(experts: dict[str, _Expert]) -> Markup:
    most = max(float(one.kl.sum()) for one in experts.values()) or 1.0
    lines = [
        [
            name,
            heat(f"{float(one.kl.sum()):.2f}", float(one.kl.sum()) / most),
            int((one.kl > _ACTIVE).sum()),
            f"z{int(one.precision.argmax())} ({float(one.precision.max()):.3g})",
        ]
        for name, one in experts.items()
    ]
    head = ("modality", "KL, nats", "active dimensions", "sharpest (precision)")
    return table("Posteriors given each modality alone, compared with the prior", head, lines, kind="figures")


def _matrix(precision: dict[str, Tensor], order: list[int]) -> Markup:
    most = max(1e-6, max(float(one.clamp(min=1).log2().max()) for one in precision.values()))
    shades = [[max(0.0, math.log2(max(1e-9, float(one[d])))) / most for d in order] for one in precision.values()]
    said = [[f"{name}, z{d}: precision {float(one[d]):.3g}" for d in order] for name, one in precision.items()]
    drawn = svg.cells("Precision of each modality's posterior by latent dimension", shades, list(precision), said)
    caption = (
        f"Precision given each modality alone (rows) by latent dimension (columns, in the order of the bars), on a "
        f"logarithmic scale: white stands for at most 1, the prior's precision, the deepest shade for {2**most:,.3g}."
    )
    return figure(drawn, caption, whole=True)


def maps(source: Source, latent: Latent | None) -> Section | None:
    """Show the rows in the plane in which their posterior means vary most, coloured by modalities."""
    if latent is None or len(latent.rows) < 3 or source.held_out is None or source.model is None:
        return None
    loc = latent.posterior.loc.double()
    centred = loc - loc.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = [tuple(point) for point in (centred @ directions[:2].T).tolist()]
    if len(singular) < 2:
        plane = [(point[0], 0.0) for point in plane]
    share = (singular.square() / singular.square().sum().clamp(min=1e-12))[:2].tolist()
    found = colours(source.model, source.held_out, source.names, latent.rows, torch.tensor(plane))
    charts = [
        svg.dots(title, [plane[i] for i in one.rows], one.groups, one.names, shaded=one.shaded)
        for title, one in list(found.items())[:_MOST_MAPS]
    ] or [svg.dots("rows", plane, [0.0] * len(plane), [], shaded=False)]
    lead = (
        f"The means of q(z | all) of {len(loc)} held-out rows, projected onto their first two principal components "
        f"({' and '.join(f'{100 * one:.0f} %' for one in share)} of the variance), coloured by the "
        f"rows' values: classes and bits first, also those that the dataset has and the model does not know."
    )
    return Section("Latent map", lead, [grid(figure(chart) for chart in charts)])
