"""What the source of a module states, read without importing the module."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_CONTRACT = "modalkit.plugin"


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
    stated = _argument(_body(module), name, "summary")
    return str(stated.value) if isinstance(stated, ast.Constant) else ""


def stated_fields(module: str, name: str, argument: str) -> dict[str, bool] | None:
    """Return the fields of the pydantic class that a module's source gives to the object `name`.

    That is the class of ``argument=`` in ``name = Something(..., argument=Class)``. Its bases are followed through the
    source of other modules.

    Args:
        module: its full name, such as ``package.room.module``.
        name: a name that the module assigns to.
        argument: the keyword of the class.

    Returns:
        Whether each field must be given; None if the source does not state the class in this form, or cannot be read.

    Example:
        >>> fields = stated_fields("modalkit_modalities.image", "MODALITY", "schema")
        >>> fields["size"], fields["channels"]
        (True, False)
    """
    stated = _argument(_body(module), name, argument)
    return _fields(module, stated.id) if isinstance(stated, ast.Name) else None


def _argument(body: Sequence[ast.stmt], name: str, keyword: str) -> ast.expr | None:
    """Return what stands for a keyword in the call whose value the object `name` gets, if anything does."""
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Call) and any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return next((one.value for one in value.keywords if one.arg == keyword), None)
    return None


def _fields(module: str, name: str) -> dict[str, bool] | None:
    """Return whether each field of a class must be given, as the source of its module and of its bases says."""
    if module == _CONTRACT:  # it imports nothing slow
        return {key: field.is_required() for key, field in getattr(import_module(module), name).model_fields.items()}
    body = _body(module)
    for statement in body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            found: dict[str, bool] = {}
            for base in statement.bases:
                inherited = _fields(module, base.id) if isinstance(base, ast.Name) else None
                if inherited is None:
                    return None
                found |= inherited
            for own in statement.body:
                if isinstance(own, ast.AnnAssign) and isinstance(own.target, ast.Name):
                    found[own.target.id] = _must_be_given(own.value)
                    if ast.unparse(own.annotation).startswith("ClassVar") or own.target.id.startswith("_"):
                        del found[own.target.id]
            return found
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            for one in statement.names:
                if (one.asname or one.name) == name:
                    above = module.split(".")[: -statement.level] if statement.level else []  # of a relative import
                    return _fields(".".join([*above, statement.module or ""]), one.name)
    return None


def _must_be_given(default: ast.expr | None) -> bool:
    """Tell whether a field with this after its equals sign has no default."""
    if isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id == "Field":
        return not default.args and not {one.arg for one in default.keywords} & {"default", "default_factory"}
    return default is None


def _body(module: str) -> Sequence[ast.stmt]:
    """Return the statements of a module's source; none if it cannot be read."""
    try:
        return ast.parse(_file(module).read_bytes()).body
    except (OSError, SyntaxError, ValueError, ImportError):
        return ()


def _file(module: str) -> Path:
    """Return the file of a module's source. `find_spec` of a whole name would import the packages above the module."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package '{top}'")
    return Path(next(iter(spec.submodule_search_locations)), *rest).with_suffix(".py")
