"""Changes to a recipe's document: another document laid over it, or one value replaced by an override."""

from __future__ import annotations

from typing import Any

from modalkit import registry
from modalkit.errors import InputError
from modalkit.recipe.plugged import DEFAULT_OBJECTIVE, objective_options
from modalkit.recipe.yaml import MAX_DEPTH, Document, Place, Problem, dump, is_text, keys_in, parse
from modalkit.util.explain import Key


def merged(base: Document, over: Document) -> Document:
    """Lay one document over another: mappings key by key; everything else is replaced.

    A null in `over` removes what `base` has there, except at the top level. ``plugins`` add up: the modalities
    that `base` brings need theirs. If `over` names another objective, options of the base's objective that the other
    does not have are left out.
    """
    result = Document(None, dict(base.places), base.problems + over.problems)

    def lay(key: Key, old: Any, new: Any) -> Any:
        if isinstance(old, dict) and isinstance(new, dict):
            both = dict(old)
            for name in _options_lost(old, new) if key == ("objective",) else ():
                result.forget((*key, name), both.pop(name))
            for name, item in new.items():
                here = (*key, name)
                if item is None and name in old and key:
                    result.forget(here, both.pop(name))
                else:
                    both[name] = lay(here, old.get(name), item)
            result.places[key] = over.places[key]
            return both
        if key == ("plugins",) and isinstance(old, list) and isinstance(new, list):
            added = [(over.places[(*key, i)], item) for i, item in enumerate(new) if item not in old]
            result.places |= {(*key, len(old) + i): place for i, (place, _) in enumerate(added)}
            return old + [item for _, item in added]
        result.forget(key, old)
        result.places |= {k: over.places[k] for k in keys_in(new, key) if k in over.places}
        return new

    result.value = lay((), base.value, over.value)
    return result


def _options_lost(old: dict[Any, Any], new: dict[Any, Any]) -> list[Any]:
    """Return the options of an inherited ``objective:`` section that its objective has, but not the new one."""
    before, now = (str(section.get("name", DEFAULT_OBJECTIVE)) for section in (old, new))
    if "name" not in new or before == now:
        return []
    try:
        known, kept = (
            registry.stated(registry.OBJECTIVES, name) or objective_options(name).model_fields for name in (before, now)
        )
    except InputError:  # it may be in a plugin that is not loaded yet
        return []
    return [name for name in old if name in known and name not in kept]


def override(document: Document, text: str) -> None:
    """Change a document as ``a.b=value`` says, the value being YAML; a null removes what stands there.

    What is wrong with the override is noted in ``document.problems``.
    """
    place = Place(f"--set {text}")
    name, equals, raw = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts) or not is_text(name) or len(parts) > MAX_DEPTH:
        document.problems.append(Problem(place, (), "should be written as key=value, such as train.epochs=5"))
        return
    if not raw.strip():
        document.problems.append(Problem(place, tuple(parts), "has no value; write null to remove what stands there"))
        return
    new = parse(raw, place)
    inside, key = document.value, Key()
    for index, part in enumerate(parts):
        step = _step(inside, part)
        if step is None:
            text = f"'{'.'.join(map(str, key))}' is {_shape(inside)}; set the whole of it"
            document.problems.append(Problem(place, (*key, part), text))
            return
        key = (*key, step)
        if index < len(parts) - 1:
            if isinstance(inside, dict) and step not in inside:
                inside[step] = {}
                document.places[key] = place
            inside = inside[step]
    document.forget(key, inside.get(step) if isinstance(inside, dict) else inside[step])
    document.problems += [problem._replace(key=key + problem.key) for problem in new.problems]
    if new.value is None and not new.problems and isinstance(inside, dict) and step in inside and len(key) > 1:
        del inside[step]
        return
    inside[step] = new.value
    document.places |= {key + k: p for k, p in new.places.items()}


def _step(inside: Any, part: str) -> str | int | None:
    """Return the key or index that `part` names in a mapping or list, or None if there can be no such."""
    if isinstance(inside, list):
        return next((index for index in range(len(inside)) if str(index) == part), None)
    return part if isinstance(inside, dict) else None


def _shape(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{dump(value).splitlines()[0]}, not a mapping"
