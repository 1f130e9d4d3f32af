"""The application: the table of commands, the options that hold for all of them, and the entry point.

Importing it loads neither torch nor numpy nor pydantic, so that help is fast. Each command imports what it needs
when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from modalkit import __version__
from modalkit.cli import ask, benchmark, data, doctor, plugins, report, reproduce, train
from modalkit.cli.guard import guarded
from modalkit.cli.log import configure
from modalkit.cli.options import Quiet, Verbose

EPILOG = (
    "Exit codes: 0 done; 1 the work failed (NaN, full disk, out of memory); 2 an input cannot be used (recipe, data, "
    "plugin, option); 130 or 143 stopped by Ctrl-C or SIGTERM, with finished work kept. "
    "Set MODALKIT_TRACEBACK=1 to see Python's traceback of an error."
)

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train.train,
    "evaluate": report.evaluate,
    "translate": ask.translate,
    "sample": ask.sample,
    "fit-sampler": ask.fit_sampler,
    "impute": ask.impute,
    "embed": ask.embed,
    "serve": ask.serve,
    "report": report.report,
    "compare": report.compare,
    "export": ask.export,
    "reproduce": reproduce.reproduce,
    "benchmark": benchmark.benchmark,
    "init": data.init,
    "inspect": data.inspect,
    "validate": plugins.validate,
    "schema": plugins.schema,
    "new-modality": plugins.new_modality,
    "new-objective": plugins.new_objective,
    "list": plugins.list_plugins,
    "doctor": doctor.doctor,
}
"""Every command by name, in the order of the help, except `build-dataset`, which has one subcommand per builder."""

app = typer.Typer(
    help="Learn a model of N modalities, any of which may be missing. Then infer any of them from any others.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"modalkit {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all_commands(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    configure(quiet=quiet, verbose=verbose)


for _name, _command in COMMANDS.items():
    app.command(_name)(guarded(_command))
app.add_typer(data.builders, name="build-dataset")


def _wait_policy() -> str:
    """Return how OpenMP's threads should wait for work: spinning if the machine is idle, sleeping otherwise.

    Spinning makes small steps a quarter to a third faster. If another process needs a core too, it makes them slower,
    up to many times (docs/performance.md).
    """
    idle = hasattr(os, "getloadavg") and os.getloadavg()[0] < 0.25 * (os.cpu_count() or 1)
    return "active" if idle else "passive"


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("OMP_WAIT_POLICY", _wait_policy())  # before torch loads OpenMP
    app()
