"""Commands that make and show datasets: build-dataset, inspect, init."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperGroup

from modalkit.cli.guard import guarded
from modalkit.cli.options import Plugins, add_plugins
from modalkit.errors import ModalkitError, RunError

if TYPE_CHECKING:
    from modalkit.data import Dataset


class _BuilderGroup(TyperGroup):
    """Has a subcommand for each installed builder, and imports only the builder that is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from modalkit import registry

        return registry.names(registry.BUILDERS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from modalkit import registry

        if cmd_name not in registry.names(registry.BUILDERS):
            return None
        one = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
        one.command(cmd_name)(guarded(_builder_command(cmd_name)))
        return typer.main.get_command(one)


builders = typer.Typer(cls=_BuilderGroup, no_args_is_help=True, rich_markup_mode=None)


@builders.callback()
def build_dataset() -> None:
    """Turn raw files into a dataset of N modalities.

    To resume a build that was killed or interrupted, give the same command again. The result has the same bytes.

    Example: modalkit build-dataset sample-faces --out data/faces --count 500
    """


def _builder_command(name: str) -> Callable[..., Any]:
    """Return a function that runs a builder and whose signature has the builder's options."""
    from modalkit import registry
    from modalkit.data.building import build

    try:
        builder = registry.get(registry.BUILDERS, name)
    except ModalkitError as error:  # a broken builder must not break the help of the others
        broken = error

        def fail() -> None:
            """A builder that cannot be loaded."""
            raise broken

        return fail

    def run(out: Path, plugin: list[Path], **options: Any) -> None:
        add_plugins(plugin)
        typer.echo(build(name, out, {key: value for key, value in options.items() if value is not None}))

    parameters = [_option("out", Path, ..., "The dataset folder to make.")]
    for key, field in builder.options.model_fields.items():
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        positional = key == builder.argument
        parameters.append(_option(key, field.annotation, default, field.description or "", positional=positional))
    keyword = signatures.Parameter.KEYWORD_ONLY
    parameters.append(signatures.Parameter("plugin", keyword, default=[], annotation=Plugins))
    run.__signature__ = signatures.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__doc__ = builder.summary
    return run


def _option(
    name: str, annotation: Any, default: Any, help_text: str, *, positional: bool = False
) -> signatures.Parameter:
    """Return a parameter that typer turns into ``--name`` or an argument. Pydantic checks the value's range later."""
    kinds = [a for a in (get_args(annotation) or (annotation,)) if a in (bool, int, float, Path)]
    one: Any = kinds[0] if kinds else str
    kind: Any = list[one] if get_origin(annotation) is tuple else one
    given = typer.Argument(metavar=name.upper(), help=help_text) if positional else typer.Option(help=help_text)
    declared = Annotated[kind if default is ... else kind | None, given]  # type: ignore[valid-type]
    empty = signatures.Parameter.empty
    return signatures.Parameter(
        name, signatures.Parameter.KEYWORD_ONLY, default=empty if default is ... else default, annotation=declared
    )


def init(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Print a first recipe for a dataset, with comments. It can be trained as it is.

    Example: modalkit init data/mine > mine.yaml
    """
    from modalkit.recipe.draft import draft

    add_plugins(plugin)
    typer.echo(draft(dataset, plugin), nl=False)


def inspect(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's folder or URL.")],
    rows: Annotated[int, typer.Option(min=1, max=64, help="Rows on the sheet of pictures.")] = 8,
    sheet: Annotated[
        Path | None,
        typer.Option(help="File of the sheet; by default DATASET/sheet.png, or sheet.png here if DATASET is a URL."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every shard with its checksum.")] = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Show what a dataset holds: counts, presence and sizes, and a sheet of pictures of its first rows.

    Example: modalkit inspect data/quickstart
    """
    from modalkit.data import Dataset
    from modalkit.data.inspection import describe
    from modalkit.util.remote import is_url

    add_plugins(plugin)
    opened = Dataset(dataset, in_memory=False)
    typer.echo(describe(opened, verify=verify))
    try:
        typer.echo(_save_sheet(opened, rows, sheet or Path("" if is_url(dataset) else dataset, "sheet.png")))
    except RunError as error:  # another user's dataset can be read all the same
        if sheet is not None:
            raise
        typer.echo(f"no pictures: {error}; name a file with --sheet")


def _save_sheet(dataset: Dataset, rows: int, path: Path) -> str:
    """Save pictures of a dataset's first rows and return a line that says where, and what is not shown."""
    import torch

    from modalkit.data.inspection import schemas
    from modalkit.pictures import MOST_COLUMNS, chosen, dataset_sheet
    from modalkit.util.files import write_atomic
    from modalkit.util.text import listed

    known = schemas(dataset)
    shown, unknown = chosen(known, MOST_COLUMNS), [name for name in dataset.names if name not in known]
    sheet = dataset_sheet(dataset, {name: known[name] for name in shown}, torch.arange(min(rows, len(dataset))))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="png"))
    part = f" ({len(shown)} of {len(known)} modalities)" if len(shown) < len(known) else ""
    why = f"; not shown, since their kind is not installed (see --plugin): {listed(unknown)}" if unknown else ""
    return f"pictures: {path}{part}{why}"
