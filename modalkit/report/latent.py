"""What the latent space holds: how much each dimension carries, who tells it, and where rows lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from modalkit import registry
from modalkit.evaluation.pictures import show
from modalkit.inference import Embedding
from modalkit.inference.prediction import in_units
from modalkit.report import svg
from modalkit.report.page import Section, figure, grid, heat, note, side_by_side, table
from modalkit.report.sources import HeldOut, Source, only
from modalkit.report.sources import take_rows as some

_ACTIVE = 0.01  # nats; a dimension that carries less says nothing
_MOST_DIMS, _MOST_EXPERTS, _MOST_MAPS, _MOST_GROUPS = 64, 40, 9, svg.COLOURS


@dataclass(frozen=True)
class Latent:
    """Posteriors of held-out rows, given all that each has (or the first modality that has a posterior alone).

    Attributes:
        rows: which of the held-out rows have one, int64 `(rows,)`.
        posterior: theirs.
        carried: KL(q(z|X) || p(z)) of each dimension, nats, mean over rows, `(latent_dim,)`.
    """

    rows: Tensor
    posterior: Embedding
    carried: Tensor

    @property
    def order(self) -> list[int]:
        """The dimensions, those that carry most first."""
        return self.carried.argsort(descending=True).tolist()


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
    posterior = source.model.embed(some(batch, rows, given[rows]))
    return Latent(rows, posterior, divergence(posterior).mean(0))


def dimensions(source: Source, latent: Latent | None) -> Section | None:
    """Show what each latent dimension carries, and which modalities' experts tell it."""
    if latent is None:
        return None
    order, active = latent.order[:_MOST_DIMS], int((latent.carried > _ACTIVE).sum())
    names = [f"z{dim}" for dim in order]
    carried = svg.bars("KL per latent dimension, nats", latent.carried[order].tolist(), names)
    caption = f"Sorted. {active} of {len(latent.carried)} dimensions carry more than {_ACTIVE:g} nats."
    experts = _experts(source)
    parts = [side_by_side([figure(carried, caption), *([_told(experts)] if experts else [])])]
    if experts:
        parts.append(_matrix({name: one.precision for name, one in experts.items()}, order))
    if len(source.recipe.modalities) > _MOST_EXPERTS:
        parts.append(note(f"The first {_MOST_EXPERTS} of {len(source.recipe.modalities)} modalities are shown."))
    if len(latent.carried) > _MOST_DIMS:
        parts.append(note(f"The {_MOST_DIMS} dimensions that carry most, of {len(latent.carried)}, are shown."))
    lead = (
        "The KL of a dimension is what the posterior given all says of it beyond the prior. The matrix shows who says "
        "it: the precision (inverse variance) of the posterior given each modality alone, where the prior's is 1."
    )
    return Section("Who tells what", lead, parts)


@dataclass(frozen=True)
class _Expert:
    """What one modality alone says of z.

    Attributes:
        precision: of its posterior, mean over rows, `(latent_dim,)`.
        told: KL(q(z|x_m) || p(z)) of each dimension, nats, mean over rows, `(latent_dim,)`.
    """

    precision: Tensor
    told: Tensor


def _experts(source: Source) -> dict[str, _Expert]:
    """Return, for every modality that has a posterior alone, what it says."""
    assert source.model is not None and source.held_out is not None  # as whoever has a Latent knows
    asked, batch = source.model, source.held_out.batch
    experts = {}
    for column, name in enumerate(asked.modalities[:_MOST_EXPERTS]):
        rows = batch.present[:, column].nonzero().squeeze(1)
        if len(rows) and asked.allows([name]):
            found = asked.embed(some(batch, rows, only(batch.present[rows], [column])))
            experts[name] = _Expert(found.scale.pow(-2).mean(0), divergence(found).mean(0))
    return experts


def _told(experts: dict[str, _Expert]) -> Markup:
    most = max(float(one.told.sum()) for one in experts.values()) or 1.0
    lines = [
        [
            name,
            heat(f"{float(one.told.sum()):.2f}", float(one.told.sum()) / most),
            int((one.told > _ACTIVE).sum()),
            f"z{int(one.precision.argmax())} ({float(one.precision.max()):.3g})",
        ]
        for name, one in experts.items()
    ]
    head = ("modality", "KL, nats", "dimensions told of", "sharpest (precision)")
    return table("What the posterior given each modality alone says beyond the prior", head, lines, kind="figures")


