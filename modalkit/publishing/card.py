"""The model card: what a model was trained on, how well it does, and what nobody but its author can say."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import modalkit
from modalkit.data import read_manifest
from modalkit.data.manifest import read_json
from modalkit.errors import InputError
from modalkit.inference import TrainedModel

_log = logging.getLogger(__name__)

_DESCRIPTION = "A multimodal VAE: any of its modalities can be inferred from any others."
_LIMITS = """\
- It learnt from the rows described above and from nothing else; what it says of other data is a guess, and it does not
  say so. Posteriors of what it never saw can be as sharp as any.
- Samples are what the training data makes likely, with that data's gaps and biases.
- `plugins/`, where there is one, is code that loading the model runs: read it before.
"""


def card(model: TrainedModel, graphs: Sequence[PurePath]) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    Args:
        model: from a run folder, whose figures it takes.
        graphs: files for other runtimes, relative to the card.
    """
    recipe, name = model.recipe, model.path.resolve().name
    counts = model.model.parameter_counts()
    counts["all"] = sum(counts.values())
    modalities = [
        (f"`{n}`", s.kind, " x ".join(map(str, s.event_shape)) or "one number", f"{s.weight:g}")
        for n, s in model.schemas.items()
    ]
    parts = [
        "---\nlibrary_name: modalkit\nlicense: other # TODO: fill in\ntags: [multimodal, vae, modalkit]\n---",
        f"# {name}\n\n{recipe.description or _DESCRIPTION}",
        "## Load\n\n```python\nimport modalkit\n\nmodel = modalkit.load(\"path/to/this/folder\")\n"
        f"answer = model.infer({{\"{model.modalities[0]}\": ...}})\n```\n\n"
        f"Written by modalkit {modalkit.__version__}; the dataset is not needed.",
        "## Modalities\n\n" + _table(("name", "kind", "shape", "weight"), modalities),
        f"## Data\n\n{_data(model)}",
        f"## Training\n\nObjective `{recipe.objective.name}`, z of {model.latent_dim} numbers, seed {recipe.seed}, "
        f"precision {recipe.train.precision}. All settings are in `recipe.yaml`.",
        f"## Results\n\n{_results(model.path)}",
        "## Parameters\n\n"
        + _table(("part", "parameters"), [(part, f"{count:,}") for part, count in counts.items()]),
        f"## Limits\n\n{_LIMITS}- TODO: what it must not be used for.",
        "## Licence\n\nTODO: the licence of these weights, and whether the data's terms allow it.",
        f"## Integrity\n\nSHA-256 of `model.safetensors`: `{model.weights}`",
    ]  # fmt: skip
    if graphs:
        listed = "\n".join(f"- `{graph}`" for graph in graphs)
        parts.insert(3, f"## Graphs\n\nEach takes the modalities of its name in the networks' units and gives the "
                        f"wanted one's mean or class probabilities at the posterior's mean, with `loc` and `scale` "
                        f"of z:\n\n{listed}")  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _data(model: TrainedModel) -> str:
    path = model.recipe.data.path
    said = f"Trained on the dataset `{Path(path).name}`"
    try:
        manifest = read_manifest(path)
    except InputError:
        return f"{said}. TODO: what it is, where it is from, and its terms."
    splits = ", ".join(f"{rows:,} {split}" for split, rows in manifest.splits.items() if rows)
    made = manifest.builder.get("name")
    present = [(f"`{n}`", f"{manifest.modalities[n].present:,}") for n in model.modalities if n in manifest.modalities]
    return (
        f"{said}: {manifest.rows:,} rows ({splits})" + (f", made by the builder `{made}`" if made else "")
        + ". TODO: where it is from, and its terms.\n\n" + _table(("modality", "rows that have it"), present)
    )  # fmt: skip


def _results(run: Path) -> str:
    """Return what the run's own files say of how well it does."""
    found = []
    if (path := run / "translations.json").is_file():
        rows = [
            (t["given"], t["want"], t["rows"], _number(t["log_px"]), _number(t["margin"]), _number(t["standard_error"]))
            for t in read_json(path)
        ]
        head = ("given", "wanted", "rows", "log p, nats per dimension", "above the training mean's", "standard error")
        found.append("Held-out rows, one draw of z:\n\n" + _table(head, rows))
    if (path := run / "evaluation.json").is_file():
        kept = read_json(path)
        likelihoods = [
            (key, one["rows"], *(_number(x) for x in one["log_p"]))
            for key, one in kept.get("log_likelihoods", {}).items()
        ]
        if likelihoods:
            found.append("Importance-sampled, nats:\n\n" + _table(("", "rows", "mean", "standard error"), likelihoods))
    return "\n\n".join(found) or "TODO: none were measured in this run; `modalkit evaluate` measures."


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(one).replace("|", "\\|") for one in line) + " |" for line in lines)
