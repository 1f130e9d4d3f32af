"""The command that checks this machine: doctor."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check the installation and this machine: packages, plugins, devices, folders.

    Each line says ok, note or PROBLEM. A note is about something that only some tasks need. The exit code is 1 if there
    is a problem.

    Example: modalkit doctor
    """
    from modalkit.doctor import findings

    problems = 0
    for one in findings():
        state = one.state.upper() if one.state == "problem" else one.state
        typer.echo(f"{state:8} {one.about + ':':28} {one.text}")
        problems += one.state == "problem"
    if problems:
        typer.echo(f"{problems} problem{'s' if problems > 1 else ''}", err=True)
        raise typer.Exit(1)
