"""A page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

import modalkit
from modalkit.pictures import Cell

_log = logging.getLogger(__name__)

_PIXELATED = 64
"""Pictures up to this many pixels are shown as they are, without smoothing."""

_SHOWN = 8
"""Of many charts so many are open."""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        lead: what a reader must know to read it.
        parts: what stands in it.
    """

    title: str
    lead: str
    parts: Sequence[Markup]

    @property
    def anchor(self) -> str:
        """What links name it by."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def table(caption: str, head: Sequence[str], lines: Iterable[Sequence[object]], *, kind: str = "") -> Markup:
    """Return a table; the first cell of each line is its heading.

    Args:
        caption: what it shows.
        head: a title for each column, or none.
        lines: cells, as text or markup; one made by `heat` carries its own ``<td>``.
        kind: its class: ``pictures``, ``figures`` (numbers to the right), or empty.
    """
    top = Markup("").join(Markup('<th scope="col">{}</th>').format(title) for title in head)
    body = Markup("")
    for first, *rest in lines:
        cells = Markup("").join(
            cell if isinstance(cell, Markup) and cell.startswith("<td") else Markup("<td>{}</td>").format(cell)
            for cell in rest
        )
        body += Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(first, cells)
    return Markup(
        '<div class="wide" tabindex="0" role="group" aria-label="{}"><table class="{}">'
        "<caption><span>{}</span></caption>{}<tbody>{}</tbody></table></div>"
    ).format(caption, kind, caption, Markup("<thead><tr>{}</tr></thead>").format(top) if head else "", body)


def heat(text: str, share: float) -> Markup:
    """Return a cell of a table, shaded by a number from -1 to 1."""
    sign = "below" if share < 0 else "above"
    return Markup('<td class="{}" style="--v:{:.3f}">{}</td>').format(sign, min(1.0, abs(share)), text)


def figure(graphic: Markup, caption: str = "", *, whole: bool = False) -> Markup:
    """Return a chart, with what it shows where it does not say so itself; as wide as the page where it needs to be."""
    said = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    graphic = Markup('<div class="scroll" tabindex="0">{}</div>').format(graphic) if whole else graphic
    return Markup('<figure class="{}">{}{}</figure>').format("whole" if whole else "", graphic, said)


def grid(figures: Iterable[Markup]) -> Markup:
    """Lay figures out side by side, as many as there is room for."""
    return Markup('<div class="grid">{}</div>').format(Markup("").join(figures))


def many(figures: Sequence[Markup]) -> list[Markup]:
    """Lay figures out side by side, and fold away those beyond the first few."""
    shown, rest = grid(figures[:_SHOWN]), figures[_SHOWN:]
    if not rest:
        return [shown]
    return [shown, Markup("<details><summary>{} more</summary>{}</details>").format(len(rest), grid(rest))]


def side_by_side(tables: Iterable[Markup]) -> Markup:
    """Lay tables out side by side where there is room."""
    return Markup('<div class="side">{}</div>').format(Markup("").join(tables))


def note(text: str) -> Markup:
    """Return a remark, such as what is left out."""
    return Markup('<p class="note">{}</p>').format(text)


def folded(title: str, text: str) -> Markup:
    """Return a longer text that a reader can open."""
    return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(title, text)


def cell(content: Cell, alt: str) -> Markup:
    """Return a value as a person sees it: a picture, a text, or that it is absent."""
    if content is None:
        return Markup('<span class="absent">absent</span>')
    if isinstance(content, str) and not content.strip():
        return Markup('<span class="absent">empty</span>')
    if isinstance(content, str):
        return Markup('<span class="said">{}</span>').format(content)
    picture, file = Image.fromarray(np.ascontiguousarray(content)), io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    small = "small" if max(picture.size) <= _PIXELATED else ""
    data = base64.b64encode(file.getvalue()).decode()
    return Markup('<img class="{}" width="{}" height="{}" alt="{}" src="data:image/png;base64,{}">').format(
        small, *picture.size, alt, data
    )


def render(title: str, lead: str, facts: Iterable[tuple[str, str]], sections: Sequence[Section], command: str) -> str:
    """Return a whole page as HTML.

    Args:
        title: of the page.
        lead: one sentence below it.
        facts: names and values, in short.
        sections: in order.
        command: what makes this page again.
    """
    here = files("modalkit.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((here / "page.html").read_text()).render(
        title=title,
        lead=lead,
        facts=facts,
        sections=sections,
        command=command,
        style=Markup((here / "page.css").read_text()),
        version=modalkit.__version__,
    )
