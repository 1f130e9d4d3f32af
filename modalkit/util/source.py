"""What the source of a module states, read without importing the module."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path


def stated_summary(module: str, name: str) -> str:
    """Return the summary that a module's source gives to the object `name`.

    That is the text of ``summary=`` in ``name = Something(..., summary="...")``.

    Args:
        module: its full name, such as ``package.room.module``.
        name: a name that the module assigns to.

    Returns:
        The summary; the empty string if the source does not state it in this form, or cannot be read.

    Example:
        >>> stated_summary("modalkit.objectives.cvae", "CVAE")
        'one modality conditioned on another, in that direction only (Sohn et al. 2015)'
    """
    try:
        body = ast.parse(_file(module).read_bytes()).body
    except (OSError, SyntaxError, ValueError, ImportError):
        return ""
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Call) and any(isinstance(one, ast.Name) and one.id == name for one in targets):
            for keyword in value.keywords:
                if keyword.arg == "summary" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return ""


def _file(module: str) -> Path:
    """Return the file of a module's source. `find_spec` of a whole name would import the packages above the module."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package '{top}'")
    return Path(next(iter(spec.submodule_search_locations)), *rest).with_suffix(".py")
