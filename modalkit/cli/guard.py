"""What every command shares: errors become one message and an exit code, and `-q` and `-v` work after its name."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from modalkit.cli.log import configure
from modalkit.cli.options import Quiet, Verbose
from modalkit.errors import ModalkitError, is_out_of_memory

_SAVES_MEMORY = {
    "evaluate": "use fewer --particles",
    "translate": "use fewer --draws and --samples",
    "impute": "use fewer --draws",
    "sample": "use a smaller -n",
    "report": "use fewer --rows",
}
"""What makes a command need less memory, by the command's function."""


_OF_SYSTEM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""Errors of the operating system that say what is wrong in themselves: no rights, or a full disk."""


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that reports errors in one line and takes ``--quiet`` and ``--verbose``.

    An error that the user can correct ends with its message and exit code. Any other error is a fault of the program
    and keeps its traceback.

    Args:
        command: a function whose signature typer can read.
    """

    @functools.wraps(command)
    def run(*args: Any, quiet: bool = False, verbose: bool = False, **kwargs: Any) -> None:
        if quiet or verbose:
            configure(quiet=quiet, verbose=verbose)
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("stopped; run the same command again to resume", err=True)
            raise typer.Exit(128 + signal.SIGINT) from None
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            memory, system = is_out_of_memory(error), isinstance(error, OSError) and error.errno in _OF_SYSTEM
            if os.environ.get("MODALKIT_TRACEBACK") or not (memory or system or isinstance(error, ModalkitError)):
                raise
            if memory:
                less = _SAVES_MEMORY.get(command.__name__, "lower train.batch_size")
                message, code = f"out of memory; {less}, or use smaller networks ({error})", 1
            elif system:
                message, code = f"{error.filename or 'a file'}: {error.strerror}", 1  # type: ignore[attr-defined]
            else:
                message, code = str(error), error.exit_code  # type: ignore[attr-defined]  # a ModalkitError, see above
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(code) from None

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in {"quiet": Quiet, "verbose": Verbose}.items()
        if name not in signature.parameters  # a builder may have such an option of its own
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
