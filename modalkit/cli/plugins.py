"""Commands for plugins and recipes: list, schema, validate, new-modality, new-objective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalkit.cli.options import Overrides, Plugins, Trust, add_plugins, find_recipe
from modalkit.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from modalkit.plugin import Settings
    from modalkit.recipe import Recipe

RECIPES = "recipes"
"""What `list` can list beside the groups of plugins."""

Out = Annotated[Path | None, typer.Option(help="The folder of the package; ./NAME by default.")]


def validate(
    recipe: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipe files or names of shipped recipes.")],
    overrides: Overrides = [],  # noqa: B006
    trust: Trust = False,
) -> None:
    """Check recipes without training. Errors are reported together, each with its file and line.

    The recipe's networks are built, so that those of plugins are checked: what they return must have the right shape.
    If its dataset exists, the recipe is compared with it too. A dataset at a URL is contacted only with --trust or
    --set data.path=URL.

    Example: modalkit validate mine.yaml
    """
    from modalkit import registry
    from modalkit.recipe import load_recipe
    from modalkit.recipe.trust import is_typed, may_contact
    from modalkit.util.remote import is_url
    from modalkit.util.text import listed

    for name in recipe:
        registry.forget_files()  # each recipe has its own plugins
        path, _ = find_recipe(name)
        loaded = load_recipe(path, overrides, trust=trust)
        _check_networks(path, loaded)
        data = loaded.data.path
        compared = f"fits {data}"
        if not may_contact(data, trusted=trust or is_typed(str(data), overrides)):
            compared = f"not compared with {data}, which is contacted only with --trust or --set data.path=URL"
        elif is_url(data) or Path(data, "manifest.json").exists():
            from modalkit.data import check_manifest

            check_manifest(data, loaded.modalities)
        else:
            compared = f"not compared with its dataset, since {data} does not exist"
        typer.echo(f"{path}: ok: {len(loaded.modalities)} modalities ({listed(loaded.modalities)}); {compared}")


def _check_networks(path: Path, recipe: Recipe) -> None:
    """Build a recipe's model, whose networks and likelihoods must then fit their modalities."""
    from modalkit.model import assemble

    try:
        assemble(recipe)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def schema() -> None:
    """Print the JSON Schema of recipes, which editors use to complete and check them.

    Example: modalkit schema > recipe.schema.json
    """
    from modalkit.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def new_modality(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new kind, such as wind-speed.")],
    out: Out = None,
) -> None:
    """Write a small package with a new modality kind. It works as it is; change it into your own.

    It holds the kind in one file, a test, a small dataset and a recipe. No file is overwritten.

    Example: modalkit new-modality wind-speed
    """
    from modalkit.scaffold.new_modality import new_modality as write

    _report_package(write(name, out or Path(name)), out or Path(name))


def new_objective(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new objective, such as leave-one-out.")],
    out: Out = None,
) -> None:
    """Write a small package with a new objective. It works as it is; change it into your own.

    It holds the objective in one file, a test and a recipe. No file is overwritten.

    Example: modalkit new-objective leave-one-out
    """
    from modalkit.scaffold.new_objective import new_objective as write

    _report_package(write(name, out or Path(name)), out or Path(name))


def _report_package(files: list[Path], folder: Path) -> None:
    for path in files:
        typer.echo(path)
    typer.echo(f'\nnext: cd {folder} && pip install -e ".[dev]" && pytest   (then see its README.md)')


def list_plugins(
    what: Annotated[
        str | None,
        typer.Argument(metavar="WHAT", help="kinds, objectives, builders, recipes or another group; default all."),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A plugin of that group: show its keys.")] = None,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List installed plugins and shipped recipes, one per line, with who provides them; or the keys of one plugin.

    Example: modalkit list kinds image
    """
    from modalkit import registry
    from modalkit.util.text import columns

    add_plugins(plugin)
    groups = registry.groups()
    if what is not None and what not in (*groups, RECIPES):
        known = [*groups, RECIPES]
        raise InputError(f"cannot list '{what}'{did_you_mean(what, known)}; known: {', '.join(known)}")
    if what and name:
        typer.echo(_keys(what, name))
        return
    for section in [what] if what else [*groups, RECIPES]:
        typer.echo(f"{section}:")
        lines = [(f"  {name}", f"{summary}  [{provider}]") for name, summary, provider in _listing(section)]
        if lines:
            typer.echo(columns(lines))


def _listing(what: str) -> list[tuple[str, str, str]]:
    """Return name, summary and provider of everything in a group."""
    from modalkit import registry

    if what == RECIPES:
        from modalkit.recipe import shipped

        return [(name, summary, str(path)) for name, (path, summary) in shipped().items()]
    return registry.described(registry.groups()[what])


def _keys(what: str, name: str) -> str:
    """Return one plugin's summary and its keys."""
    from modalkit import registry

    if what == RECIPES:
        raise InputError(
            "a recipe has no keys of its own; check one with `modalkit validate`; docs/recipes.md explains all keys"
        )
    plugin = registry.get(registry.groups()[what], name)
    settings = getattr(plugin, "schema", None) or getattr(plugin, "options", None)
    return f"{name}: {plugin.summary}\n{keys(settings) if settings else '  (has no keys)'}"


def keys(model: type[Settings]) -> str:
    """Return the keys of a schema or of options: for each its type, its default and its description."""
    whole = model.model_json_schema()
    lines = []
    for name, part in whole["properties"].items():
        default = "required" if name in whole.get("required", []) else f"default {json.dumps(part.get('default'))}"
        lines.append(f"  {name}: {_type(part, whole.get('$defs', {}))}; {default}\n      {part.get('description', '')}")
    return "\n".join(lines)


def _type(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return a JSON Schema in a few words."""
    if "$ref" in part:
        target = definitions[part["$ref"].split("/")[-1]]
        return f"{{{', '.join(target.get('properties', {}))}}}"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in part:
            return " or ".join(dict.fromkeys(_type(one, definitions) for one in part[alternatives]))
    if "const" in part or "enum" in part:
        return " | ".join(json.dumps(one) for one in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        inside = part.get("items") or {}
        return f"list of {_type(inside, definitions)}" if inside else f"list of {part.get('maxItems', 'any')}"
    return str(part.get("type", "any"))
