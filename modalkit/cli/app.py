"""The command line: each command a few lines over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import functools
import inspect
import math
import os
import shutil
import signal as signals
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from modalkit import __version__
from modalkit.cli import ask as asking
from modalkit.cli import log
from modalkit.cli import report as reporting
from modalkit.errors import InputError, ModalkitError, is_out_of_memory

if TYPE_CHECKING:
    from modalkit.recipe.loading import Recipe
    from modalkit.training.trainer import Result

EPILOG = (
    "Exit codes: 0 done; 1 a run could not go on (NaN, disk full, out of memory); 2 something given cannot be used "
    "(recipe, data, plugin, option); 130 and 143 stopped by Ctrl-C or SIGTERM, with everything kept. "
    "MODALKIT_TRACEBACK=1 shows Python's traceback with an error."
)

app = typer.Typer(
    help="Learn from N modalities with any of them missing; then infer any from any others.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"modalkit {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    log.configure()


_LESS = {
    "evaluate": "take fewer --particles",
    "translate": "take fewer --draws and --samples",
    "impute": "take fewer --draws",
    "sample": "take a smaller -n",
    "report": "take fewer --rows",
}
"""What needs less memory, by command."""


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what a person can mend into one message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on where it stopped", err=True)
            raise typer.Exit(128 + signals.SIGINT) from None
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            memory = is_out_of_memory(error)
            if os.environ.get("MODALKIT_TRACEBACK") or not (memory or isinstance(error, ModalkitError)):
                raise
            if memory:
                less = _LESS.get(command.__name__, "lower train.batch_size")
                message, code = f"out of memory; {less}, or use smaller networks ({error})", 1
            else:
                message, code = str(error), error.exit_code  # type: ignore[attr-defined]  # the ModalkitError of above
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(code) from None

    return run


Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a value of the recipe, e.g. train.max_steps=5; repeatable."
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's file, the name of one that ships, or a run folder.")
]


def _find(recipe: str) -> tuple[Path, Path]:
    """Return a recipe's file and the run folder that belongs to it by default."""
    from modalkit.recipe import shipped

    path, known = Path(recipe), shipped()
    try:
        if (path / "recipe.yaml").is_file():
            return path / "recipe.yaml", path
        there = path.exists()
    except OSError as error:
        raise InputError(f"{recipe[:80]}: no file's name: {error.strerror}") from None
    if not there and path.stem in known and str(path) in (path.stem, f"{path.stem}.yaml", f"recipes/{path.name}"):
        path = known[path.stem][0]
    return path, Path("runs") / path.stem


