"""The parts of a recipe that plugins define: each is validated by the settings of the plugin that it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, create_model, model_serializer
from pydantic_core import InitErrorDetails, PydanticCustomError, to_json

from modalkit import registry
from modalkit.errors import InputError, guard
from modalkit.plugin import CustomNetwork, ObjectiveOptions, Settings
from modalkit.util.explain import Key, unknown_key

DEFAULT_OBJECTIVE: str = ObjectiveOptions.model_fields["name"].default


def invalid(key: Key, message: str, *, kind: str = "said") -> ValidationError:
    """Return an error at `key` whose message is shown to the user as it is."""
    return ValidationError.from_exception_data("recipe", [_detail(key, message, kind)])


def _detail(key: Key, message: str, kind: str = "said") -> InitErrorDetails:
    error = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=error, loc=key, input=None)


LATER = "later"
"""Type of the error that says that a part of a recipe has to be checked again, with its plugin."""


def validated(
    entry: Any, info: ValidationInfo, group: str, tag: str, settings_of: Callable[[str], type[Settings]]
) -> Any:
    """Validate a mapping by the settings of the plugin of `group` that its `tag` names.

    It is validated as JSON, so that a list becomes a tuple and a text a path; otherwise strictly, so that a number is
    not accepted as a text. If the context says that torch is not to be imported, the plugin's name and the names of its
    settings are checked, and an error of the type `LATER` is among those that are raised.
    """
    context = info.context or {}
    if isinstance(entry, Settings):
        return entry
    if not isinstance(entry, dict):
        raise PydanticCustomError("mapping_type", "should be a mapping")
    if tag not in entry:
        raise invalid((tag,), "is missing", kind="absent")
    if not isinstance(entry[tag], str):
        raise invalid((tag,), "should be a text")
    try:
        if context.get("quick") and not registry.is_quick(group, entry[tag]):
            raise _seen_quickly(entry, group, tag, announces=context["code"])
        return settings_of(entry[tag]).model_validate_json(to_json(entry), strict=True, context=context)
    except ValidationError:
        raise
    except InputError as error:
        raise invalid((tag,), str(error), kind="plugin") from None
    except Exception as error:  # a plugin's validator may raise anything
        raise invalid((), f"{tag} '{entry[tag]}' raised {type(error).__name__}: {error}") from error


def _seen_quickly(entry: dict[str, Any], group: str, tag: str, *, announces: bool) -> ValidationError:
    """Return what can be said about the settings of a plugin without importing it.

    Args:
        entry: the settings, with the plugin's name at `tag`.
        group: of the plugin.
        tag: the key of its name.
        announces: whether the recipe's code may announce plugins that are not known yet.

    Raises:
        InputError: there is no such plugin.
    """
    if not announces:
        registry.require(group, entry[tag])
    found = [_detail((), "", LATER)]
    if (fields := registry.stated(group, entry[tag])) is not None:
        found += [_detail((key,), "is missing", "absent") for key in fields if fields[key] and key not in entry]
        found += [_detail((key,), unknown_key(key, fields)) for key in entry if key not in fields]
    return ValidationError.from_exception_data("recipe", found)


def kind_schema(kind: str) -> type[Settings]:
    """Return the schema class of a modality of this kind."""
    schema: type[Settings] = registry.modality(kind).schema
    return schema


def validated_schema(entry: Any, info: ValidationInfo) -> Any:
    """Validate a modality's entry; equal entries of a recipe share one schema."""
    checked: dict[bytes, Any] | None = (info.context or {}).get("schemas")
    if checked is None:
        return _checked_schema(entry, info)
    text = to_json(entry)
    if text not in checked:
        checked[text] = _checked_schema(entry, info)
    return checked[text]


def _checked_schema(entry: Any, info: ValidationInfo) -> Any:
    found = validated(entry, info, registry.KINDS, "kind", kind_schema)
    network = getattr(found, "network", None)
    try:
        with guard(f"kind '{found.kind}': its event_shape or facts"):
            found.facts()
        for reference in (network.encoder, network.decoder) if isinstance(network, CustomNetwork) else ():
            if not (info.context or {}).get("code", True):  # the check of trust saw no code
                raise InputError("a network of your own stands where the recipe cannot name one")
            registry.import_object(reference)
    except InputError as error:
        raise invalid((), str(error)) from None
    return found


def objective_options(name: str) -> type[Settings]:
    """Return the settings class of an objective's section."""
    options: type[Settings] = registry.get(registry.OBJECTIVES, name).options
    return options


def validated_objective(entry: Any, info: ValidationInfo) -> Any:
    """Validate the ``objective:`` section; its name may be left out."""
    named = {"name": DEFAULT_OBJECTIVE} | entry if isinstance(entry, dict) else entry
    return validated(named, info, registry.OBJECTIVES, "name", objective_options)


def schedule_options(name: str) -> type[Settings]:
    """Return the settings class of a schedule."""
    options: type[Settings] = registry.get(registry.SCHEDULES, name).options
    return options


def validated_schedule(entry: Any, info: ValidationInfo) -> Any:
    """Validate a schedule, given as its name or as a mapping with its name and options."""
    named = {"name": entry} if isinstance(entry, str) else entry
    return validated(named, info, registry.SCHEDULES, "name", schedule_options)


class BuildStep(Settings):
    """One step towards a dataset; in a recipe the builder's options stand beside ``builder`` and ``out``.

    Attributes:
        builder: the builder's name.
        out: the folder to make; None for data.path.
        options: the builder's own options.
    """

    builder: str
    out: Path | None = None
    options: SerializeAsAny[Settings]

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"builder": self.builder, "out": self.out and str(self.out)} | self.options.model_dump(mode="json")


def step_settings(builder: str) -> type[Settings]:
    """Return the settings class of a build step: the builder's own options, its name, and the folder to make."""
    return _with_builder_and_out(registry.get(registry.BUILDERS, builder).options)


@cache  # creating a class is slow, and each class slows isinstance down
def _with_builder_and_out(options: type[Settings]) -> type[Settings]:
    return create_model(
        options.__name__,
        __base__=options,
        builder=(str, Field(description="Name of the builder (`modalkit list builders`).")),
        out=(Path | None, Field(None, description="The folder to make; the last step's default is data.path.")),
    )


def validated_step(entry: Any, info: ValidationInfo) -> Any:
    """Validate one step of ``data.build``."""
    checked = validated(entry, info, registry.BUILDERS, "builder", step_settings)
    if isinstance(checked, BuildStep):
        return checked
    options = registry.get(registry.BUILDERS, checked.builder).options
    own = {name: item for name, item in entry.items() if name not in ("builder", "out")}
    made = options.model_validate_json(to_json(own), strict=True, context=info.context)
    return BuildStep(builder=checked.builder, out=checked.out, options=made)
