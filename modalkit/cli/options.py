"""Arguments and options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from modalkit.errors import InputError, check_names

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show only warnings and errors, no progress bars.", show_default=False),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show debug messages too, with times.", show_default=False)
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, the name of a shipped recipe, or a run folder.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
DatasetArgument = Annotated[
    str | None, typer.Argument(metavar="DATASET", help="A dataset's folder or URL; the run's own dataset by default.")
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the recipe, e.g. train.max_steps=5; repeatable."),
]
OtherData = Annotated[str | None, typer.Option(help="Another dataset that has the run's modalities.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code that a recipe names, and contact the URL of its dataset. Read recipe.yaml first.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ...")]
Weights = Annotated[str, typer.Option(help="The run's best weights, or its last ones: best, last.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random samples.")]
Draws = Annotated[int, typer.Option(min=1, help="Samples of z per row; predictions are averaged over them.")]
Noise = Annotated[
    bool, typer.Option("--noise", help="Sample from the likelihoods instead of taking their means and modes.")
]
NoSampler = Annotated[
    bool,
    typer.Option("--no-sampler", help="Sample from the posterior, even if the run has a sampler.", show_default=False),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="A new folder, or the folder of an earlier answer.")]
Plugins = Annotated[
    list[Path], typer.Option("--plugin", help="A Python file with plugins that are not installed; repeatable.")
]
Want = Annotated[str | None, typer.Option(help="Modalities to predict, separated by commas.")]
AsIf = Annotated[
    list[str] | None,
    typer.Option(
        "--as-if",
        metavar="NAME=VALUE",
        help="Predict under another value of a covariate than the one that is given; repeatable.",
    ),
]
Style = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="NAME=VALUE|ROW",
        help="Predict in this style: private latents are inferred from this value of a wanted modality, or from those "
        "of a row of the run's dataset, named by its key; repeatable.",
    ),
]


def find_recipe(recipe: str) -> tuple[Path, Path]:
    """Return a recipe's file and its default run folder.

    Args:
        recipe: a file, the name of a shipped recipe (``mnist_mvae`` or ``recipes/mnist_mvae.yaml``), or a run folder.

    Raises:
        InputError: the text cannot be a file name.
    """
    from modalkit.recipe import shipped
    from modalkit.runs.folder import RunFolder

    path, known = Path(recipe), shipped()
    own = RunFolder(path).recipe
    try:
        if own.is_file():
            return own, path
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{recipe[:80]}: is not a file name: {error.strerror}") from None
    if not exists and path.stem in known and str(path) in (path.stem, f"{path.stem}.yaml", f"recipes/{path.name}"):
        path = known[path.stem][0]
    return path, Path("runs") / path.stem


def add_plugins(files: Iterable[Path]) -> list[str]:
    """Register the plugins of Python files, such as kinds and metrics, and return their names.

    Raises:
        InputError: a file cannot be used.
    """
    from modalkit import registry

    return [name for file in files for name in registry.add_file(file)]


def check_named(run: Path, names: Iterable[str]) -> None:
    """Refuse modalities that the recipe of a run does not have, before torch is imported, which takes seconds.

    A run whose recipe cannot be read is left to the command, which says what is wrong with it.

    Args:
        run: a run folder.
        names: modalities or covariates that an option names.

    Raises:
        InputError: names the first one, and those that there are.
    """
    from modalkit.recipe.yaml import read

    try:
        modalities = read(run / "recipe.yaml").value.get("modalities")
    except InputError:
        return
    if isinstance(modalities, dict) and not any("{" in str(name) for name in modalities):  # templates name several
        check_names(names, [str(name) for name in modalities])


def split_names(text: str | None) -> list[str] | None:
    """Return names that are separated by commas, each once, or None for None.

    >>> split_names("image, label,,image")
    ['image', 'label']
    """
    return None if text is None else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def split_values(given: Iterable[str], option: str = "--given") -> dict[str, str]:
    """Return the value of each modality in texts of the form ``NAME=VALUE``.

    >>> split_values(["gray=photo.jpg", "label=7"])
    {'gray': 'photo.jpg', 'label': '7'}

    Raises:
        InputError: a text has another form, or a modality is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {text}: write NAME=VALUE, such as gray=photo.png")
        if name in found:
            raise InputError(f"{option} {text}: '{name}' is given twice")
        found[name] = value
    return found
