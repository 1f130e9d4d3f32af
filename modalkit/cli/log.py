"""How the command line shows log records and progress bars.

The library logs to the loggers ``modalkit``, ``modalkit_modalities`` and ``modalkit_tools`` and configures none of
them. The command line shows their records on standard error: messages by default, only warnings and errors with
``--quiet`` (and no progress bars), debug records too with ``--verbose``.

A program that uses the library sees progress bars and no messages until it configures `logging` itself; Python prints
warnings in any case. For example:

- ``logging.basicConfig(level=logging.INFO)`` shows the messages;
- ``logging.getLogger("modalkit").setLevel(logging.ERROR)`` hides the warnings;
- ``modalkit.util.progress.show_bars(False)`` hides the bars.
"""

from __future__ import annotations

import logging
import sys

import typer

LOGGERS = ("modalkit", "modalkit_modalities", "modalkit_tools")
"""Every logger of the project is one of these or below one."""


class _BesideBars(logging.Handler):
    """Writes records to standard error without breaking a progress bar on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # only now: most commands write nothing

        tqdm.write(self.format(record), file=sys.stderr)


class _Plain(logging.Formatter):
    """A message as it is; a warning or an error says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + super().format(record)


_DETAILED = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Choose what is shown on standard error. A later call replaces an earlier one.

    Args:
        quiet: warnings and errors only, no progress bars.
        verbose: debug records too, each with time, level and logger.

    Raises:
        typer.BadParameter: both are asked for.
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for handler in logger.handlers[:]:
            if isinstance(handler, _BesideBars):
                logger.removeHandler(handler)
        handler = _BesideBars()
        handler.setFormatter(_DETAILED if verbose else _Plain())
        logger.addHandler(handler)
    from modalkit.util.progress import show_bars

    show_bars(not quiet)
