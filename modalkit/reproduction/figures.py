"""Figures 2 to 5: samples, and sweeps over k, over supervision, and over missing entries.

The value at which a sweep meets a shipped recipe (k = 1, its fraction of pairs, all kept) uses that recipe's own run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modalkit import registry
from modalkit.data import Batch
from modalkit.errors import InputError
from modalkit.evaluation.metrics import mean_and_error
from modalkit.evaluation.metrics.accuracy import accuracy
from modalkit.evaluation.metrics.log_likelihood import ask
from modalkit.evaluation.questions import Asking, Question
from modalkit.model.sampling import mask, sample_posterior
from modalkit.pictures import show
from modalkit.reproduction.paper import DATASETS
from modalkit.reproduction.runs import RunProvider
from modalkit.reproduction.tables import write_csv
from modalkit.runs.opened import Run
from modalkit.runs.saved_state import saved_progress
from modalkit.util.files import write_atomic
from modalkit.util.randomness import derived_seed
from modalkit.util.text import columns

FIG2 = {"mnist": "5", "binary_mnist": "5", "fashion_mnist": "9", "multimnist": "1773", "celeba": "Male"}
"""Figure 2: what each dataset's samples are conditioned on (9 is the ankle boot)."""
FIG3_K = (0, 1, 2, 5, 10, 20, 50)
FIG4_PAIRED = (0.0, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
FIG4 = (*DATASETS, "mnist_weak")
"""Figure 4: what the recipes of its models begin with, the paper's five first."""
FIG5 = ("celeba19", "celeba19_small")
"""Figure 5: what the recipes of its models begin with, the paper's first."""
FIG5_KEEP = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
_SAMPLES = 20
Row = dict[str, object]


def fig2(dataset: str, provider: RunProvider, out: Path, count: int = 64, seed: int = 0) -> list[Path]:
    """Draw samples of the image from the prior, and given the other modality's value in `FIG2`; return the pictures.

    Source:
        Wu & Goodman 2018, figure 2.
    """
    if dataset not in FIG2:
        raise InputError(f"--dataset {dataset}: give one of {', '.join(FIG2)}")
    if len(names := list(provider.recipe(f"{dataset}_mvae").modalities)) != 2:
        raise InputError(f"fig2 needs the recipe's two modalities, not {', '.join(names)}")
    run = provider.run(f"{dataset}_mvae")
    model, (image, other) = run.model, run.model.names
    schema = model.schemas[other]
    value = registry.modality(schema.kind).read(schema, FIG2[dataset])
    batch = Batch(
        {n: s.zeros(1) for n, s in model.schemas.items()},
        mask(model, [other])[None],
    )
    batch.values[other][0] = schema.pack(value)
    batch = batch.to(model.device)
    paths = []
    for what, given in (("prior", ()), (f"given-{FIG2[dataset]}", (other,))):
        with torch.no_grad():  # here and not around `provider.run`, which may train
            inputs = sample_posterior(model, batch, given, count, derived_seed(seed, "figure 2"))
            drawn = model.predict(image, inputs[:, 0])
        pictures = [show(model.schemas[image], one) for one in drawn]
        path = out / f"fig2-{dataset}-{what}.png"
        tiled = tile([np.asarray(picture) for picture in pictures])
        write_atomic(path, lambda temporary, tiled=tiled: tiled.save(temporary, format="png"))  # type: ignore[misc]
        paths.append(path)
    return paths


def tile(pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> Image.Image:
    """Lay pictures of one size out in a square."""
    across = max(1, round(len(pictures) ** 0.5))
    height, width = pictures[0].shape[:2]
    page = Image.new("RGB", (across * (width + 2), -(-len(pictures) // across) * (height + 2)), (255, 255, 255))
    for i, picture in enumerate(pictures):
        corner = ((i % across) * (width + 2), (i // across) * (height + 2))
        page.paste(Image.fromarray(picture).convert("RGB"), corner)
    return page


def fig3(provider: RunProvider, values: Sequence[float], rows: int | None, particles: int | None) -> list[Row]:
    """Measure MVAE19's joint log-likelihood and variance of log weights for several numbers k of random subsets.

    Source:
        Wu & Goodman 2018, figure 3.
    """
    if broken := [k for k in values if k != int(k)]:
        raise InputError(f"--values {broken[0]:g}: k is a number of subsets, so give whole numbers")
    found: list[Row] = []
    for k in values:
        changes, suffix = [f"objective.k={int(k)}"], f"-k{int(k)}"
        run = provider.run("celeba19_mvae") if k == 1 else provider.run("celeba19_mvae", changes, suffix)
        asking = Asking(rows=rows, particles=particles or 1000)
        (answer,) = ask(run, [Question(run.model.names)], asking)
        figures = {"log p(all)": answer.log_p[0], "error": answer.log_p[1]}
        found.append(
            {"k": int(k), **figures, "var log w": answer.variance[0], "epoch": saved_progress(run.folder).epoch}
        )
    return found


def fig4(dataset: str, provider: RunProvider, values: Sequence[float], rows: int | None) -> list[Row]:
    """Measure how often y is predicted right from the image, for several fractions of paired training rows.

    The other rows keep one modality each; for CelebA, MVAE19 sees all attributes of a row or none.

    Source:
        Wu & Goodman 2018, figure 4.
    """
    if dataset not in FIG4:
        raise InputError(f"--dataset {dataset}: give one of {', '.join(FIG4)}")
    name = "celeba19_mvae" if dataset == "celeba" else f"{dataset}_mvae"
    own = provider.recipe(name).data.weak.paired
    found: list[Row] = []
    for paired in values:
        changes = [f"data.weak.paired={paired}"]
        if dataset == "celeba":
            image, *bits = provider.recipe(name).modalities
            changes.append(f"data.weak.groups=[[{image}], [{', '.join(bits)}]]")
        run = provider.run(name) if paired == own else provider.run(name, changes, f"-paired{paired:g}")
        epoch = saved_progress(run.folder).epoch
        found += [{"paired": paired, **one, "epoch": epoch} for one in _accuracies(run, rows)]
    return found


def fig5(
    dataset: str, provider: RunProvider, values: Sequence[float], rows: int | None, particles: int | None
) -> list[Row]:
    """Measure MVAE19's accuracies and likelihoods when each training entry is kept with probability p.

    Source:
        Wu & Goodman 2018, figure 5.
    """
    if dataset not in FIG5:
        raise InputError(f"--dataset {dataset}: give one of {', '.join(FIG5)}")
    name = f"{dataset}_mvae"
    found: list[Row] = []
    for keep in values:
        changes, suffix = [f"data.weak.keep={keep}"], f"-keep{keep:g}"
        run = provider.run(name) if keep == 1 else provider.run(name, changes, suffix)
        image, *bits = run.model.names
        questions = [Question((image,), (), (image,)), Question((image,), tuple(bits), (image,))]
        asking = Asking(rows=rows, particles=particles or 100, prior_particles=1000)
        marginal, conditional = ask(run, questions, asking)
        figures: Row = {"log p(x)": marginal.log_p[0], "log p(x|y)": conditional.log_p[0]}
        figures["epoch"] = saved_progress(run.folder).epoch
        found += [{"keep": keep, **one, **figures} for one in _accuracies(run, rows)]
    return found


def _accuracies(run: Run, rows: int | None) -> list[Row]:
    """Return the share of right predictions from the first modality: a row a part of each other one, and the mean."""
    image, *others = run.model.names
    tested, found, all_parts = run.dataset.rows("test")[:rows], [], []
    for target in others:
        for part, right in accuracy(run.model, run.dataset, tested, target, (image,), _SAMPLES, 0).items():
            mean, error = mean_and_error(right.double())
            found.append({"target": target, "part": part, "accuracy": mean, "error": error})
            all_parts.append(right.double())
    if len(others) > 1 and len({len(part) for part in all_parts}) == 1:
        mean, error = mean_and_error(torch.stack(all_parts).mean(0))
        found.append({"target": "mean", "part": "", "accuracy": mean, "error": error})
    return found


def keep(rows: list[Row], x: str, ys: Sequence[str], path: Path) -> list[Path]:
    """Write a sweep as CSV and as a chart of one panel for each of `ys`, a line for each target and part."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    write_csv(path.with_suffix(".csv"), rows)
    figure = Figure(figsize=(5 * len(ys), 4), layout="constrained")
    for axis, y in zip(np.atleast_1d(figure.subplots(1, len(ys))), ys, strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            name = " ".join(str(row[key]) for key in ("target", "part") if row.get(key)) if y == "accuracy" else ""
            lines.setdefault(name, []).append((float(str(row[x])), float(str(row[y]))))
        for name, points in lines.items():
            axis.plot(*zip(*sorted(set(points)), strict=True), marker="o", label=name or None)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.set_xscale("symlog", linthresh=1e-3)
        if 1 < len(lines) <= 20:
            axis.legend(fontsize=7)
    write_atomic(path.with_suffix(".png"), lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return [path.with_suffix(".csv"), path.with_suffix(".png")]


def table(rows: list[Row]) -> str:
    """Lay a sweep's rows out as text."""
    if not rows:
        return ""
    cells = [list(rows[0]), *([f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    return columns(cells)
