"""A run as one page."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from modalkit.errors import InputError
from modalkit.model.diagnosis import unsound
from modalkit.report.calibration import calibration
from modalkit.report.facts import curves, environment, parameters, presence
from modalkit.report.latent import dimensions, embedded, maps
from modalkit.report.measured import measured
from modalkit.report.page import Section, note, render
from modalkit.report.sources import Source, open_source
from modalkit.report.styles import styled
from modalkit.report.views import samples, translated, walks
from modalkit.runs.metrics import REFIT
from modalkit.training.planning import Planner
from modalkit.util.progress import bar
from modalkit.util.text import listed

ROWS = 300
Made = TypeVar("Made")


def report(
    path: Path,
    *,
    rows: int = ROWS,
    data: Path | str | None = None,
    device: str = "cpu",
    seed: int = 0,
    trust: bool = False,
) -> tuple[str, list[str]]:
    """Return a run as an HTML page that needs nothing beside it, and in words what is left out.

    Args:
        path: the run folder.
        rows: how many held-out rows to ask about, at most.
        data: a dataset in place of the recipe's.
        device: where to compute.
        seed: of all samples.
        trust: whether the code may run that the recipe names, and the URL of its dataset may be contacted.

    Raises:
        InputError: the folder is not a run; its weights are NaN; or `data` or `device` cannot be used.
    """
    source = open_source(path, rows=rows, data=data, device=device, trust=trust)
    if source.model is not None and (wrong := unsound(source.model.model)) is not None:
        raise InputError(f"{source.folder.weights}: these weights are NaN or infinite, first in {wrong}; train again")
    sections, left_out = _sections(source, seed)
    options = (("--rows", rows, ROWS), ("--data", data, None), ("--seed", seed, 0))
    given = [str(part) for name, value, default in options if value != default for part in (name, value)]
    command = shlex.join(["modalkit", "report", str(path), *given])
    return render(path.resolve().name, source.recipe.description, _facts(source), sections, command), left_out


def _sections(source: Source, seed: int) -> tuple[list[Section], list[str]]:
    """Return the page's sections, and in words what is left out."""
    left_out, sections = list(source.lacking), list[Section]()

    def attempt(title: str, make: Callable[[], Made | None]) -> Made | None:
        """Make a part; if it fails, the page does without it."""
        try:
            return make()
        except InputError as error:
            left_out.append(f"{title}: left out, {error}")
            return None

    latent = attempt("Posteriors of held-out rows", lambda: embedded(source))
    makers: dict[str, Callable[[], Section | None]] = {
        "Translations": lambda: translated(source, seed),
        "Samples": lambda: samples(source, seed),
        "Content and style": lambda: styled(source, seed),
        "Learning curves": lambda: curves(source),
        "Latent traversals": lambda: walks(source, latent),
        "Latent map": lambda: maps(source, latent),
        "Who tells what": lambda: dimensions(source, latent),
        "Calibration": lambda: calibration(source, seed),
        "Evaluation": lambda: measured(source),
        "Parameters": lambda: parameters(source),
        "Data": lambda: presence(source),
        "How it was made": lambda: environment(source),
    }
    with bar(len(makers), f"report of {source.folder.path.name}", unit="part", leave=False) as progress:
        for title, make in makers.items():
            progress.set_postfix_str(title)
            if (section := attempt(title, make)) is not None:
                sections.append(section)
            progress.update()
    if left_out:
        sections.insert(0, Section("Left out", "", [note(text) for text in left_out]))
    return sections, left_out


def _facts(source: Source) -> list[tuple[str, str]]:
    """Return the names and values at the top of the page."""
    recipe = source.recipe
    facts = [
        ("Objective", recipe.objective.name),
        ("Modalities", str(len(recipe.explained))),
        *([("Covariates", listed(recipe.covariates))] if recipe.covariates else []),
        ("Latent dimensions", str(recipe.model.latent_dim)),
    ]
    if source.model is not None:
        facts.append(("Parameters", f"{sum(source.model.model.parameter_counts().values()):,}"))
    if source.metrics:
        last = next((line for line in reversed(source.metrics) if line["split"] != REFIT), source.metrics[-1])
        facts.append(("Trained", f"{last['epoch']} epochs, {last['step']:,} steps"))
        if source.refit:
            facts.append(("Refit", "on training and validation rows, for as many epochs as the best"))
    if (best := best_validation(source)) is not None:
        facts.append(("Best validation ELBO", f"{best[0]:,.2f} nats a row, after epoch {best[1]}"))
    if source.held_out is not None:
        facts.append(("Asked about", f"{len(source.held_out.rows)} {source.held_out.split} rows"))
    return facts


def best_validation(source: Source) -> tuple[float, int] | None:
    """Return the highest validation ELBO that was logged and its epoch; of several stages, in the last one."""
    valid = [line for line in source.metrics if line["split"] == "valid" and "elbo" in line]
    planner = Planner(source.recipe)
    stages = [planner.frozen(line["epoch"] - 1) for line in valid]
    return max(((x["elbo"], x["epoch"]) for x, s in zip(valid, stages, strict=True) if s == stages[-1]), default=None)
