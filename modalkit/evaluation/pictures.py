"""The sheet of translations: what a trained model predicts of each modality from each other."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from modalkit.data import Dataset
from modalkit.data.reading import draw
from modalkit.evaluation.translation import single_and_all_plan
from modalkit.model.sampling import sample_noise, sample_z
from modalkit.model.vae import MultimodalVAE
from modalkit.nn import evaluating
from modalkit.pictures import MOST_COLUMNS, Cell, chosen, row_cells, sheet, show
from modalkit.util.randomness import generator


@torch.no_grad()
def translation_sheet(model: MultimodalVAE, dataset: Dataset, rows: Tensor, seed: int = 0) -> Image.Image:
    """Show, for some rows, every modality predicted from all of them and from each single one.

    The sheet has a block of columns for each row of the dataset. Its first line shows the truth; the others show what
    the model predicts from one sample of z.

    Args:
        model: put in eval mode meanwhile.
        dataset: the dataset that `rows` index.
        rows: int64 `(rows,)`.
        seed: seed of the samples of z.
    """
    batch = draw(dataset[rows], model.schemas, generator(seed, "pictures data")).to(model.device)
    plan = single_and_all_plan(model, batch.present, MOST_COLUMNS)
    noise = sample_noise(1, len(plan.terms), len(rows), model.latent_dim, generator(seed, "pictures"))
    names = chosen(model.schemas, MOST_COLUMNS)
    decoded = [n for n in names if n in model.decoders]
    with evaluating(model):
        observed = model.observed(batch)
        z = sample_z(model, observed, batch.present, plan.given, noise).z[0]  # (terms, rows, latent_dim)
        inputs = model.decoder_inputs(z, observed, batch.present).flatten(0, 1)
        values = {n: torch.unflatten(model.predict(n, inputs), 0, z.shape[:2]) for n in decoded}
    asked = plan.given.any(-1).any(1)
    shown = [(t, term) for t, term in enumerate(plan.terms) if asked[t]]
    cells: list[list[Cell]] = [[] for _ in range(1 + len(shown))]
    for i in range(len(rows)):
        cells[0] += row_cells(model.schemas, batch, i, names)
        for line, (t, _) in zip(cells[1:], shown, strict=True):
            known = bool(plan.given[t, i].any())
            line += [show(model.schemas[n], values[n][t, i]) if known and n in values else None for n in names]
    columns = [f"{n}\n{dataset.key(row)}" if n == names[0] else n for row in rows.tolist() for n in names]
    return sheet(cells, ["truth", *(f"from {term}" for _, term in shown)], columns)
