"""A page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

import modalkit
from modalkit.pictures import Cell

_PIXELATED = 64
"""Pictures of at most this width and height are enlarged without smoothing."""

_SHOWN = 8
"""How many of many charts are visible before the reader unfolds the rest."""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        lead: what a reader must know to read it.
        parts: its content, made by the functions below.
    """

    title: str
    lead: str
    parts: Sequence[Markup]

    @property
    def anchor(self) -> str:
        """The name that links to it use."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class TableCell:
    """A cell of a table that stands out.

    Attributes:
        text: its content.
        look: its CSS class; empty for none.
        shade: how deep its colour is, from 0 to 1; None for no colour.
        second: its second line, in small print.
        hint: what appears when the pointer rests on it.
    """

    text: str
    look: str
    shade: float | None = None
    second: str = ""
    hint: str = ""


def table(caption: str, head: Sequence[str], lines: Iterable[Sequence[object]], *, kind: str = "") -> Markup:
    """Return a table; the first cell of each line is its heading.

    Args:
        caption: what it shows.
        head: a title for each column, or none.
        lines: the cells: text, markup, or what `heat` and `best` return.
        kind: its CSS class: ``pictures``, ``figures`` (numbers to the right), or empty.
    """
    return _macro("table", caption, head, [list(line) for line in lines], kind)


def heat(text: str, share: float) -> TableCell:
    """Return a cell of a table, shaded by a number from -1 to 1."""
    return TableCell(text, "below" if share < 0 else "above", min(1.0, abs(share)))


def best(text: str) -> TableCell:
    """Return a cell of a table that is the best of its line."""
    return TableCell(text, "best")


def figure(graphic: Markup, caption: str = "", *, whole: bool = False) -> Markup:
    """Return a chart with its caption.

    Args:
        graphic: the chart.
        caption: what it shows, where the chart does not say so itself.
        whole: whether it is as wide as the page.
    """
    return _macro("figure", graphic, caption, whole)


def grid(figures: Iterable[Markup]) -> Markup:
    """Lay figures out side by side, as many as there is room for."""
    return _macro("group", list(figures), "grid")


def many(figures: Sequence[Markup]) -> list[Markup]:
    """Lay figures out side by side, and fold away those beyond the first few."""
    shown, rest = grid(figures[:_SHOWN]), figures[_SHOWN:]
    return [shown, _macro("details", f"{len(rest)} more", grid(rest))] if rest else [shown]


def side_by_side(tables: Iterable[Markup]) -> Markup:
    """Lay tables out side by side where there is room."""
    return _macro("group", list(tables), "side")


def subheading(title: str, text: str) -> Markup:
    """Return a heading within a section, and a sentence below it."""
    return _macro("subheading", title, text)


def note(text: str) -> Markup:
    """Return a remark, such as what is left out."""
    return _macro("note", text)


def code(text: str) -> Markup:
    """Return a text as it would stand in a terminal or a file."""
    return _macro("code", text)


def folded(title: str, text: str) -> Markup:
    """Return a longer text that a reader can unfold."""
    return _macro("details", title, code(text))


def cell(content: Cell, alt: str) -> Markup:
    """Return a value as the user sees it: a picture, a text, or the word that it is absent.

    Args:
        content: the value; None if it is absent.
        alt: what a picture shows, in words.
    """
    if content is None:
        return _macro("text", "absent", "absent")
    if isinstance(content, str) and not content.strip():
        return _macro("text", "empty", "absent")
    if isinstance(content, str):
        return _macro("text", content, "said")
    picture, file = Image.fromarray(np.ascontiguousarray(content)), io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    look = "small" if max(picture.size) <= _PIXELATED else ""
    return _macro("picture", base64.b64encode(file.getvalue()).decode(), *picture.size, alt, look)


def render(title: str, lead: str, facts: Iterable[tuple[str, str]], sections: Sequence[Section], command: str) -> str:
    """Return a whole page as HTML.

    Args:
        title: of the page.
        lead: one sentence below it.
        facts: names and values, in short.
        sections: in order.
        command: the command that makes this page again.
    """
    return _template("page.html").render(
        title=title,
        lead=lead,
        facts=facts,
        sections=sections,
        command=command,
        style=Markup((files("modalkit.report") / "page.css").read_text()),
        version=modalkit.__version__,
    )


@cache
def _template(name: str) -> jinja2.Template:
    """Return one of the templates beside this file."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("modalkit.report") / name).read_text())


def _macro(name: str, *arguments: Any) -> Markup:
    """Return the HTML that a macro of ``macros.html`` makes."""
    made: Markup = getattr(_template("macros.html").module, name)(*arguments)
    return made
