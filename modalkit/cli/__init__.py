"""The command line. Each command is a few lines over the library."""

from modalkit.cli.app import app, main

__all__ = ["app", "main"]