@app.command()
@_guarded
def train(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME-OF-RECIPE by default.")] = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads the default, nobody writes to it)
    device: Annotated[str | None, typer.Option(help="auto, cpu or gpu; the recipe's train.accelerator.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="How many; the recipe's train.devices.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, 64 or bf16-mixed.")] = None,
) -> None:
    """Train what a recipe describes, or go on with a run that stopped.

    Builds the dataset first where the recipe says how and it is not there. Killed, interrupted or finished, a run
    goes on when the same command is given again (or `modalkit train RUN`), as if it had never stopped.

    Example: modalkit train recipes/quickstart.yaml
    """
    flags = {"accelerator": device, "devices": devices, "precision": precision}
    given = [f"train.{key}={value}" for key, value in flags.items() if value is not None]
    from modalkit.recipe.loading import load_recipe

    path, run = _find(recipe)
    loaded = load_recipe(path, [*overrides, *given])
    from modalkit.training import train as fit

    run = out or run
    result = fit(loaded, run)
    if result.signal:
        typer.echo(f"stopped at step {result.progress.step}; go on with: modalkit train {run}", err=True)
        raise typer.Exit(128 + result.signal)
    if result.translations:
        _print_translations(result, loaded)
    if result.held_out:  # known to the first of several processes
        typer.echo(
            f"{result.ended}: {run}, {_weights(result)}  "
            f"(look at {run / 'pictures' / 'final.png'}, or: modalkit report {run})"
        )


def _weights(result: Result) -> str:
    """Say which weights a run's questions are answered with."""
    progress = result.progress
    validated = progress.best_epoch and math.isfinite(progress.best)
    return f"with the weights of epoch {progress.best_epoch}, the best" if validated else "with the last weights"


def _print_translations(result: Result, recipe: Recipe) -> None:
    """Print how far each prediction is above the training mean's, in nats per dimension."""
    from modalkit.evaluation.translation import MOST_TRANSLATED, among, table
    from modalkit.pictures import chosen

    found, names = result.translations, chosen(recipe.modalities, MOST_TRANSLATED)
    few = f"; {len(names)} of {len(recipe.modalities)} modalities" if len(names) < len(recipe.modalities) else ""
    errors = [r.standard_error for r in found if r.standard_error is not None]
    sure = f"standard errors up to {max(errors):.4f}" if errors else "too few for standard errors"
    typer.echo(
        f"\nNats per dimension above predicting the training mean, on "
        f"{among(map(vars, found), result.held_out)}\n({sure}{few}):\n\n"
        f"{table(found, names, shutil.get_terminal_size((100, 24)).columns)}\n"
    )


@app.command()
@_guarded
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/mnist_mvae.")],
    targets: Annotated[str | None, typer.Option(help="What to predict: modalities, separated by commas.")] = None,
    given: Annotated[str | None, typer.Option(help="What is known: modalities, separated by commas.")] = None,
    proposal: Annotated[
        str | None, typer.Option(help="Whose posterior proposes z; by default all that is named.")
    ] = None,
    particles: Annotated[int, typer.Option(min=1, help="Draws of z a row.")] = 1000,
    prior_particles: Annotated[
        int | None,
        typer.Option(min=1, help="Estimate log p(given) with so many draws of the prior (the paper: 5000)."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    rows: Annotated[int | None, typer.Option(min=1, help="At most so many rows, the first.")] = None,
    coherence: Annotated[
        str | None, typer.Option(metavar="SOURCE:TARGET", help="Generate SOURCE from TARGET and classify it.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Also measure these metrics (`modalkit list metrics`)."),
    ] = None,
    plugin: Annotated[
        list[Path], typer.Option(help="A Python file with metrics that are not installed; repeatable.")
    ] = [],  # noqa: B006
    data: Annotated[str | None, typer.Option(help="Another dataset with the run's modalities.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Estimate log-likelihoods of a run's modalities, given any of the others, and how often predictions are right.

    By importance sampling (the paper's equations 5 to 7), on the test rows. Without --targets, the usual questions are
    asked. Interrupted work goes on; everything is added to RUN/evaluation.json.

    Example: modalkit evaluate runs/mnist_mvae --given label --targets image
    """
    from modalkit import registry
    from modalkit.evaluation.evaluate import evaluate as answer
    from modalkit.evaluation.evaluate import find_metrics
    from modalkit.evaluation.questions import Asking, parse, split_names
    from modalkit.runs.opened import load_run

    opened = load_run(run, data=data, device=device)
    for file in plugin:
        registry.add_file(file)
    asked = parse(opened.model, targets, given, proposal)
    asking = Asking(split, rows, particles, prior_particles, seed)
    typer.echo(answer(opened, asked, asking, coherence, find_metrics(split_names(metrics))))


for _command in (*asking.COMMANDS, *reporting.COMMANDS):
    app.command()(_guarded(_command))


@app.command()
@_guarded
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; nothing is overwritten.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Add a graph of one translation for other runtimes.")] = False,
    given: Annotated[str, typer.Option(help="What the graph takes: modalities, separated by commas.")] = "",
    want: Annotated[str, typer.Option(help="The one modality that the graph gives.")] = "",
    push: Annotated[str | None, typer.Option(metavar="REPO", help="Upload it to the Hugging Face Hub.")] = None,
) -> None:
    """Write a trained model as a folder to share: weights, recipe, model card.

    `modalkit.load(DIR)` and every command that asks a run take it, and answer the same to the bit.

    Example: modalkit export runs/quickstart shared/faces --onnx --given gray --want image
    """
    from modalkit.inference import load
    from modalkit.publishing.folder import export as write
    from modalkit.publishing.folder import push as upload
    from modalkit.publishing.graph import onnx_graph

    if bool(given or want) != onnx or bool(given) != bool(want):
        raise InputError("--onnx, --given and --want go together: --onnx --given gray --want image")
    model = load(run)
    graphs = [onnx_graph(model, [name.strip() for name in given.split(",")], want)] if onnx else []
    for path in write(model, out, graphs):
        typer.echo(path)
    if push:
        typer.echo(upload(out, push))


class Part(StrEnum):
    """What of the paper `reproduce` can reproduce."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"
    fig2 = "fig2"
    fig3 = "fig3"
    fig4 = "fig4"
    fig5 = "fig5"


@app.command()
@_guarded
def reproduce(
    part: Annotated[Part, typer.Argument(metavar="PART", help="A table or a figure of the paper.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="What recipes begin with, for tables 2 to 5 and figures 2, 4, 5; default mnist, fig5 celeba19."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders; finished runs are used again.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for CSV files and pictures.")] = Path("reproduction"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train for so many, the warm-up shortened in proportion.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Evaluate on at most so many test rows.")] = None,
    particles: Annotated[int | None, typer.Option(min=1, help="Draws a row, in place of the paper's.")] = None,
    values: Annotated[
        str | None, typer.Option(help="What a figure sweeps over, separated by commas: k, or fractions.")
    ] = None,
    train: Annotated[bool, typer.Option(help="Train what is missing, or take runs as they are.")] = True,
    overrides: Overrides = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="Where to evaluate: cpu, cuda, ...")] = "cpu",
) -> None:
    """Reproduce a table or figure of the paper: its numbers beside measured ones, as text, CSV and pictures.

    Runs of the shipped recipes that are missing are trained, in RUNS/RECIPE. Interrupted, it goes on.

    Example: modalkit reproduce table2 --dataset mnist --epochs 20 --rows 500
    """
    from modalkit.reproduction.command import reproduce as make
    from modalkit.reproduction.runs import RunProvider

    settings = RunProvider(runs, epochs, tuple(overrides), train, device)
    typer.echo(make(part.value, settings, out, dataset, rows, particles, values))


class _BuilderGroup(TyperGroup):
    """Lists and makes a command for each installed builder, and imports only the one that is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from modalkit import registry

        return registry.names(registry.BUILDERS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from modalkit import registry

        if cmd_name not in registry.names(registry.BUILDERS):
            return None
        one = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
        one.command(cmd_name)(_builder_command(cmd_name))
        return typer.main.get_command(one)


builders = typer.Typer(cls=_BuilderGroup, no_args_is_help=True, rich_markup_mode=None)


@builders.callback()
def _builders() -> None:
    """Turn raw files into a dataset of N modalities.

    Killed or interrupted, a build goes on when the same command is given again, and ends with the same bytes.

    Example: modalkit build-dataset sample-faces --out data/faces --count 500
    """


app.add_typer(builders, name="build-dataset")


def _builder_command(name: str) -> Callable[..., Any]:
    """Return a function whose signature is a builder's options."""
    from modalkit import registry
    from modalkit.data.building import build

    try:
        builder = registry.get(registry.BUILDERS, name)
    except ModalkitError as error:  # one broken plugin must not break the help of the others
        broken = error

        def fail() -> None:
            """A builder that cannot be loaded."""
            raise broken

        return _guarded(fail)

    def run(out: Path, **options: Any) -> None:
        typer.echo(build(name, out, {key: value for key, value in options.items() if value is not None}))

    parameters = [_option("out", Path, ..., "The folder to make.")]
    for key, field in builder.options.model_fields.items():
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        positional = key == builder.argument
        parameters.append(_option(key, field.annotation, default, field.description or "", positional=positional))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = builder.summary
    return _guarded(run)


def _option(name: str, annotation: Any, default: Any, help_text: str, *, positional: bool = False) -> inspect.Parameter:
    """Return a keyword parameter that typer turns into ``--name`` or an argument; pydantic checks the value's range."""
    kinds = [a for a in (get_args(annotation) or (annotation,)) if a in (bool, int, float, Path)]
    kind = kinds[0] if kinds else str
    given = typer.Argument(metavar=name.upper(), help=help_text) if positional else typer.Option(help=help_text)
    declared = Annotated[kind if default is ... else kind | None, given]  # type: ignore[valid-type]
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=empty if default is ... else default, annotation=declared
    )


@app.command()
@_guarded
def init(dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")]) -> None:
    """Draft a recipe for a dataset, with comments; it trains as it is.

    Example: modalkit init data/mine > mine.yaml
    """
    from modalkit.recipe.draft import draft

    typer.echo(draft(dataset), nl=False)


@app.command(name="inspect")
@_guarded
def inspect_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's folder, or its URL.")],
    rows: Annotated[int, typer.Option(min=1, max=64, help="Rows on the picture sheet.")] = 8,
    sheet: Annotated[
        Path | None, typer.Option(help="Where the sheet goes; DATASET/sheet.png by default, and sheet.png of a URL.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every shard with its checksum.")] = False,
    plugin: Annotated[
        list[Path], typer.Option(help="A Python file with kinds that are not installed; repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Show what a dataset holds: counts, presence and sizes, and a sheet of pictures of its first rows.

    Example: modalkit inspect data/quickstart
    """
    from modalkit import registry
    from modalkit.data import Dataset
    from modalkit.data.inspection import describe, save_sheet
    from modalkit.util.remote import is_url

    for file in plugin:
        registry.add_file(file)
    opened = Dataset(dataset, in_memory=False)
    typer.echo(describe(opened, verify=verify))
    typer.echo(save_sheet(opened, rows, sheet or Path("" if is_url(dataset) else dataset, "sheet.png")))


@app.command()
@_guarded
def validate(
    recipe: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipes' files or names.")],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Check recipes whole, without training: every error at once, each with its file and line.

    Where a recipe's dataset is there, it is compared too.

    Example: modalkit validate mine.yaml
    """
    from modalkit import registry
    from modalkit.recipe.loading import load_recipe
    from modalkit.util.remote import is_url
    from modalkit.util.text import listed

    for name in recipe:
        registry.forget_files()  # each recipe has its own plugins
        path, _ = _find(name)
        loaded = load_recipe(path, overrides)
        compared = f"fits {loaded.data.path}"
        if is_url(loaded.data.path) or Path(loaded.data.path, "manifest.json").exists():
            from modalkit.data import check_manifest

            check_manifest(loaded.data.path, loaded.modalities)
        else:
            compared = f"{loaded.data.path} is not there, so not compared"
        typer.echo(f"{path}: ok: {len(loaded.modalities)} modalities ({listed(loaded.modalities)}); {compared}")


@app.command()
@_guarded
def schema() -> None:
    """Print the JSON Schema of recipes, from which editors complete and check.

    Example: modalkit schema > recipe.schema.json
    """
    import json

    from modalkit.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


@app.command(name="new-modality")
@_guarded
def write_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new kind's name, such as wind-speed.")],
    out: Annotated[Path | None, typer.Option(help="The package's folder; ./NAME by default.")] = None,
) -> None:
    """Write a small package with a modality kind of your own, which works as it stands and is there to be changed.

    It has the kind in one file, its test, a dataset to try it on and a recipe. Nothing is overwritten.

    Example: modalkit new-modality wind-speed
    """
    from modalkit.scaffold.new_modality import new_modality

    folder = out or Path(name)
    for path in new_modality(name, folder):
        typer.echo(path)
    typer.echo(f'\nnext: cd {folder} && pip install -e ".[dev]" && pytest   (README.md goes on)')


class What(StrEnum):
    """What `list` can list."""

    kinds = "kinds"
    objectives = "objectives"
    builders = "builders"
    metrics = "metrics"
    recipes = "recipes"


@app.command(name="list")
@_guarded
def list_plugins(
    what: Annotated[What | None, typer.Argument(metavar="WHAT", help="One of these; all by default.")] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One kind, objective or builder: show the keys it takes.")
    ] = None,
) -> None:
    """List what is installed, a line each, and who provides it; or the keys of one plugin.

    Example: modalkit list kinds image
    """
    if what and name:
        typer.echo(_keys(what, name))
        return
    for section in [what] if what else list(What):
        typer.echo(f"{section.value}:")
        listing = _listing(section)
        width = max((len(name) for name, _, _ in listing), default=0)
        for name, summary, provider in listing:
            typer.echo(f"  {name:<{width}}  {summary}  [{provider}]")


def _keys(what: What, name: str) -> str:
    """Return one plugin's keys: what each may be, its default, and what it means."""
    from modalkit import registry
    from modalkit.data.inspection import keys

    if what is What.recipes:
        raise InputError(
            "a recipe has no keys of its own; `modalkit validate` checks one, docs/recipes.md explains them"
        )
    plugin = registry.get(_group(what), name)
    if what is What.metrics:
        return f"{name}: {plugin.display.title(plugin.summary)}"
    return f"{name}: {plugin.summary}\n{keys(plugin.schema if what is What.kinds else plugin.options)}"


def _group(what: What) -> str:
    from modalkit import registry

    groups = {What.kinds: registry.KINDS, What.objectives: registry.OBJECTIVES, What.builders: registry.BUILDERS}
    return (groups | {What.metrics: registry.METRICS})[what]


def _listing(what: What) -> list[tuple[str, str, str]]:
    from modalkit import registry

    if what is What.recipes:
        from modalkit.recipe import shipped

        return [(name, summary, str(path)) for name, (path, summary) in shipped().items()]
    found = registry.provided(_group(what))
    return [(p.name, p.plugin.summary if p.plugin else f"CANNOT BE USED: {p.failure}", p.provider) for p in found]


def _wait_policy() -> str:
    """Return how OpenMP's threads should wait: spinning where this program has the machine to itself.

    Small steps are a quarter to a third faster so; but where another process wants a core too, threads that spin make
    them slower, up to many times (docs/performance.md).
    """
    alone = hasattr(os, "getloadavg") and os.getloadavg()[0] < 0.25 * (os.cpu_count() or 1)
    return "active" if alone else "passive"


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("OMP_WAIT_POLICY", _wait_policy())  # before torch loads OpenMP
    app()


if __name__ == "__main__":
    main()
