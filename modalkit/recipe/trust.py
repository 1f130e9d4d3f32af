"""What a recipe may run and contact: the one place that decides.

A recipe can name code: plugin files, and networks as ``file.py:Name`` or ``package.module:Name``. It can name a dataset
at a URL. Both are data until the user allows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modalkit.errors import InputError
from modalkit.plugin import CustomNetwork
from modalkit.recipe import allowed
from modalkit.recipe.yaml import Document, Place, Problem
from modalkit.util.explain import Key
from modalkit.util.remote import is_url

if TYPE_CHECKING:
    from modalkit.recipe.sections import Recipe

_MOST_SHOWN = 4
"""How many pieces of code a message names."""


@dataclass(frozen=True)
class Trust:
    """What the user has allowed.

    Attributes:
        given: the user said ``--trust`` or ``trust=True``.
        own: the user named this recipe file to train it, so files in its folder or below may run.
        code: code that may run already, as `names` returns it.
    """

    given: bool = False
    own: bool = False
    code: frozenset[str] = frozenset()


class NotTrustedError(InputError):
    """A recipe names code that may not run."""


class Code(NamedTuple):
    """Code that a recipe names.

    Attributes:
        place: the line that names it.
        key: its key in the recipe.
        text: a plugin file; ``file.py:Name``; or ``package.module:Name``. Paths are absolute.
        folder: the folder of the recipe file that names it.
    """

    place: Place
    key: Key
    text: str
    folder: Path

    @property
    def file(self) -> Path | None:
        """The file that would run, without symbolic links; None if Python looks for a module."""
        where = self.text if self.key[0] == "plugins" else self.text.rpartition(":")[0]
        return (self.folder / where).resolve() if self.key[0] == "plugins" or where.endswith(".py") else None

    def is_below(self, folder: Path) -> bool:
        """Tell whether it is a file in a folder or below."""
        return self.file is not None and self.file.is_relative_to(folder.resolve())

    def __str__(self) -> str:
        return str(Problem(self.place, self.key, _shown(self.text)))


def code_of(document: Document, path: Path, typed: Document | None = None) -> list[Code]:
    """Return the code that a recipe names, whether it exists or not.

    Every ``encoder`` and ``decoder`` in ``modalities`` that could be a reference counts, because templates and
    inherited entries are merged later.

    Args:
        document: the recipe.
        path: its file.
        typed: the recipe before overrides; what only the overrides name is left out, because the user typed it.
    """
    found = list(_named(document))
    before = {(key, text) for key, text in _named(typed)} if typed else None
    code = []
    for key, text in found:
        place = document.place(key)
        folder = Path(place.source).parent if place.line else path.parent
        if before is None or place.line or (key, text) in before:
            code.append(Code(place, key, text, folder.resolve()))
    return code


def _named(document: Document) -> Iterator[tuple[Key, str]]:
    plugins = document.value.get("plugins")
    for index, file in enumerate(plugins if isinstance(plugins, list) else ()):
        if isinstance(file, str):
            yield ("plugins", index), file
    yield from _references(document.value.get("modalities"), ("modalities",))


def _references(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if name in ("encoder", "decoder") and isinstance(item, str) and ":" in item:
            yield (*key, name), item
        else:
            yield from _references(item, (*key, name))


def check(path: Path, stated: Document, document: Document, trust: Trust) -> list[Code]:
    """Return the code that a recipe names, all of which may run.

    Args:
        path: the recipe's file.
        stated: the recipe as its files say it.
        document: the same after overrides, which the user typed.
        trust: what the user has allowed.

    Raises:
        InputError: code lies outside of its recipe's folder, or the user has not allowed it. Nothing was run.
    """
    everything = code_of(document, path)
    if not everything:
        return []
    digest, contents = digest_of(path, stated)
    if allowed.has(digest):
        return everything
    asked = code_of(document, path, typed=stated)
    for one in asked:
        home = path.parent.resolve() if path.name == "recipe.yaml" else one.folder  # a run's code is in the run
        if one.file is not None and not one.is_below(home) and one.text not in trust.code:
            raise NotTrustedError(
                f"{one} is outside of the recipe's folder {home}, so it is not run; move it there, or install it as a "
                f"package (to open a run of your own: repeat the command that trained it, which changes nothing else)"
            )
    below = path.parent if trust.own else None
    waiting = [one for one in asked if one.text not in trust.code and not (below and one.is_below(below))]
    if waiting and not trust.given:
        raise _not_allowed(path, waiting)
    if asked and (trust.given or trust.own):
        allowed.add(digest, path, contents)
    return everything


def _not_allowed(path: Path, waiting: Sequence[Code]) -> NotTrustedError:
    first, *others = waiting
    if first.file is not None and not first.file.is_file():
        return NotTrustedError(f"{first}: no such file")
    more = ", ".join(str(one) for one in others[: _MOST_SHOWN - 1])
    more += f" and {len(others) - _MOST_SHOWN + 1} more" if len(others) >= _MOST_SHOWN else ""
    changed = "it or the recipe has changed since you allowed it; " if allowed.knows(path) else ""
    return NotTrustedError(
        f"{first} is code, and it was not run{f' (the same for {more})' if more else ''}; {changed}read it, and add "
        f"--trust if it may run (trust=True in Python)"
    )


def remember(path: Path, document: Document) -> None:
    """Record that the code of a recipe may run, and its URL be contacted, because this process was allowed to.

    Args:
        path: the recipe's file.
        document: its content.
    """
    data = document.value.get("data")
    if isinstance(data, dict) and is_url(url := str(data.get("path"))):
        allowed.add_url(_digest_of_url(url), url)
    if code_of(document, path):
        digest, contents = digest_of(path, document)
        allowed.add(digest, path, contents)


def digest_of(path: Path, document: Document) -> tuple[str, dict[str, str]]:
    """Return the digest of a recipe's code and of the sections that say how it is used, and that of each file.

    Args:
        path: the recipe's file.
        document: the recipe as its files say it.
    """
    whole = document.value
    train, data = (part if isinstance(part := whole.get(name), dict) else {} for name in ("train", "data"))
    used = [whole.get(name) for name in ("plugins", "modalities", "objective")]
    used += [data.get("build"), train.get("schedule"), train.get("beta_schedule")]
    contents = {one.text: allowed.content(one.file, one.text) for one in code_of(document, path)}
    return allowed.digest([used, contents]), contents


def names(recipe: Recipe) -> frozenset[str]:
    """Return the code that a recipe in memory names, which has been loaded with it."""
    networks = (getattr(schema, "network", None) for schema in recipe.modalities.values())
    custom = [network for network in networks if isinstance(network, CustomNetwork)]
    references = [text for network in custom for text in (network.encoder, network.decoder)]
    return frozenset([*map(str, recipe.plugins), *references])


def is_typed(url: str, overrides: Sequence[str]) -> bool:
    """Tell whether the user typed the URL of a dataset in an override.

    >>> is_typed("s3://bucket/faces", ["data.path=s3://bucket/faces/"])
    True
    """
    return any(text.partition("=")[0].strip() in ("data", "data.path") and url in text for text in overrides)


def may_contact(path: Path | str, *, trusted: bool) -> bool:
    """Tell whether a dataset may be opened: it is in a folder, or the user allowed its URL now, or trained from it."""
    return trusted or not is_url(path) or allowed.has(_digest_of_url(str(path)))


def _digest_of_url(url: str) -> str:
    return allowed.digest(["url", url])


def data_path(recipe: Recipe, *, trusted: bool, instead: str = "") -> Path | str:
    """Return where a recipe's dataset is, unless that is a URL which the user has not allowed to contact.

    Args:
        recipe: names the dataset.
        trusted: whether the user said ``--trust`` or ``trust=True``.
        instead: how else the user can name the dataset, such as ``--data URL``.

    Raises:
        InputError: it is a URL, `trusted` is False, and the user has never trained from it here. Nothing was contacted.
    """
    path = recipe.data.path
    if not may_contact(path, trusted=trusted):
        raise InputError(
            f"data.path: {_shown(str(path))} is a URL that the recipe names, and it was not contacted; add --trust "
            f"(trust=True in Python){f', or name the dataset yourself: {instead}' if instead else ''}"
        )
    return path


def check_resumed(recipe: Recipe, trust: Trust, overrides: Sequence[str]) -> None:
    """Check that a run's recipe may get its dataset as it says: from a URL, or by building it.

    Args:
        recipe: the run's.
        trust: what the user has allowed.
        overrides: what the user typed.

    Raises:
        InputError: it may not. Nothing was contacted or built.
    """
    if trust.given or trust.own:
        return
    data_path(recipe, trusted=is_typed(str(recipe.data.path), overrides), instead="--set data.path=URL")
    if recipe.data.build and not is_url(recipe.data.path) and not Path(recipe.data.path, "manifest.json").exists():
        builders = ", ".join(dict.fromkeys(step.builder for step in recipe.data.build))
        raise InputError(
            f"data.build: {recipe.data.path} does not exist, and this run's recipe would build it ({builders}); read "
            f"the steps in recipe.yaml, and add --trust if they may run"
        )


def _shown(text: str) -> str:
    """Return a text of a recipe without characters that could change what a terminal shows."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
