"""The command line: each command a few lines over the library."""

from modalkit.cli.app import app, main

__all__ = ["app", "main"]
