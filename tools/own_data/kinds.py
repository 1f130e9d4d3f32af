"""Which kind fits data that nobody described, by what the installed kinds propose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalkit import registry
from modalkit.plugin import Column, Columns, Proposal

if TYPE_CHECKING:
    from modalkit.data import Array


def columns_of(kind: str) -> Columns:
    """Return how a kind takes a table's columns; raise `InputError` if there is no such kind."""
    return registry.modality(kind).columns


def together(kind: str) -> str | None:
    """Return a kind that takes several columns of which `kind` takes each one alone, if there is one."""
    plugins = (found.plugin for found in registry.provided(registry.KINDS) if found.plugin is not None)
    return next((p.kind for p in plugins if p.columns.alone == kind and p.columns.several), None)


@dataclass(frozen=True)
class Proposals:
    """The installed kinds that propose themselves, in the order in which builders ask them."""

    kinds: tuple[tuple[str, Proposal], ...]

    @classmethod
    def installed(cls) -> Proposals:
        """Return those of all kinds that can be loaded."""
        plugins = [found.plugin for found in registry.provided(registry.KINDS) if found.plugin is not None]
        found = [(plugin.kind, plugin.proposal) for plugin in plugins if plugin.proposal is not None]
        return cls(tuple(sorted(found, key=lambda one: (one[1].order, one[0]))))

    def for_columns(self, columns: Sequence[Column]) -> str | None:
        """Return the kind that a table's columns look like."""
        return next((kind for kind, proposal in self.kinds if proposal.columns(columns)), None)

    def for_array(self, array: Array) -> dict[str, Any] | None:
        """Return a recipe's entry for what an array `(rows, ...)` looks like."""
        return self._entry(lambda proposal: proposal.array(array))

    def for_texts(self, texts: Sequence[str]) -> dict[str, Any] | None:
        """Return a recipe's entry for what the contents of text files look like."""
        return self._entry(lambda proposal: proposal.texts(texts))

    def _entry(self, ask: Callable[[Proposal], dict[str, Any] | None]) -> dict[str, Any] | None:
        asked = ((kind, ask(proposal)) for kind, proposal in self.kinds)
        return next(({"kind": kind, **fields} for kind, fields in asked if fields is not None), None)
