"""How the command line shows what the library logs: a line each on standard error, never through a progress bar."""

from __future__ import annotations

import logging
import sys

ROOMS = ("modalkit", "modalkit_modalities", "modalkit_tools")
"""Names of the loggers above all of the project's own."""


class _BesideBars(logging.Handler):
    """Writes records to standard error without breaking a bar that is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # only now: most commands write nothing

        tqdm.write(self.format(record), file=sys.stderr)


def configure(level: int = logging.INFO) -> None:
    """Show what is logged at `level` and above, once, however often this is called."""
    for name in ROOMS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, _BesideBars) for handler in logger.handlers):
            logger.addHandler(_BesideBars())
