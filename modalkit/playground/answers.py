"""The page's answers as JSON: predictions, the posterior after each given modality, and its dimensions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modalkit.data import Batch
from modalkit.inference import Prediction, TrainedModel, as_batch
from modalkit.inference.answers import png
from modalkit.pictures import Cell, row_cells, show
from modalkit.plugin import Schema

SAMPLES = 8
_DIMENSIONS = 6
_CLASSES = 6


def json_cell(shown: Cell) -> dict[str, str] | None:
    """Return a shown value as JSON: a picture as a ``data:`` URL, or a text; None if it is absent."""
    if shown is None or isinstance(shown, str):
        return None if shown is None else {"text": shown or "(empty)"}
    return {"picture": "data:image/png;base64," + base64.b64encode(png(shown)).decode()}


def json_row(schemas: Mapping[str, Schema], batch: Batch, row: int) -> list[dict[str, str] | None]:
    """Return a row's value of each modality as JSON."""
    return [json_cell(one) for one in row_cells(schemas, batch, row, list(schemas))]


def answer(model: TrainedModel, given: Mapping[str, Any], want: Sequence[str], seed: int) -> dict[str, Any]:
    """Return everything that the page shows for one question.

    Args:
        model: the model.
        given: one value of each known modality, in the order in which the user added them.
        want: the modalities to predict.
        seed: seed of the samples.

    Raises:
        InputError: see `TrainedModel.infer`.
    """
    schemas = {**model.schemas, **model.covariates}
    batch = as_batch(schemas, given)
    found = model.infer(batch, want, SAMPLES, seed=seed) if want else None
    return {
        "predictions": [prediction(name, one) for name, one in found.items()] if found else [],
        "seen": json_row(schemas, batch, 0),
        **sharpening(model, batch, [name for name in given if name in model.schemas]),
    }


def prediction(name: str, found: Prediction) -> dict[str, Any]:
    """Return one modality's prediction: its value, how certain it is, samples, and the most probable classes."""
    said: dict[str, Any] = {
        "name": name,
        "value": json_cell(found.show()),
        "samples": [json_cell(found.show(0, sample)) for sample in range(len(found.samples))],
        "sure": _sure(found),
        "classes": [],
    }
    if found.probabilities is not None:
        ordered = found.probabilities[0].sort(descending=True)
        pairs = zip(ordered.indices.tolist(), ordered.values.tolist(), strict=True)
        said["classes"] = [[show(found.schema, torch.tensor(k)), p] for k, p in list(pairs)[:_CLASSES]]
    return said


def sharpening(model: TrainedModel, batch: Batch, order: Sequence[str]) -> dict[str, Any]:
    r"""Return how the posterior of one row sharpens as its modalities are added, and its dimensions at the end.

    The KL is :math:`KL(N(loc, scale^2) \| p(z)) = \frac12 \sum (scale^2 + loc^2 - 1 - \log scale^2)`. For a mixture,
    this is the KL of the Gaussian with the same moments.

    Args:
        model: the model.
        batch: one row, with the covariates behind the modalities.
        order: the modalities that it has, in the order in which the user added them.

    Returns:
        ``steps``: one for the prior and one for each added modality, with the modality, the mean scale and the KL to
        the prior in nats; both are None if the model has no posterior of these modalities. ``loc``: the mean at the
        last step. ``dimensions``: loc, scale and KL of the dimensions with the largest KL.
    """
    present = batch.present.repeat(len(order) + 1, 1)
    present[:, : len(model.modalities)] = False
    for step, name in enumerate(order):
        present[step + 1 :, model.modalities.index(name)] = True
    can = model.model.allows(present[:, : len(model.modalities)])
    rows = {n: v.expand(int(can.sum()), *v.shape[1:]) for n, v in batch.values.items()}
    found = model.embed(Batch(rows, present[can]), private=True) if bool(can.any()) else None
    steps: list[dict[str, Any]] = [{"added": name, "scale": None, "kl": None} for name in (None, *order)]
    if found is None:
        return {"steps": steps, "loc": [0.0] * model.latent_dim, "dimensions": []}
    kl = _kl(found.loc, found.scale)  # (steps, latent_dim)
    for at, scale, nats in zip(can.nonzero().flatten().tolist(), found.scale.mean(1), kl.sum(1), strict=True):
        steps[at] |= {"scale": float(scale), "kl": float(nats)}
    largest = kl[-1].sort(descending=True, stable=True).indices[:_DIMENSIONS].tolist()
    loc, scales = found.loc[-1].tolist(), found.scale[-1].tolist()
    dimensions = [{"dimension": d, "loc": loc[d], "scale": scales[d], "kl": float(kl[-1, d])} for d in largest]
    return {"steps": steps, "loc": loc, "dimensions": dimensions}


def _kl(loc: Tensor, scale: Tensor) -> Tensor:
    """Return each dimension's KL to the prior, `(rows, latent_dim)`, in nats."""
    return 0.5 * (scale.square() + loc.square() - 1) - scale.log()


def _sure(found: Prediction) -> str:
    """Return in words how certain a prediction is."""
    if found.probability is not None:
        one = found.probability[0]
        return f"probability {float(one):.3f}" if not one.ndim else f"least sure place {float(one.min()):.2f}"
    if found.spread is not None and not isinstance(found.show(), str):
        return f"spread {float(found.spread.mean()):.3f}"
    if found.scale is not None:
        scales = found.scale[0].flatten()
        return f"± {' '.join(f'{one:.2g}' for one in scales.tolist())}" if len(scales) <= 4 else ""
    return ""
