"""How well each modality is explained by the posterior that was given it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modalkit.data import Dataset
from modalkit.evaluation.likelihood import fetch
from modalkit.evaluation.metrics._means import mean_and_error
from modalkit.evaluation.metrics._predictions import ROWS, Figures
from modalkit.evaluation.questions import Asking, Question, allows
from modalkit.model.sampling import sample_posterior
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.plugin import Display, Metric
from modalkit.util.progress import bar
from modalkit.util.randomness import derived_seed

if TYPE_CHECKING:
    from modalkit.runs.opened import Run


@torch.no_grad()
def reconstruction(model: MultimodalVAE, dataset: Dataset, rows: Tensor, seed: int) -> Figures:
    """Return how well a sample of the posterior explains each modality that it was given, in nats.

    This is the mean over rows of log p(x_m|z), and its standard error. Each row has one z, sampled from the posterior
    given all that the row has, or given x_m alone where the model has no posterior given all modalities.

    Args:
        model: in eval mode meanwhile.
        dataset: where the rows are.
        rows: int64 `(rows,)`.
        seed: of the samples.
    """
    joint = allows(model, model.names)
    found: dict[str, list[Tensor]] = {name: [] for name in model.decoders}
    with evaluating(model), bar(len(rows), "reconstruction", unit="row", leave=False) as progress:
        for start in range(0, len(rows), ROWS):
            batch = fetch(dataset, model.schemas, rows[start : start + ROWS], seed).to(model.device)
            observed, seed_here = model.observed(batch), derived_seed(seed, "reconstruction", start)
            shared = sample_posterior(model, batch, model.names, 1, seed_here)[0] if joint else None
            for name, scores in found.items():
                own = batch.present[:, model.names.index(name)].nonzero().squeeze(1).to(model.device)
                inputs = sample_posterior(model, batch, (name,), 1, seed_here)[0] if shared is None else shared
                if len(own):
                    scores.append(model.log_px(name, inputs[own], observed[name]).double().cpu())
            progress.update(len(batch))
    return {name: mean_and_error(torch.cat(scores)) for name, scores in found.items() if scores}


def everything(model: MultimodalVAE) -> Question:
    """Return what a reconstruction asks: every modality that the model decodes, given all modalities."""
    return Question(tuple(model.decoders), tuple(model.names))


def measure(run: Run, question: Question, asking: Asking) -> Figures:
    """Return the reconstruction of every target that is among the given modalities, see `reconstruction`."""
    found = reconstruction(run.model, run.dataset, asking.rows_of(run.dataset), asking.seed)
    return {name: figure for name, figure in found.items() if name in {*question.targets} & {*question.given}}


METRIC = Metric(
    name="reconstruction",
    summary="Reconstruction, log p(x|z) of each modality given all",
    measure=measure,
    display=Display("nats", pages=()),
    heading="reconstruction, log p(x|z) of each modality in nats, z given all",
)
