"""Objectives compared on one dataset, with the same networks and the same budget."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modalkit.data import Dataset
from modalkit.data.building import ensure_dataset
from modalkit.errors import InputError
from modalkit.evaluation.linear import reduced_rank_ridge
from modalkit.evaluation.metrics import log_likelihood, mean_and_error
from modalkit.evaluation.metrics.coherence import classifier_of, coherence
from modalkit.evaluation.questions import Asking, Question, allows, check
from modalkit.generation import frechet, joint_coherence
from modalkit.generation.drawing import class_of, having, is_classified
from modalkit.inference.predicting import embed
from modalkit.model.sampling import mask
from modalkit.plugin import Figure
from modalkit.reproduction.runs import RunProvider, finished
from modalkit.reproduction.usage import Usage
from modalkit.runs.folder import RunFolder, differences
from modalkit.runs.opened import Run, digest
from modalkit.util.files import write_json, write_text
from modalkit.util.json_files import read_json
from modalkit.util.text import columns

_log = logging.getLogger(__name__)

RECIPES = {"poly-mnist": "poly_mnist"}
"""The benchmarks, and the recipe that each trains."""
OBJECTIVES = ("mvae", "gpoe", "mmvae", "mopoe", "mvtcae", "crmvae", "mmvm", "mmjsd")
"""Those that have no private latents, and take any number of modalities."""
_LEAST = 0.95
"""A classifier that is right more rarely cannot judge samples."""
_PROBED = 5000
"""Training rows that a linear probe is fitted to."""
_SHARES = {"right", "joint", "probe"}
"""First words of the columns that are shares, and shown in per cent."""


@dataclass(frozen=True)
class Line:
    """What was measured of one objective.

    Attributes:
        objective: its name.
        figures: by column, a figure and its standard error; columns that do not apply are left out.
        seconds: the training's wall time, of all parts of a training that was interrupted.
        mebibytes: most memory that the process held during the training; None where it is not known.
        epochs: how many epochs were trained.
    """

    objective: str
    figures: Mapping[str, Sequence[float | None]]
    seconds: float | None
    mebibytes: float | None
    epochs: int


def benchmark(name: str, provider: RunProvider, objectives: Sequence[str], out: Path, asking: Asking) -> str:
    """Train and measure objectives, and return the table as text; interrupted work resumes.

    Args:
        name: one of `RECIPES`.
        provider: trains the runs; each gets a folder of its own.
        objectives: their names.
        out: the folder for ``NAME.json`` and ``NAME.txt``.
        asking: on which rows, and with how many samples.

    Raises:
        InputError: an objective is unknown or does not fit the recipe, or a run was trained with another budget.
        StoppedError: training was interrupted.
    """
    recipe_name = RECIPES[name]
    recipes = {one: provider.recipe(recipe_name, [f"objective.name={one}"]) for one in dict.fromkeys(objectives)}
    folders = {one: RunFolder(provider.runs / f"{recipe_name}-{one}") for one in recipes}
    for one, folder in folders.items():  # all are checked before the work
        if folder.is_run() and (changed := differences(folder.read_recipe(), recipes[one])):
            raise InputError(
                f"{folder.path}: was trained with another recipe ({', '.join(changed)} differ), so that it cannot be "
                f"compared; choose another --runs, or delete it"
            )
    ensure_dataset(recipes[next(iter(recipes))])  # now, so that no training's time counts it
    lines = []
    for one, folder in folders.items():
        about = _train(provider, recipe_name, one, folder, done=finished(folder, recipes[one]))
        run = provider.run(recipe_name, [f"objective.name={one}"], f"-{one}")
        for other in folders.values():
            _share_classifiers(other, folder)
        settings = asdict(asking) | {"weights": run.weights, "data": str(run.dataset.path)}
        settings["sampler"] = digest(folder.sampler) if folder.sampler.is_file() else None
        if about.get("settings") != settings:
            figures = {column: list(figure) for column, figure in measure(run, asking).items()}
            about |= {"settings": settings, "figures": figures}
            write_json(_kept(folder), _without_nan(about))
        about = _read(folder)
        epochs = recipes[one].train.epochs
        lines.append(Line(one, about["figures"], about["seconds"], about["mebibytes"], epochs))
    text = table(lines)
    content = {"benchmark": name, "rows": asking.rows, "particles": asking.particles, "seed": asking.seed}
    write_json(out / f"{name}.json", content | {"objectives": [asdict(line) for line in lines]})
    write_text(out / f"{name}.txt", f"{text}\n")
    return f"{text}\n\nwritten: {out / f'{name}.json'}, {out / f'{name}.txt'}"


def _train(provider: RunProvider, recipe: str, objective: str, folder: RunFolder, *, done: bool) -> dict[str, Any]:
    """Train an objective unless that is done, and return what is kept of it: its time, memory and figures."""
    path, about = _kept(folder), _read(folder)
    if done:
        return about
    usage = Usage()
    try:
        provider.run(recipe, [f"objective.name={objective}"], f"-{objective}")
    finally:
        if folder.is_run():
            if about["seconds"] is not None:
                peaks = [one for one in (about["mebibytes"], usage.mebibytes) if one is not None]
                about |= {"seconds": about["seconds"] + usage.seconds, "mebibytes": max(peaks, default=None)}
            write_json(path, about)
    return about


def _kept(folder: RunFolder) -> Path:
    return folder.path / "benchmark.json"


def _read(folder: RunFolder) -> dict[str, Any]:
    """Return what is kept of a run; a run that another command began has no time.

    Raises:
        InputError: the file is damaged.
    """
    if not (path := _kept(folder)).exists():
        return {"seconds": None if folder.is_run() else 0.0, "mebibytes": None}
    about: dict[str, Any] = read_json(path)
    numbers = (about.get("seconds", ""), about.get("mebibytes", "")) if isinstance(about, dict) else ("",)
    figures = about.get("figures", {}) if isinstance(about, dict) else {}
    if not all(one is None or isinstance(one, int | float) for one in numbers) or not isinstance(figures, dict):
        raise InputError(f"{path}: cannot be read; delete it, and the training's time will not be known")
    return about


def _share_classifiers(source: RunFolder, to: RunFolder) -> None:
    """Copy the classifiers of another run of the same dataset and kinds, so that they are trained once."""
    for path in source.passes.glob("classifier-*.safetensors"):
        if not (copy := to.passes / path.name).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def measure(run: Run, asking: Asking) -> dict[str, Figure]:
    """Measure a run: coherence, Fréchet distance, log-likelihood, and a linear probe of the embeddings.

    A view is a modality that shows the class. Coherence given k views is averaged over the views that are generated,
    each from the k that follow it, around the circle. Errors of averages over views are the averages of their errors,
    because all views share the rows.

    Raises:
        InputError: the dataset has no class, or fewer than two modalities that show it.
    """
    asked = class_of(run.model, run.model.names)
    views = [name for name in run.model.names if name in run.model.decoders and is_classified(run.model.schemas[name])]
    if asked is None or len(views) < 2:
        raise InputError(f"{run.dataset.path}: a benchmark needs a class and two modalities that show it")
    rows, found = asking.rows_of(run.dataset), dict[str, Figure]()
    for count in range(1, len(views)):
        given = {view: _following(views, view, count) for view in views}
        if all(allows(run.model, names) for names in given.values()):
            shares = [_coherence(run, view, asked, rows, names, asking.seed) for view, names in given.items()]
            found[f"right, {count} given"] = _mean([share["generated"] for share in shares])
    found |= {
        f"joint, {source}": figure
        for source, figure in joint_coherence.measure(run, Question(tuple(views)), asking).items()
    }
    for column, count in (("FD, given nothing", 0), ("FD, 1 given", 1)):
        distances = [
            frechet.METRIC.measure(run, Question((view,), _following(views, view, count)), asking) for view in views
        ]
        for source in ("prior", "posterior", "sampler"):
            each = [one[key] for one, view in zip(distances, views, strict=True) if (key := f"{view}: {source}") in one]
            if len(each) == len(views):
                found[f"{column}{', sampler' if source == 'sampler' else ''}"] = _mean(each)
    try:
        question = check(run.model, Question(run.model.names))
    except InputError as error:
        _log.info(f"{run.path}: no joint log-likelihood: {error}")
    else:
        found["log p(all)"] = log_likelihood.ask(run, [question], asking)[0].log_p
    if allows(run.model, views):
        found["probe"] = _probe(run, asked, views, rows)
    return found


def _following(views: Sequence[str], view: str, count: int) -> tuple[str, ...]:
    """Return so many views that follow one around the circle, in the order of all."""
    start = views.index(view) + 1
    chosen = {views[(start + step) % len(views)] for step in range(count)}
    return tuple(name for name in views if name in chosen)


def _mean(figures: Sequence[Figure]) -> Figure:
    values, errors = zip(*figures, strict=True)
    return math.fsum(values) / len(values), math.fsum(errors) / len(errors)


def _coherence(run: Run, view: str, asked: str, rows: Tensor, given: Sequence[str], seed: int) -> Mapping[str, Figure]:
    """Return the coherence of a view, and warn if its classifier cannot judge."""
    found = coherence(run.model, classifier_of(run, view, asked, seed), run.dataset, rows, view, asked, seed, given)
    if not found:
        raise InputError(f"{run.dataset.path}: no row has {', '.join((view, asked, *given))}, so nothing is compared")
    if len(given) == 1 and found["real"][0] < _LEAST:
        _log.warning(
            f"{run.path}: the classifier of {asked} from {view} is right in {found['real'][0]:.1%} of held-out rows, "
            f"so it cannot judge samples well; use more training rows"
        )
    return found


def _probe(run: Run, asked: str, views: Sequence[str], rows: Tensor) -> Figure:
    """Return how often a linear regression of the class on the means of q(z|views) is right in held-out rows."""
    training = having(run, run.dataset.rows("train"), (asked, *views))
    training = training[torch.arange(min(_PROBED, len(training))) * len(training) // min(_PROBED, len(training))]
    held_out = having(run, rows, (asked, *views))
    inputs, truth = zip(*(_embedded(run, asked, views, part) for part in (training, held_out)), strict=True)
    targets = one_hot(truth[0], int(torch.cat(truth).max()) + 1).to(inputs[0])
    guesses = reduced_rank_ridge([inputs[0]], targets, None)(inputs[1]).argmax(1)
    return mean_and_error((guesses == truth[1]).double())


def _embedded(run: Run, asked: str, views: Sequence[str], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of q(z|views), `(rows, latent_dim)`, and the class, int64 `(rows,)`."""
    dataset: Dataset = run.dataset
    parts = []
    for part in torch.split(rows, 500):
        batch = dataset[part]
        given = replace(batch, present=batch.present & mask(run.model, views))
        parts.append(embed(run.model, given, private=False).loc.cpu())
    values = run.model.schemas[asked].unpack(dataset.values(asked, rows))
    return torch.cat(parts), values.reshape(len(rows), -1)[:, 0].long()  # of several parts the first


def table(lines: Sequence[Line]) -> str:
    """Lay lines out, an objective each; shares in per cent."""
    names = list(dict.fromkeys(column for line in lines for column in line.figures))
    cells = [("", *names, "seconds", "memory, MiB")]
    for line in lines:
        figures = [_cell(name, line.figures.get(name)) for name in names]
        usage = ("–" if one is None else f"{one:,.0f}" for one in (line.seconds, line.mebibytes))
        cells.append((line.objective, *figures, *usage))
    return columns(list(zip(*cells, strict=True)), align="<" + ">" * len(lines))  # a line each, an objective a column


def _cell(column: str, figure: Sequence[float | None] | None) -> str:
    if figure is None or figure[0] is None:
        return "–"
    factor, digits = (100, 1) if column.split(",")[0] in _SHARES else (1, 2)
    error = "" if figure[1] is None else f" ± {factor * figure[1]:.{digits}f}"
    return f"{factor * figure[0]:.{digits}f}{error}"


def _without_nan(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold: None in place of what is not a number."""
    figures = {
        column: [one if one is not None and math.isfinite(one) else None for one in figure]
        for column, figure in about["figures"].items()
    }
    return dict(about) | {"figures": figures}