def _matrix(precision: dict[str, Tensor], order: list[int]) -> Markup:
    most = max(1e-6, max(float(one.clamp(min=1).log2().max()) for one in precision.values()))
    shades = [[max(0.0, math.log2(max(1e-9, float(one[d])))) / most for d in order] for one in precision.values()]
    said = [[f"{name}, z{d}: precision {float(one[d]):.3g}" for d in order] for name, one in precision.items()]
    drawn = svg.cells("Precision of each modality's posterior by latent dimension", shades, list(precision), said)
    caption = (
        f"Precision given each modality alone (rows) by latent dimension (columns, in the order of the bars), on a "
        f"logarithmic scale: paper is the prior's 1 or less, the deepest shade {2**most:,.3g}."
    )
    return figure(drawn, caption, whole=True)


def maps(source: Source, latent: Latent | None) -> Section | None:
    """Show where rows lie, in the plane in which their posterior means differ most, coloured by modalities."""
    if latent is None or len(latent.rows) < 3 or source.held_out is None:
        return None
    loc = latent.posterior.loc.double()
    centred = loc - loc.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = [tuple(point) for point in (centred @ directions[:2].T).tolist()]
    if len(singular) < 2:
        plane = [(point[0], 0.0) for point in plane]
    share = (singular.square() / singular.square().sum().clamp(min=1e-12))[:2].tolist()
    colours = _colours(source, source.held_out, latent.rows)
    charts = [
        svg.dots(title, [plane[i] for i in one.rows], one.groups, one.names, shaded=one.shaded)
        for title, one in list(colours.items())[:_MOST_MAPS]
    ] or [svg.dots("rows", plane, [0.0] * len(plane), [], shaded=False)]
    lead = (
        f"The means of q(z | all) of {len(loc)} held-out rows, projected onto their first two principal components "
        f"({' and '.join(f'{100 * one:.0f} %' for one in share)} of the variance), coloured by what the rows hold."
    )
    return Section("Latent map", lead, [grid(figure(chart) for chart in charts)])


@dataclass(frozen=True)
class _Colours:
    """A way to colour dots.

    Attributes:
        groups: of each dot the index of its name, or if shaded a number from 0 to 1.
        names: of the groups, or of the two ends.
        rows: which rows the dots are.
        shaded: which of the two.
    """

    groups: list[float]
    names: list[str]
    rows: list[int]
    shaded: bool = False


def _colours(source: Source, held_out: HeldOut, rows: Tensor) -> dict[str, _Colours]:
    """Return ways to colour rows: by the classes and bits that they hold first, then by numbers and brightness."""
    asked = source.model
    assert asked is not None  # as whoever has a Latent knows
    by_group: dict[str, _Colours] = {}
    by_shade: dict[str, _Colours] = {}
    for name in source.names:
        column, schema = asked.modalities.index(name), asked.schemas[name]
        kept = held_out.batch.present[rows, column].nonzero().squeeze(1)
        if len(kept) < 3:
            continue
        value = schema.unpack(held_out.batch.values[name][rows[kept]])
        shown = [show(schema, one) for one in value]
        texts = [one for one in shown if isinstance(one, str)]
        known = sorted(set(texts))
        if len(texts) == len(shown) and 2 <= len(known) <= _MOST_GROUPS:
            by_group[name] = _Colours([float(known.index(text)) for text in texts], known, kept.tolist())
            continue
        flat, correct = in_units(schema, value).double().flatten(1), registry.modality(schema.kind).correct
        if correct is not None and value.is_floating_point() and bool(((flat == 0) | (flat == 1)).all()):
            # Where none of several bits is predicted, what is right says which are not set, and what they are called.
            for part, off in correct(schema, torch.zeros_like(value), value).items():
                by_group[f"{name}: {part}"] = _Colours((~off).double().tolist(), ["no", "yes"], kept.tolist())
            continue
        parts = {f"{name}, mean": flat.mean(1)}
        if texts and flat.shape[1] <= 3:
            parts = {f"{name} [{i}]" if flat.shape[1] > 1 else name: flat[:, i] for i in range(flat.shape[1])}
        for title, one in parts.items():
            low, high = one.quantile(0.02), one.quantile(0.98)
            if high > low:
                shades = ((one - low) / (high - low)).clamp(0, 1)
                ends = [svg.number(float(end), 3) for end in (low, high)]
                by_shade[title] = _Colours(shades.tolist(), ends, kept.tolist(), shaded=True)
    return by_group | by_shade
