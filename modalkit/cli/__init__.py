"""The command line. Each command is a few lines over the library."""

import sys

try:
    from modalkit.cli.app import app, main
except KeyboardInterrupt:  # Ctrl-C while Python loads the command line
    sys.stderr.write("stopped\n")
    sys.exit(130)

__all__ = ["app", "main"]
